"""NEM12 files: every value of the examples, every way to be wrong."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.files import FileError
from telemetry.files.nem12 import Nem12, parse
from telemetry.files.nem12_codes import Channel
from telemetry.readings import Status
from tests.telemetry.files.nem12_text import channel, day, file

DATA = Path(__file__).parents[2] / "data"
FILES = sorted(DATA.glob("nem12_*.csv"))
NOW = 1_800_000_000_000
HALF_HOUR = 1_800_000
MARCH = 1709215200000  # 2024-03-01T00:00:00+10:00
ONE = ["1"] * 48


def read(text: str) -> Nem12:
    return parse(io.StringIO(text, newline=""), latest_ms=NOW)


def refused(text: str) -> str:
    with pytest.raises(FileError) as raised:
        read(text)
    return str(raised.value)


def test_the_example_of_two_registers() -> None:
    found = read((DATA / "nem12_actual_interval.csv").read_text())
    active, reactive = Channel("VABD000163", "E1"), Channel("VABD000163", "Q1")
    assert set(found.channels) == {active, reactive}
    assert (active.meter(), active.register) == ("VABD000163", 1)
    assert (reactive.meter(), reactive.register) == ("VABD000163", 6)
    intervals = found.channels[active]
    assert intervals.energy.tolist() == [1_111_000_000] * 48
    assert intervals.start[0] == 1075557600000  # 2004-02-01T00:00:00+10:00
    assert (intervals.end - intervals.start).tolist() == [HALF_HOUR] * 48
    assert (intervals.start[1:] == intervals.end[:-1]).all()
    assert not intervals.status.any()
    assert found.channels[reactive].energy.tolist() == [2_222_000_000] * 48


def test_the_example_of_many_meters() -> None:
    found = read((DATA / "nem12_multiple_meters.csv").read_text())
    energies = {
        (channel.meter(), channel.suffix): set(intervals.energy.tolist())
        for channel, intervals in found.channels.items()
    }
    assert energies == {
        ("NCDE001111", "E1"): {10_000_000},
        ("NCDE001111", "B1"): {10_000_000},
        ("NCDE001111", "Q1"): {50_000_000},
        ("NCDE001111/2", "E2"): {100_000_000},
        ("NDDD001888", "B1"): {20_000_000},
        ("NDDD001888/2", "K2"): {50_000_000},
    }
    assert {len(intervals) for intervals in found.channels.values()} == {192}
    assert [channel.register for channel in found.channels] == [1, 2, 6, 1, 2, 7]


def test_the_example_of_mixed_qualities() -> None:
    text = (DATA / "nem12_multiple_quality.csv").read_text()
    (intervals,) = read(text).channels.values()
    values = text.splitlines()[2].split(",")[2:50]
    assert [f"{energy / 1e9:.3f}" for energy in intervals.energy.tolist()] == values
    estimated = int(Status.ESTIMATED)
    assert intervals.status.tolist() == [estimated] * 20 + [0] * 4 + [estimated] * 24


@pytest.mark.parametrize("path", FILES, ids=[path.name for path in FILES])
def test_a_file_that_is_cut_off_is_refused_at_every_line(path: Path) -> None:
    lines = path.read_text().splitlines(keepends=True)
    assert lines[-1].startswith("900")
    for count in range(len(lines)):
        message = refused("".join(lines[:count]))
        assert "900" in message or "empty" in message or "400 record" in message


def test_examples_are_there() -> None:
    assert len(FILES) == 3


@pytest.mark.parametrize(
    ("quality", "status"),
    [("A", 0), ("E52", 1), ("F14", 1), ("S14", 1), ("E", 1), ("s14", 1), ("N", None)],
)
def test_qualities(quality: str, status: int | None) -> None:
    found = read(file(channel(), day("20240301", ONE, quality)))
    (intervals,) = found.channels.values()
    assert set(intervals.status.tolist()) == ({status} if status is not None else set())
    assert found.missing == (48 if status is None else 0)


def test_a_range_without_a_value_is_a_gap_whatever_the_fields_hold() -> None:
    values = ["1"] * 10 + ["", "junk"] + ["1"] * 36
    text = file(
        channel(), day("20240301", values, "V"), "400,1,10,A,,\n400,11,12,N,,\n400,13,48,A\n"
    )
    found = read(text)
    (intervals,) = found.channels.values()
    assert found.missing == 2
    assert len(intervals) == 46
    assert intervals.start[10] - intervals.end[9] == 2 * HALF_HOUR


@pytest.mark.parametrize(("minutes", "count"), [(5, 288), (15, 96), (30, 48)])
def test_interval_lengths_cover_the_day(minutes: int, count: int) -> None:
    (intervals,) = read(
        file(channel(minutes=minutes), day("20240301", ["1"] * count))
    ).channels.values()
    assert len(intervals) == count
    assert (intervals.start[0], intervals.end[-1]) == (MARCH, MARCH + 86_400_000)


@pytest.mark.parametrize(
    ("unit", "micro"),
    [("Wh", 10**6), ("KWH", 10**9), ("MWh", 10**12), ("kwh", 10**9)],
)
def test_units(unit: str, micro: int) -> None:
    (intervals,) = read(file(channel(unit=unit), day("20240301", ["0.25"] * 48))).channels.values()
    assert set(intervals.energy.tolist()) == {micro // 4}


def test_another_clock() -> None:
    text = file(channel(), day("20240301", ONE))
    (intervals,) = parse(io.StringIO(text), latest_ms=NOW, offset_ms=0).channels.values()
    assert intervals.start[0] == MARCH + 10 * 3_600_000


def test_what_is_no_register_is_named_and_left_out() -> None:
    text = file(
        channel(suffix="T1", unit="pf"), day("20240301", ONE), channel(), day("20240301", ONE)
    )
    found = read(text)
    assert found.left_out == ["NMI0000001 T1 (pf)"]
    assert list(found.channels) == [Channel("NMI0000001", "E1")]


GOOD = day("20240301", ONE)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("200,x\n", "line 1: a NEM12 file begins with"),
        ("100,NEM13,1,a,b\n900\n", "line 1: the file is 'NEM13'"),
        ("100,NEM12,1,a,b\n300,20240301\n", "line 2: a 300 record cannot follow a 100 record"),
        ("100,NEM12,1,a,b\nhello\n", "line 2: 'hello' is no record"),
        (file() + "100,NEM12\n", "line 3: a 100 record cannot follow a 900"),
        (file("200,NMI,E1\n"), "line 2: field 5, the suffix, is missing"),
        (file(channel(suffix="E")), "line 2: 'E' is no suffix"),
        (file(channel(minutes=10)), "line 2: intervals of '10' minutes"),
        (file(channel(nmi="a b")), "line 2: 'a b' is no meter id"),
        (file(channel(unit="kVArh")), "line 2: E1 is counted in Wh, not in kVArh"),
        (file(channel(), day("20240301", ["1"] * 40)), "line 3: has 47 fields"),
        (file(channel(minutes=15), GOOD), "line 3: has 55 fields: a day of 96"),
        (file(channel(minutes=15), day("20240301", ["1"] * 95)), "no quality"),
        (file(channel(), day("20240230", ONE)), "line 3: '20240230' is no date"),
        (file(channel(), day("18991231", ONE)), "line 3: 18991231 is before the year 1900"),
        (file(channel(), day("20990101", ONE)), "line 3: interval 1 ends in the future"),
        (file(channel(), day("20240301", ONE, "X")), "line 3: 'X' is no quality"),
        (file(channel(), day("20240301", ["x"] * 48)), "line 3: interval 1: 'x' is no energy"),
        (file(channel(), day("20240301", [""] * 48)), "line 3: interval 1: '' is no energy"),
        (file(channel(), day("20240301", ["-1"] * 48)), "line 3: interval 1: -1 is negative"),
        (file(channel(), day("20240301", ["1e9"] * 48)), "'1e9' is no energy"),
        (file(channel(), day("20240301", ["999999999"] * 48)), "999999999 is beyond any meter"),
        (file(channel(unit="Wh"), day("20240301", ["0.0000001"] * 48)), "more decimals than"),
        (file(channel(), day("20240301", ONE, "V"), "400,1,47,A\n"), "line 3: the quality is V"),
        (file(channel(), GOOD, "400,0,3,A\n"), "line 4: 0-3 is no range of intervals 1 to 48"),
        (file(channel(), GOOD, "400,3,49,A\n"), "line 4: 3-49 is no range"),
        (file(channel(), GOOD, "400,3,2,A\n"), "line 4: 3-2 is no range"),
        (file(channel(), GOOD, "400,1,2,V\n"), "line 4: the quality of a range cannot itself be V"),
        (file(channel(), GOOD, "400,1,2\n"), "line 4: field 4, the quality, is missing"),
        (file('200,"NMI\n'), "line 2: cannot be split"),
        (file(channel(), GOOD)[:-5], "line 3: the file is cut off after it"),
    ],
)
def test_wrong_lines(text: str, message: str) -> None:
    assert message in refused(text)


FRAGMENTS = [
    *(
        "100,NEM12,1,a,b\n",
        "900\n",
        "\n",
        '"',
        ",",
        "300,",
        "400,1,48,A\n",
        "400,1,2,N\n",
        "500,O\n",
    ),
    *(channel(), channel(suffix="B2"), GOOD, day("20240302", ["0.1"] * 48, "V"), "200,NMI,,,Q1\n"),
]


@given(st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=20)).map("".join))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found = read(text)
    except FileError:
        return
    for intervals in found.channels.values():
        assert (intervals.energy >= 0).all()
        assert (intervals.end > intervals.start).all()
