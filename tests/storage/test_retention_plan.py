"""Which window retention takes next, and what it says of itself."""

from zoneinfo import ZoneInfo

import pytest

from storage.ladder import Keep, Policy, parse
from storage.retention_plan import Held, Job, Marks, Outlook, month_of, narrowed, next_job, outlook
from telemetry.calendar import DAY_MS, Period, parse_instant

UTC = ZoneInfo("UTC")
KATHMANDU = ZoneInfo("Asia/Kathmandu")
LADDER = parse("raw 90 d, 15 min 5 y, day")


def at(text: str, zone: ZoneInfo = UTC) -> int:
    return parse_instant(text, zone)


def held(first: str, marks: Marks | None = None, zone: ZoneInfo = UTC, id: str = "m") -> Held:
    return Held(id, zone, at(first), marks or {})


def test_the_youngest_instant_of_a_window_must_be_of_age() -> None:
    meter = held("2024-01-17")
    due = at("2024-02-01") + 90 * DAY_MS
    assert next_job(LADDER, meter, due - 1) is None
    window = Period(at("2024-01-17"), at("2024-02-01"))
    assert next_job(LADDER, meter, due) == Job(Keep.QUARTER, window)


def test_work_goes_on_from_the_mark() -> None:
    meter = held("2024-01-17", {Keep.QUARTER: at("2024-03-01")})
    window = Period(at("2024-03-01"), at("2024-04-01"))
    assert next_job(LADDER, meter, at("2025-01-01")) == Job(Keep.QUARTER, window)


def test_what_is_very_old_is_thinned_to_days_at_once() -> None:
    meter, marks, jobs = held("2010-05-05"), dict[Keep, int](), []
    while job := next_job(LADDER, Held("m", UTC, meter.first_ms, marks), at("2016-01-01")):
        jobs.append(job)
        marks[job.keep] = job.window.end_ms
    assert [job.keep for job in jobs[:9]] == [Keep.DAY] * 8 + [Keep.QUARTER]
    assert all(job.keep is Keep.QUARTER for job in jobs[8:])
    # One after the other, without a gap, up to 90 days ago.
    bounds = [meter.first_ms, *(job.window.end_ms for job in jobs)]
    assert [job.window.start_ms for job in jobs] == bounds[:-1]
    assert bounds[-1] == at("2015-10-01")


def test_days_have_windows_of_the_meters_own_months() -> None:
    ladder = parse("raw 1 d, day")
    job = next_job(ladder, held("2024-02-10", zone=KATHMANDU), at("2024-06-01"))
    assert job == Job(Keep.DAY, Period(at("2024-02-10"), at("2024-03-01", KATHMANDU)))


def test_everything_for_ever_is_no_work() -> None:
    assert next_job((), held("2000-01-01"), at("2030-01-01")) is None


@pytest.mark.parametrize(
    "name", ["UTC", "America/Sao_Paulo", "Australia/Lord_Howe", "Asia/Kathmandu"]
)
def test_months_follow_one_another(name: str) -> None:
    zone = ZoneInfo(name)
    window = month_of(at("2016-12-31T23:59", zone), zone)
    for number in range(30):
        assert month_of(window.start_ms, zone) == month_of(window.end_ms - 1, zone) == window
        assert window.start_ms == at(
            f"{2016 + (11 + number) // 12}-{(11 + number) % 12 + 1:02}-01", zone
        )
        window = month_of(window.end_ms, zone)


def test_a_window_with_many_readings_is_narrowed() -> None:
    job = Job(Keep.DAY, Period(at("2024-03-01", KATHMANDU), at("2024-04-01", KATHMANDU)))
    week = narrowed(job, KATHMANDU)
    assert week == Job(Keep.DAY, Period(job.window.start_ms, at("2024-03-08", KATHMANDU)))
    day = narrowed(week, KATHMANDU)
    assert day == Job(Keep.DAY, Period(job.window.start_ms, at("2024-03-02", KATHMANDU)))
    assert narrowed(day, KATHMANDU) == day


def test_narrow_windows_over_a_change_of_the_clock() -> None:
    zone = ZoneInfo("America/Sao_Paulo")
    start, end = at("2018-11-01", zone), at("2018-12-01", zone)
    while start < end:
        job = narrowed(narrowed(Job(Keep.DAY, Period(start, end)), zone), zone)
        assert start < job.window.end_ms <= end
        assert job.window.end_ms - start <= 1.5 * DAY_MS
        start = job.window.end_ms


def test_outlook() -> None:
    policy = Policy(LADDER, (("lab-*", ()), ("gone-*", parse("raw 30 d, none"))))
    meters = [
        held("2024-01-17", id="home-1"),
        held("2024-01-17", {Keep.QUARTER: at("2024-06-01")}, id="home-2"),
        held("2000-01-01", id="lab-1"),
        held("2024-07-01", id="gone-1"),
    ]
    assert outlook(policy, meters, at("2024-07-20")) == [
        Outlook(
            keep=Keep.QUARTER,
            age_ms=90 * DAY_MS,
            meters=2,
            waiting=1,
            from_ms=at("2024-01-17"),
            next_ms=at("2024-07-01") + 90 * DAY_MS,
        ),
        Outlook(
            keep=Keep.DAY,
            age_ms=5 * 365 * DAY_MS,
            meters=2,
            waiting=0,
            from_ms=None,
            next_ms=at("2024-02-01") + 5 * 365 * DAY_MS,
        ),
        Outlook(
            keep=Keep.NONE,
            age_ms=30 * DAY_MS,
            meters=1,
            waiting=0,
            from_ms=None,
            next_ms=at("2024-08-01") + 30 * DAY_MS,
        ),
    ]
