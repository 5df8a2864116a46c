"""Local periods as instants: section 2 of metering-cases.md and more of its kinds."""

from datetime import UTC, date, datetime
from time import thread_time
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from telemetry.calendar import (
    DAY_MS,
    HOUR_MS,
    QUARTER_MS,
    Period,
    Step,
    billing_period,
    day_start,
    edges,
    format_instant,
    month_start,
    parse_instant,
)

BERLIN = ZoneInfo("Europe/Berlin")
SAO_PAULO = ZoneInfo("America/Sao_Paulo")
LORD_HOWE = ZoneInfo("Australia/Lord_Howe")
ST_JOHNS = ZoneInfo("America/St_Johns")
ZONES = st.sampled_from(
    [
        ZoneInfo(name)
        for name in (
            "UTC",
            "Europe/Berlin",
            "Europe/London",
            "America/Sao_Paulo",
            "America/New_York",
            "America/St_Johns",
            "America/Havana",
            "America/Nuuk",
            "Africa/Casablanca",
            "Asia/Kathmandu",
            "Asia/Gaza",
            "Asia/Tehran",
            "Australia/Lord_Howe",
            "Pacific/Apia",
            "Pacific/Chatham",
        )
    ]
)
INSTANTS = st.integers(0, 2_200_000_000_000)


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)


def hours_of_day(zone: ZoneInfo, day: str) -> float:
    start = parse_instant(day, zone)
    found = edges(Step.DAY, zone, start, start + 1)
    assert found[0] == start
    return float(found[1] - found[0]) / HOUR_MS


# metering-cases.md, section 2: a constant 1 kW makes as many kWh as there are hours.
@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Berlin", "2024-03-31", 23),
        ("Europe/Berlin", "2024-10-27", 25),
        ("America/Sao_Paulo", "2018-11-04", 23),
        ("America/Sao_Paulo", "2018-02-17", 25),
        ("Australia/Lord_Howe", "2024-10-06", 23.5),
        ("Australia/Lord_Howe", "2024-04-07", 24.5),
        ("Asia/Kathmandu", "2024-03-31", 24),
        # More of the same kinds.
        ("Europe/Berlin", "2024-03-30", 24),
        ("America/New_York", "2023-03-12", 23),
        ("America/New_York", "2023-11-05", 25),
        ("Pacific/Chatham", "2024-09-29", 23),
        ("America/Havana", "2024-03-10", 23),  # no local 00:00
        ("America/Havana", "2024-11-03", 25),  # two local 00:00
        ("Asia/Kathmandu", "1986-01-01", 23.75),  # from +05:30 to +05:45
        ("America/St_Johns", "2010-11-06", 24),  # back from 00:01 of the 7th to 23:01 of the 6th
        ("America/St_Johns", "2010-11-07", 25),
        ("America/Toronto", "1919-03-30", 23.5),  # from 23:30 to 00:30
        ("America/Toronto", "1919-03-31", 23.5),
        ("Pacific/Apia", "2011-12-29", 24),  # the 30th does not exist
        ("Pacific/Apia", "2011-12-31", 24),
    ],
)
def test_day_has_its_hours(zone: str, day: str, hours: float) -> None:
    assert hours_of_day(ZoneInfo(zone), day) == hours


# metering-cases.md, section 2: months of Berlin and Sao Paulo.
@pytest.mark.parametrize(
    ("zone", "year", "month", "hours"),
    [
        ("Europe/Berlin", 2024, 3, 743),
        ("Europe/Berlin", 2024, 10, 745),
        ("America/Sao_Paulo", 2018, 2, 673),
        ("America/Sao_Paulo", 2018, 11, 719),
        ("Europe/Berlin", 2024, 2, 696),
        ("Australia/Lord_Howe", 2024, 4, 720.5),
        ("Asia/Kathmandu", 2023, 12, 744),
    ],
)
def test_month_has_its_hours(zone: str, year: int, month: int, hours: float) -> None:
    place = ZoneInfo(zone)
    start = month_start(place, year, month)
    found = edges(Step.MONTH, place, start, start + 1)
    assert found[0] == start
    assert (found[1] - found[0]) / HOUR_MS == hours
    assert edges(Step.DAY, place, start, int(found[1]))[[0, -1]].tolist() == found.tolist()


# metering-cases.md, section 2: where days start.
@pytest.mark.parametrize(
    ("zone", "day", "start"),
    [
        ("America/Sao_Paulo", "2018-11-04", "2018-11-04T03:00Z"),
        ("Asia/Kathmandu", "2024-03-31", "2024-03-30T18:15Z"),
        ("Asia/Kathmandu", "2024-12-31", "2024-12-30T18:15Z"),
        ("America/Havana", "2024-11-03", "2024-11-03T04:00Z"),
        ("America/Toronto", "1919-03-31", "1919-03-31T04:30Z"),
        ("Pacific/Apia", "2011-12-30", "2011-12-30T10:00Z"),
        ("Pacific/Apia", "2011-12-31", "2011-12-30T10:00Z"),
    ],
)
def test_day_starts_at_its_first_instant(zone: str, day: str, start: str) -> None:
    assert day_start(ZoneInfo(zone), date.fromisoformat(day)) == ms(start)


def test_evening_repeated_after_midnight_belongs_to_the_new_day() -> None:
    found = edges(Step.DAY, ST_JOHNS, ms("2010-11-07T02:40Z"), ms("2010-11-07T02:45Z"))
    assert found.tolist() == [ms("2010-11-07T02:30Z"), ms("2010-11-08T03:30Z")]


def test_skipped_date_is_no_day() -> None:
    found = edges(
        Step.DAY, ZoneInfo("Pacific/Apia"), ms("2011-12-29T12:00Z"), ms("2011-12-31T00:00Z")
    )
    assert np.diff(found).tolist() == [DAY_MS, DAY_MS]


@pytest.mark.parametrize(
    ("zone", "day", "count"),
    [(BERLIN, "2024-03-31", 23), (BERLIN, "2024-10-27", 25), (SAO_PAULO, "2018-02-17", 25)],
)
def test_hours_of_a_day_are_uniform(zone: ZoneInfo, day: str, count: int) -> None:
    start = parse_instant(day, zone)
    found = edges(Step.HOUR, zone, start, start + count * HOUR_MS)
    assert found.tolist() == [start + hour * HOUR_MS for hour in range(count + 1)]


@pytest.mark.parametrize(
    ("day", "short", "count"),
    [("2024-10-06", "02:30+11:00", 24), ("2024-04-07", "01:30+10:30", 25)],
)
def test_half_hour_change_makes_one_short_hour(day: str, short: str, count: int) -> None:
    start = parse_instant(day, LORD_HOWE)
    end = int(edges(Step.DAY, LORD_HOWE, start, start + 1)[1])
    found = edges(Step.HOUR, LORD_HOWE, start, end)
    lengths = np.diff(found)
    assert sorted(set(lengths.tolist())) == [HOUR_MS // 2, HOUR_MS]
    assert len(lengths) == count
    assert (
        format_instant(int(found[lengths.argmin()]), LORD_HOWE)
        == f"{day}T{short[:5]}:00{short[5:]}"
    )
    quarters = edges(Step.QUARTER, LORD_HOWE, start, end)
    assert set(np.diff(quarters).tolist()) == {QUARTER_MS}


def test_edges_surround_the_period() -> None:
    found = edges(Step.HOUR, BERLIN, ms("2024-06-01T10:10Z"), ms("2024-06-01T11:50Z"))
    assert found.tolist() == [ms(f"2024-06-01T{hour}:00Z") for hour in (10, 11, 12)]
    quarters = edges(Step.QUARTER, ZoneInfo("Asia/Kathmandu"), QUARTER_MS, 2 * QUARTER_MS)
    assert quarters.tolist() == [QUARTER_MS, 2 * QUARTER_MS]


@pytest.mark.parametrize("end", [5, 4])
def test_empty_period_has_no_edges(end: int) -> None:
    with pytest.raises(ValueError, match="the end must come after the start"):
        edges(Step.DAY, BERLIN, 5, end)


def test_raw_has_no_edges() -> None:
    with pytest.raises(ValueError, match="raw readings have no slots"):
        edges(Step.RAW, BERLIN, 0, 1)


def test_quarters_of_ten_years_are_quick() -> None:
    started = thread_time()
    found = edges(Step.QUARTER, BERLIN, ms("2014-01-01T00:00Z"), ms("2024-01-01T00:00Z"))
    assert thread_time() - started < 1
    assert set(np.diff(found).tolist()) == {QUARTER_MS}


STEPS = st.sampled_from([step for step in Step if step is not Step.RAW])


@given(STEPS, ZONES, INSTANTS, st.integers(1, 100 * DAY_MS))
def test_edges_cover_the_period_and_nothing_more(
    step: Step, zone: ZoneInfo, start: int, length: int
) -> None:
    found = edges(step, zone, start, start + length)
    assert (np.diff(found) > 0).all()
    assert found[0] <= start < found[1]
    assert found[-2] < start + length <= found[-1]


@given(ZONES, INSTANTS, st.integers(1, 70 * DAY_MS))
def test_coarser_edges_are_finer_edges(zone: ZoneInfo, start: int, length: int) -> None:
    months = edges(Step.MONTH, zone, start, start + length)
    coarser = months
    for step in (Step.DAY, Step.HOUR, Step.QUARTER):
        finer = edges(step, zone, int(months[0]), int(months[-1]))
        assert np.isin(coarser, finer).all()
        assert (finer[0], finer[-1]) == (months[0], months[-1])
        coarser = finer


@given(STEPS, ZONES, INSTANTS, st.integers(1, 40 * DAY_MS))
def test_edges_do_not_depend_on_the_period(
    step: Step, zone: ZoneInfo, start: int, length: int
) -> None:
    end = start + length
    wide = edges(step, zone, start - 50 * DAY_MS, end + 50 * DAY_MS)
    narrow = edges(step, zone, start, end)
    first = wide.searchsorted(narrow[0])
    assert wide[first : first + len(narrow)].tolist() == narrow.tolist()


@given(ZONES, INSTANTS)
def test_an_hour_shows_a_full_hour_or_follows_a_change(zone: ZoneInfo, instant: int) -> None:
    start = int(edges(Step.HOUR, zone, instant, instant + 1)[0])
    local = datetime.fromtimestamp(start / 1000, zone)
    before = datetime.fromtimestamp(start / 1000 - 1, zone)
    assert local.minute == 0 or local.utcoffset() != before.utcoffset()


# metering-cases.md, section 2: a billing day of 29, 30 or 31 clamps to the end of shorter months.
@pytest.mark.parametrize(
    ("zone", "day", "instant", "start", "end"),
    [
        (BERLIN, 29, "2023-02-28T12:00+01:00", "2023-02-28", "2023-03-29"),
        (BERLIN, 30, "2024-02-29T00:00+01:00", "2024-02-29", "2024-03-30"),
        (BERLIN, 31, "2024-02-28T23:59+01:00", "2024-01-31", "2024-02-29"),
        (BERLIN, 31, "2024-04-30T00:00+02:00", "2024-04-30", "2024-05-31"),
        (BERLIN, 31, "2024-05-30T23:00+02:00", "2024-04-30", "2024-05-31"),
        (BERLIN, 31, "2024-03-31T22:30Z", "2024-03-31", "2024-04-30"),
        (BERLIN, 1, "2024-12-31T23:30Z", "2025-01-01", "2025-02-01"),
        (BERLIN, 15, "2024-01-14T12:00Z", "2023-12-15", "2024-01-15"),
        (SAO_PAULO, 4, "2018-11-04T03:00Z", "2018-11-04", "2018-12-04"),
        (SAO_PAULO, 4, "2018-11-04T02:59Z", "2018-10-04", "2018-11-04"),
        # Local time of the last evening that comes after the next day has begun.
        (ST_JOHNS, 7, "2010-11-07T02:45Z", "2010-11-07", "2010-12-07"),
        (ST_JOHNS, 1, "2009-11-01T02:45Z", "2009-11-01", "2009-12-01"),
    ],
)
def test_billing_period(zone: ZoneInfo, day: int, instant: str, start: str, end: str) -> None:
    expected = Period(parse_instant(start, zone), parse_instant(end, zone))
    assert billing_period(zone, day, ms(instant)) == expected


@pytest.mark.parametrize("day", [0, 32, -1])
def test_billing_day_out_of_range(day: int) -> None:
    with pytest.raises(ValueError, match=f"a billing day is 1 to 31, not {day}"):
        billing_period(BERLIN, day, 0)


@given(ZONES, st.integers(1, 31), INSTANTS)
def test_billing_periods_follow_each_other(zone: ZoneInfo, day: int, instant: int) -> None:
    period = billing_period(zone, day, instant)
    assert period.start_ms <= instant < period.end_ms
    assert billing_period(zone, day, period.start_ms) == period
    assert billing_period(zone, day, period.end_ms - 1) == period
    assert billing_period(zone, day, period.end_ms).start_ms == period.end_ms
    assert 27 * DAY_MS < period.end_ms - period.start_ms < 32 * DAY_MS


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2024-03-31T10:00:00Z", "2024-03-31T10:00Z"),
        ("2024-03-31T10:00+05:45", "2024-03-31T04:15Z"),
        ("2024-06-01T10:00", "2024-06-01T08:00Z"),
        ("2024-06-01 10:00:30", "2024-06-01T08:00:30Z"),
        ("2024-06-01", "2024-05-31T22:00Z"),
        ("20240601", "2024-05-31T22:00Z"),
        ("2024-10-27T02:30", "2024-10-27T00:30Z"),  # twice: the first
        ("2024-03-31T02:30", "2024-03-31T01:30Z"),  # skipped: as before the change
    ],
)
def test_parse_instant(text: str, instant: str) -> None:
    assert parse_instant(text, BERLIN) == ms(instant)


def test_parse_instant_keeps_milliseconds() -> None:
    assert parse_instant("1970-01-01T00:00:00.123999Z", BERLIN) == 123


def test_parse_date_that_begins_after_midnight() -> None:
    assert parse_instant("1919-03-31", ZoneInfo("America/Toronto")) == ms("1919-03-31T04:30Z")


@pytest.mark.parametrize("text", ["", "yesterday", "2024-13-01", "2024-02-30", "12:00", "1e9"])
def test_parse_nonsense(text: str) -> None:
    with pytest.raises(ValueError, match="not a date or time in ISO 8601"):
        parse_instant(text, BERLIN)


@pytest.mark.parametrize("text", ["0001-01-01", "9999-12-31T23:59:59-10:00"])
def test_parse_year_out_of_range(text: str) -> None:
    with pytest.raises(ValueError, match="the year is out of range"):
        parse_instant(text, BERLIN)


@pytest.mark.parametrize(
    ("instant", "text"),
    [
        ("2024-06-01T08:00Z", "2024-06-01T10:00:00+02:00"),
        ("2024-10-27T00:30Z", "2024-10-27T02:30:00+02:00"),
        ("2024-10-27T01:30Z", "2024-10-27T02:30:00+01:00"),
        ("1970-01-01T00:00:00.120Z", "1970-01-01T01:00:00.120+01:00"),
        ("1969-12-31T23:59:59.999Z", "1970-01-01T00:59:59.999+01:00"),
    ],
)
def test_format_instant(instant: str, text: str) -> None:
    parsed = round(datetime.fromisoformat(instant).astimezone(UTC).timestamp() * 1000)
    assert format_instant(parsed, BERLIN) == text


@given(ZONES, ZONES, INSTANTS)
def test_format_and_parse_are_inverse(zone: ZoneInfo, other: ZoneInfo, instant: int) -> None:
    assert parse_instant(format_instant(instant, zone), other) == instant


@given(ZONES, INSTANTS)
def test_day_edges_have_their_local_dates(zone: ZoneInfo, instant: int) -> None:
    start, end = edges(Step.DAY, zone, instant, instant + 1).tolist()
    dates = [datetime.fromtimestamp(at / 1000, zone).date() for at in (start, instant, end)]
    assume(dates[0] <= dates[1])  # not in the repeated minutes before a midnight
    assert dates[0] == dates[1] < dates[2]
