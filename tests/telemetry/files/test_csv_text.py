"""CSV files: what export writes reads back the same, what others write is understood or refused."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cli.export_formats import CsvSink, Page
from query import messages as m
from telemetry import meter_id
from telemetry.files import FileError
from telemetry.files.csv_text import HEADER, parse
from telemetry.files.csv_values import EARLIEST, LATEST, status_text
from telemetry.readings import COLUMNS, Readings, Status
from telemetry.registers import BY_CODE, REGISTERS

DOCUMENT = (Path(__file__).parents[3] / "docs" / "import-export.md").read_text("utf-8")
NOON = 1709294400000  # 2024-03-01T12:00:00Z


def read(text: str, id: str | None = None, latest_ms: int = LATEST) -> list[tuple[int, ...]]:
    """Each reading as register, time, value, status, epoch."""
    found = readings(text, id, latest_ms)
    names = ("register", "time", "value", "status", "epoch")
    return list(zip(*(getattr(found, name).tolist() for name in names), strict=True))


def readings(text: str, id: str | None = None, latest_ms: int = LATEST) -> Readings:
    parts = list(parse(io.StringIO(text, newline=""), id=id, latest_ms=latest_ms))
    return Readings.concatenate(parts)


def refused(text: str, id: str | None = "kitchen") -> str:
    with pytest.raises(FileError) as raised:
        read(text, id, NOON)
    return str(raised.value)


NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:/+@#-]{0,15}", fullmatch=True) | st.uuids(
    version=4
).map(str)


@st.composite
def pages(draw: st.DrawFn) -> Page:
    register = draw(st.sampled_from(REGISTERS))
    times = draw(st.lists(st.integers(EARLIEST, LATEST - 1), max_size=20, unique=True))
    count = len(times)

    def column(low: int, high: int) -> list[int]:
        return draw(st.lists(st.integers(low, high), min_size=count, max_size=count))

    return Page(
        register,
        m.Values(
            id=draw(NAMES),
            time_zone="UTC",
            obis=register.obis,
            unit=register.unit,
            scaler=register.scaler,
            time_ms=sorted(times),
            raw=column(register.minimum, register.maximum),
            status=column(0, 0xFFFF),
            epoch=column(0, 2**32 - 1),
            next=None,
        ),
    )


@given(st.lists(pages(), max_size=5))
def test_what_export_writes_reads_back_the_same(written: list[Page]) -> None:
    file = io.BytesIO()
    sink = CsvSink(file)
    for page in written:
        sink.write(page)
    sink.close()
    found = readings(file.getvalue().decode())
    expected = [
        (*meter_id.halves(meter_id.to_octets(page.values.id)), epoch, page.register.code, *rest)
        for page in written
        for epoch, *rest in zip(
            page.values.epoch,
            page.values.status,
            page.values.time_ms,
            page.values.raw,
            strict=True,
        )
    ]
    columns = [getattr(found, name).tolist() for name in COLUMNS]
    assert list(zip(*columns, strict=True)) == expected


def test_wide_files() -> None:
    text = (
        "Time,energy_import_kwh,1-0:32.7.0,power_import_raw,2.8.0,power_kW\r\n"
        "2024-03-01T13:00:00+01:00,1.5,230.1,12345,7,-0.5\r\n"
        "\r\n"
        "2024-03-01T12:15:00Z,-1,null,,8,\r\n"
    )
    assert read(text, "kitchen") == [
        (1, NOON, 1500, 0, 0),
        (13, NOON, 230_100, 0, 0),
        (3, NOON, 12_345, 0, 0),
        (2, NOON, 7, 0, 0),
        (5, NOON, -5000, 0, 0),
        (2, NOON + 900_000, 8, 0, 0),
    ]


def test_long_files() -> None:
    text = (
        "meter,obis,timestamp,value,unit,status\n"
        "kitchen,1-0:1.8.0,1709294400,1.5,kWh,estimated suspect\n"
        'garden,"1-0:32.7.0",1709294400000,230.1,,0x0004\n'
        "garden,power_factor,1709294400.5,0.95,,\n"
    )
    assert read(text) == [
        (1, NOON, 1500, 3, 0),
        (13, NOON, 230_100, 4, 0),
        (11, NOON + 500, 950, 0, 0),
    ]
    found = readings(text)
    assert meter_id.from_halves(int(found.key_high[1]), int(found.key_low[1])) == (
        meter_id.to_octets("garden")
    )


def test_values_are_rounded_to_the_step_of_the_register() -> None:
    assert read("time,energy_import_kwh\n1709294400,0.0014999\n", "k") == [(1, NOON, 1, 0, 0)]


def test_the_bounds_of_registers_can_be_read() -> None:
    for register in REGISTERS:
        for raw in (register.minimum, register.maximum):
            expected = [(register.code, 0, raw, 0, 0)]
            assert read(f"time,{register.name}_raw\n0,{raw}\n", "k") == expected
            assert read(f"time,{register.obis}\n0,{register.value(raw):f}\n", "k") == expected


def test_many_rows_come_in_parts() -> None:
    rows = "".join(f"{n},{n}\n" for n in range(40_000))
    parts = list(parse(io.StringIO("time,energy_import\n" + rows), id="k", latest_ms=LATEST))
    assert len(parts) > 2
    assert Readings.concatenate(parts).value.tolist() == list(range(40_000))


WIDE = "time,energy_import\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: there is no header"),
        ("energy_import\n1\n", "line 1: there is no column `time`"),
        ("time,time,energy_import\n", "line 1: there are two columns for the time"),
        ("time\n", "line 1: there is no column of a register"),
        ("time,value\n", "line 1: there is no column of a register"),
        ("time,register\n", "line 1: a file with a column `register`"),
        ("time,register,value,raw\n", "line 1: a file with a column `register`"),
        ("time,energy_import,1.8.0\n", "line 1: a register has two columns"),
        ("time,energy\n", "line 1: the column 'energy' is no register"),
        ("time,voltage_l1_kwh\n", "line 1: the column 'voltage_l1_kwh' is no register"),
        ("id,time,energy_import\n", "line 1: there is a column `id`: leave out --id"),
        (WIDE + "1709294400\n", "line 2: has 1 fields where the header has 2"),
        (WIDE + "1709294400,1,5\n", "line 2: has 3 fields"),
        (WIDE + "yesterday,1\n", "line 2: cannot read the time 'yesterday'"),
        (WIDE + "2024-03-01T12:00:00,1\n", "line 2: the time '2024-03-01T12:00:00' has no zone"),
        (WIDE + "2024-03-01T12:00:01Z,1\n", "is in the future"),
        (WIDE + "1800-03-01T12:00:01Z,1\n", "is not between the years 1900 and 2200"),
        (WIDE + "1709294400,x\n", "line 2: 'x' is no value of energy_import"),
        (WIDE + "1709294400,-2\n", "line 2: -2 is beyond any meter"),
        (WIDE + "1709294400,1\n\n1709294400,1e3\n", "line 4: '1e3' is no value"),
        (WIDE + '1709294400,"1\n', "line 2: is not CSV"),
        ("time,energy_import_raw\n1709294400,1.5\n", "line 2: '1.5' is no raw integer"),
        ("time,obis,value\n1709294400,9.9.9,1\n", "line 2: '9.9.9' names no register"),
        ("time,obis,value\n1709294400,,1\n", "line 2: nothing names no register"),
        ("time,obis,register,value\n1,1.8.0,power,1\n", "line 2: 'power' and '1.8.0' names no"),
        ("time,obis,value,unit\n1,1.8.0,1,V\n", "line 2: energy_import is in Wh, not in 'V'"),
        ("time,obis,raw,scaler\n1,1.8.0,1,3\n", "line 2: raw values of energy_import have the"),
        ("time,obis,raw,unit\n1,1.8.0,1,kWh\n", "line 2: raw values of energy_import have the"),
        ("time,power,status\n1,1,odd\n", "line 2: 'odd' is no status"),
        ("time,power,epoch\n1,1,-1\n", "line 2: '-1' is no epoch"),
        ("time,power,epoch\n1,1,4294967296\n", "line 2: '4294967296' is no epoch"),
    ],
)
def test_wrong_files(text: str, message: str) -> None:
    assert message in refused(text)


def test_a_file_without_ids_needs_one() -> None:
    assert "say whose readings they are with --id" in refused(WIDE, None)
    assert "line 2: 'a b' is no meter id" in refused("id,time,power\na b,1,1\n", None)


FRAGMENTS = [
    "time",
    "id",
    "obis",
    "raw",
    "value",
    ",",
    "\n",
    '"',
    "1",
    "-",
    "power",
    "status",
    "\r",
]


@given(st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=8)).map("".join))
@example("time,power\n" + "9" * 15 + ",1\n")
@example("time,power\n0001-01-01T00:00:00+23:59,1\n")
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found = readings(text, "kitchen")
    except FileError:
        return
    for code in np.unique(found.register).tolist():
        values = found.value[found.register == code]
        assert values.min() >= BY_CODE[code].minimum
        assert values.max() <= BY_CODE[code].maximum


def test_status_words() -> None:
    everything = int(Status.ESTIMATED | Status.SUSPECT | Status.ARRIVAL_TIME)
    assert status_text(everything | 0x8000) == "estimated suspect arrival_time 0x8000"
    assert status_text(0) == ""


def test_the_document_has_the_columns_and_the_words() -> None:
    table = DOCUMENT.split("## Exporting")[1]
    assert tuple(re.findall(r"^\| `(\w+)` \|", table, re.M)) == HEADER
    for bit in Status:
        assert f"`{str(bit.name).lower()}`" in DOCUMENT


def test_the_example_of_the_document() -> None:
    (text,) = re.findall(r"^```csv\n(.*?)^```", DOCUMENT, re.M | re.S)
    assert [row[2] for row in read(text, "kitchen")] == [10_234_500, 230_100, 10_234_900]
