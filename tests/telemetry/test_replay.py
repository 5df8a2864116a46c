from __future__ import annotations

import gzip
import json
from collections import defaultdict
from datetime import datetime
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry import meter_id, replay
from telemetry.admission import EVERYWHERE, Allowed, Gate
from telemetry.formats import native
from telemetry.keys import KeyRing
from telemetry.registers import ALERT_LIMIT, ENERGY_IMPORT

DATA = Path(__file__).parents[1] / "data"
EXPECTED: dict[str, dict[str, Any]] = json.loads((DATA / "expected.json").read_text())
ILLINOIS, LONDON = "home-illinois-hourly.csv.gz", "home-london-halfhourly.csv.gz"
NOW = 1_800_000_000_000
OCTETS = meter_id.to_octets("home")
MINUTE = 60_000


def read(*rows: str) -> replay.Replay:
    return replay.read("\n".join(["start,value", *rows]).encode(), NOW)


def ms(text: str) -> int:
    return round(datetime.fromisoformat(f"{text}+00:00").timestamp() * 1000)


def by_local_month(found: replay.Replay, zone: str) -> dict[str, int]:
    """Wh by month, from the readings alone; no interval of these files crosses a month's end."""
    months: dict[str, int] = defaultdict(int)
    readings = zip(found.time.tolist(), found.energy.tolist(), strict=True)
    for (start, before), (_, after) in pairwise(readings):
        months[f"{datetime.fromtimestamp(start / 1000, ZoneInfo(zone)):%Y-%m}"] += after - before
    return {month: energy for month, energy in months.items() if energy}


@pytest.mark.parametrize("name", [ILLINOIS, LONDON])
def test_the_file_is_counted_as_expected(name: str) -> None:
    found, expected = replay.read((DATA / name).read_bytes(), NOW), EXPECTED[name]
    assert found.rows == expected["rows_in_file"]
    assert found.repeated == expected["repeated_rows"]
    assert found.conflicts == 0
    assert found.intervals == expected["intervals"]
    assert found.interval_ms == expected["interval_minutes"] * MINUTE
    assert found.gaps == expected["gap_count"]
    assert found.kwh == Decimal(expected["total_kwh"])
    assert found.energy[0] == 0
    assert found.energy[-1] == round(Decimal(expected["total_kwh"]) * 1000)
    assert (np.diff(found.time) > 0).all()
    assert (np.diff(found.energy) >= 0).all()


def test_illinois_to_the_watt_hour() -> None:
    found = replay.read((DATA / ILLINOIS).read_bytes(), NOW)
    assert found.energy[-1] == 21_927_130
    expected = EXPECTED[ILLINOIS]["kwh_by_local_month"]
    assert by_local_month(found, "America/Chicago") == {
        month: int(Decimal(kwh) * 1000) for month, kwh in expected.items()
    }


def test_london_to_the_watt_hour() -> None:
    found = replay.read((DATA / LONDON).read_bytes(), NOW)
    assert found.energy[-1] == 14_080_862
    assert (found.gaps, found.repeated) == (27, 24)
    months = by_local_month(found, "Europe/London")
    expected = EXPECTED[LONDON]["kwh_by_local_month"]
    assert months.keys() == expected.keys()
    for month, kwh in expected.items():
        # Both ends of a month are rounded to a Wh; the file has parts of it.
        assert abs(months[month] - Decimal(kwh) * 1000) <= 1


def test_no_reading_inside_a_gap() -> None:
    found = read("2020-01-01 00:00,1", "2020-01-01 01:00,2", "2020-01-01 05:00,4")
    hours = [0, 1, 2, 5, 6]
    assert found.time.tolist() == [ms(f"2020-01-01T0{hour}:00") for hour in hours]
    assert found.energy.tolist() == [0, 1000, 3000, 3000, 7000]
    assert found.gaps == 1


def test_an_interval_ends_where_the_next_begins() -> None:
    found = read("2020-01-01 00:00,1", "2020-01-01 01:00,1", "2020-01-01 02:00,1",
                 "2020-01-01 02:20,1")  # fmt: skip
    assert found.time.tolist()[2:] == [ms(f"2020-01-01T0{at}") for at in ("2:00", "2:20", "3:20")]
    assert found.gaps == 0


def test_repeats_conflicts_and_order() -> None:
    found = read(
        "2020-01-01 02:00,3", "2020-01-01 00:00,1", "2020-01-01 00:00,1.0",
        "2020-01-01T01:00:00+01:00,5", "2020-01-01 01:00,2",
    )  # fmt: skip
    assert (found.rows, found.repeated, found.conflicts, found.intervals) == (5, 1, 1, 3)
    assert found.energy.tolist() == [0, 5000, 7000, 10000]


def test_register_is_rounded_half_up_and_its_sum_is_exact() -> None:
    found = read(*(f"2020-01-01 0{hour}:00,0.0005" for hour in range(4)))
    assert found.energy.tolist() == [0, 1, 1, 2, 2]
    assert found.kwh == Decimal("0.0020")


def test_offsets_naive_times_and_gzip_agree() -> None:
    plain = b"start,value\n2020-01-01 06:00,1\n2020-01-01 07:00,1\n"
    other = (
        b"\xef\xbb\xbfvalue,start\r\n1,2020-01-01T00:00:00-06:00\r\n1,2020-01-01T07:00:00Z\r\n\r\n"
    )
    for content in (other, gzip.compress(plain)):
        assert replay.read(content, NOW).time.tolist() == replay.read(plain, NOW).time.tolist()


GOOD = "start,value\n2020-01-01 00:00,1\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty"),
        ("start,value\n", "give at least two intervals"),
        (GOOD, "give at least two intervals"),
        ("start,kwh\n", "line 1 has no column 'value', only 'start,kwh'"),
        (GOOD + "2020-01-01 01:00,abc", "line 3: 'abc' is no number of kWh"),
        (GOOD + "2020-01-01 01:00,", "line 3: '' is no number of kWh"),
        (GOOD + "2020-01-01 01:00,NaN", "line 3: 'NaN' is no consumption"),
        (GOOD + "2020-01-01 01:00,inf", "line 3: 'inf' is no consumption"),
        (GOOD + "2020-01-01 01:00,-1", "line 3: '-1' is negative"),
        (GOOD + "2020-01-01 01:00,1e13", "line 3: '1e13' is beyond any meter"),
        (GOOD + "2020-01-01 01:00,1e-99999", "line 3: '1e-99999' is beyond any meter"),
        (GOOD + "2020-01-01 01:00,1e12", "the sum of all rows exceeds"),
        (GOOD + "2020-01-01 01:00,0,5", "line 3 has 3 fields where the header has 2"),
        (GOOD + "yesterday,1", "line 3: cannot read the time 'yesterday'"),
        (GOOD + "1999-01-01 01:00,1", "line 3: '1999-01-01 01:00' is before the year 2000"),
        (GOOD + "2999-01-01 01:00,1", "the last interval ends at .* in the future"),
        (GOOD + '"2020', "line 3 is not CSV"),
    ],
)
def test_bad_files_say_what_is_wrong(content: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replay.read(content.encode(), NOW)


def test_bytes_that_are_no_text() -> None:
    with pytest.raises(ValueError, match="line 2 is not UTF-8"):
        replay.read(b"start,value\n\xff", NOW)
    whole = gzip.compress(GOOD.encode())
    for damaged in (whole[:-9], whole[:12] + b"\xff\xff\xff" + whole[15:], b"\x1f\x8b"):
        with pytest.raises(ValueError, match="the gzip file is damaged"):
            replay.read(damaged, NOW)


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: (GOOD + text).encode()))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    try:
        found = replay.read(content, NOW)
    except ValueError:
        return
    assert len(found.time) == len(found.energy) >= 3


def decoded(packed: replay.Packed) -> list[native.Datagram]:
    gate = Gate(Allowed(EVERYWHERE), KeyRing.empty())  # one for all: to make it takes longest
    return [native.decode(datagram, NOW, gate) for datagram in packed.datagrams]


@pytest.mark.parametrize("name", [ILLINOIS, LONDON])
@pytest.mark.parametrize("most", [1, native.MOST_UNSIGNED])
def test_datagrams_carry_every_reading_in_order(name: str, most: int) -> None:
    found = replay.read((DATA / name).read_bytes(), NOW)
    packed = replay.pack(OCTETS, found, most=most)
    datagrams = decoded(packed)
    records = [record for datagram in datagrams for record in datagram.records]
    assert [record.time for record in records] == found.time.tolist()
    assert [record.value for record in records] == found.energy.tolist()
    assert {record.register for record in records} == {ENERGY_IMPORT}
    assert {record.status for record in records} == {0}
    assert [datagram.sequence for datagram in datagrams] == list(range(len(datagrams)))
    assert {datagram.epoch for datagram in datagrams} == {0}
    assert packed.time.tolist() == [datagram.records[-1].time for datagram in datagrams]
    for datagram, after in pairwise(datagrams):
        reach = datagram.records[0].time + 2**31 - 1
        assert len(datagram.records) == most or after.records[0].time > reach


def test_a_new_datagram_where_the_offset_does_not_reach() -> None:
    found = read("2020-01-01 00:00,1", "2020-01-01 01:00,1", "2020-01-25 20:31:23.647,1")
    assert [len(each.records) for each in decoded(replay.pack(OCTETS, found))] == [4, 1]
    limited = decoded(replay.pack(OCTETS, found, alert_limit_wh=7000))
    first = limited[0].records[0]
    assert (first.register, first.value, first.time) == (ALERT_LIMIT, 7000, found.time[0])
    assert [len(each.records) for each in limited] == [5, 1]


def test_the_same_file_gives_the_same_datagrams() -> None:
    content = (DATA / LONDON).read_bytes()
    once, again = (replay.pack(OCTETS, replay.read(content, NOW)) for _ in range(2))
    assert once.datagrams == again.datagrams
