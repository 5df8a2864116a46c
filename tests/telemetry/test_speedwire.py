"""Speedwire: captured and composed datagrams, any octets, and docs/formats.md held to the code."""

from __future__ import annotations

import json
import re
import struct
import time
import tomllib
from collections import Counter
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.config_listeners import Listener
from telemetry import meter_id
from telemetry.admission import Allowed, Gate
from telemetry.datagrams import Datagrams, Decoded, halves_of
from telemetry.formats import speedwire, speedwire_layouts
from telemetry.formats import speedwire_clock as clock
from telemetry.formats.names import GROUPS, NAMES
from telemetry.formats.options import Options
from telemetry.formats.speedwire import AVERAGE, COUNTER, NO_VALUE, REGISTERS
from telemetry.formats.table import FORMATS
from telemetry.keys import KeyRing
from telemetry.readings import Status
from telemetry.registers import BY_CODE, BY_NAME
from telemetry.rejects import Reason, RejectedError
from tests.telemetry.rings import KEYS, open_gate, ring_of

ROOT = Path(__file__).parents[2]
VECTORS = ROOT / "tests" / "vectors" / "speedwire"
DOCUMENT = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
SECTION = DOCUMENT.split("\n## SMA Speedwire\n")[1].split("\n## ")[0]
ARRIVAL = 1_795_428_900_000

CAPTURED: list[dict[str, Any]] = json.loads((VECTORS / "captured.json").read_text("utf-8"))
COMPOSED: list[dict[str, Any]] = json.loads((VECTORS / "composed.json").read_text("utf-8"))
GOOD = [*CAPTURED, *(one for one in COMPOSED if "expected" in one)]
BAD = [one for one in COMPOSED if "reason" in one]


def name_of(vector: dict[str, Any]) -> str:
    return str(vector.get("case") or vector["id"])


def octets_of(vector: dict[str, Any]) -> bytes:
    return bytes.fromhex("".join(vector["hex"]))


def decode(*datagrams: bytes, format_: str = "speedwire", gate: Gate | None = None) -> Decoded:
    """By a decoder that has seen nothing yet."""
    decoder = FORMATS[format_].decoder(Options())
    return decoder(Datagrams.of(list(datagrams)), ARRIVAL, gate or open_gate())


def in_a_row(datagram: bytes) -> Datagrams:
    """As the receiver gives it: a row with room, octets of an earlier datagram after it."""
    octets = np.full((1, 1280), 0xA5, np.uint8)
    kept = datagram[:1280]
    octets[0, : len(kept)] = np.frombuffer(kept, np.uint8)
    return Datagrams(octets, np.array([len(datagram)], np.int64), halves_of("127.0.0.1")[None])


def values(decoded: Decoded) -> list[tuple[str, str, int]]:
    """Meter, register and raw integer of each reading."""
    found = decoded.readings
    halves = zip(found.key_high.tolist(), found.key_low.tolist(), strict=True)
    meters = [meter_id.to_name(meter_id.from_halves(*pair)) for pair in halves]
    names = [BY_CODE[code].name for code in found.register.tolist()]
    return list(zip(meters, names, found.value.tolist(), strict=True))


# What the sums of "registers_raw" of the captured ones mean, not by the code's table.
UNITS = {
    "w": ("W", 1), "var": ("var", 1), "va": ("VA", 1), "a": ("A", 1), "v": ("V", 1),
    "ws": ("h", 3600),
}  # fmt: skip


def expected_registers(vector: dict[str, Any]) -> dict[str, Decimal]:
    """The registers' values by what the source of a captured datagram says in words."""
    found = {}
    for said, value in vector["expected"]["normalised"].items():
        match = re.fullmatch(
            r"(total|l\d)_(active|reactive|apparent)_(power|energy)_(import|export)_(\w+)", said
        )
        if match:
            phase, kind, what, way, unit = match.groups()
            name = {"active": "", "reactive": "reactive_", "apparent": "apparent_"}[kind]
            name += f"{what}_{way}"
            if name == "apparent_power_import":
                name = "apparent_power"
            number = Decimal(str(value)) / UNITS[unit][1]
            if what == "energy":
                number = number.quantize(Decimal(1), ROUND_HALF_EVEN)
        elif match := re.fullmatch(r"(total|l\d)_(power_factor|current|voltage)(_[av])?", said):
            phase, name, _ = match.groups()
            number = Decimal(str(value))
        else:
            assert said == "sw_version"
            continue
        found[name if phase == "total" else f"{name}_{phase}"] = number
    return found


# The vectors


@pytest.mark.parametrize("vector", GOOD, ids=name_of)
def test_the_device_s_own_integers(vector: dict[str, Any]) -> None:
    datagram, expected = octets_of(vector), vector["expected"]
    assert len(datagram) == vector["length"]
    found = speedwire.parse(datagram)
    assert hex(found.protocol) == expected["protocol_id"]
    assert (found.susy, found.serial) == (expected["susy_id"], expected["serial"])
    assert found.ticker == expected["ticker_ms"]
    raw = {"{}:{}.{}.{}".format(*obis): value for obis, value in found.raw.items()}
    assert raw == expected["registers_raw"]


@pytest.mark.parametrize("format_", ["speedwire", "auto"])
@pytest.mark.parametrize("vector", GOOD, ids=name_of)
def test_a_datagram_s_registers(vector: dict[str, Any], format_: str) -> None:
    decoder = FORMATS[format_].decoder(Options())
    decoded = decoder(in_a_row(octets_of(vector)), ARRIVAL, open_gate())
    assert (decoded.tally.accepted, decoded.tally.refused) == (1, Counter())
    meter = "{susy_id}-{serial}".format(**vector["expected"])
    found = values(decoded)
    assert {of for of, _, _ in found} == {meter}
    registers = {name: value for _, name, value in found}
    assert len(registers) == len(found)
    if "registers" in vector:
        assert registers == vector["registers"]
        assert list(registers) == list(vector["registers"])  # in the order they were said
    else:
        told = {name: BY_NAME[name].value(raw) for name, raw in registers.items()}
        assert told == expected_registers(vector)
    assert set(decoded.readings.status.tolist()) == {Status.ARRIVAL_TIME}
    assert set(decoded.readings.time.tolist()) == {ARRIVAL}
    assert decoded.envelopes.count.tolist() == [len(found)]
    assert decoded.rows.tolist() == [0]


@pytest.mark.parametrize("vector", BAD, ids=name_of)
def test_a_datagram_that_is_refused(vector: dict[str, Any]) -> None:
    datagram = octets_of(vector)
    decoder = FORMATS["speedwire"].decoder(Options())
    decoded = decoder(in_a_row(datagram), ARRIVAL, open_gate())
    assert decoded.tally.refused == {Reason(vector["reason"]): 1}
    assert len(decoded.readings) == len(decoded.envelopes) == decoded.tally.accepted == 0
    if vector["reason"] in ("foreign", "malformed", "oversized"):
        with pytest.raises(RejectedError, match=f"^{vector['reason']}$"):
            speedwire.parse(datagram)


def test_all_at_once_as_one_by_one() -> None:
    """Layouts, lengths and refused ones mixed: in the order of arrival."""
    vectors = [*GOOD, *BAD, *GOOD[::-1], *BAD]
    decoder = FORMATS["speedwire"].decoder(Options())
    expected = []
    refused = Counter[Reason]()
    for vector in vectors:
        one = decoder(in_a_row(octets_of(vector)), ARRIVAL, open_gate())
        expected += values(one)
        refused += one.tally.refused
    decoded = decode(*map(octets_of, vectors))
    assert values(decoded) == expected
    assert decoded.tally.refused == refused
    assert decoded.tally.accepted == len(decoded.envelopes)
    # Came already: seven of the captured (to the eighth its ticker went back by days, like that of
    # a meter that starts again) and the first composed one of each meter and ticker.
    assert refused[Reason.DUPLICATE] == 7 + 3
    assert decoded.rows.tolist() == sorted(decoded.rows.tolist())


# Who is let in


def with_head(susy: int, serial: int, ticker: int, like: int = 0) -> bytes:
    """A captured datagram as another meter's, or of another instant."""
    octets = octets_of(CAPTURED[like])
    return octets[:18] + struct.pack(">HII", susy, serial, ticker) + octets[28:]


def test_only_allowed_meters_and_networks() -> None:
    gate = Gate(Allowed(["127.0.0.0/8"], ["349-*"]), KeyRing.empty())
    datagrams = [with_head(349, 1, 5), with_head(372, 1, 5), with_head(349, 2, 5)]
    decoded = decode(*datagrams, gate=gate)
    assert {meter for meter, _, _ in values(decoded)} == {"349-1", "349-2"}
    assert decoded.tally.refused == {Reason.NOT_ALLOWED: 1}
    decoder = FORMATS["speedwire"].decoder(Options())
    decoded = decoder(Datagrams.of(datagrams, "192.0.2.1"), ARRIVAL, gate)
    assert decoded.tally.refused == {Reason.NOT_ALLOWED: 3}
    # What did not come in is nothing that came already.
    decoded = decoder(Datagrams.of(datagrams), ARRIVAL, gate)
    assert decoded.tally.refused == {Reason.NOT_ALLOWED: 1}
    assert decoded.tally.accepted == 2


def test_a_meter_that_has_a_key_is_not_believed() -> None:
    octets = b"349-7".ljust(16, b"\0")
    gate = Gate(open_gate().allowed, ring_of([(octets, 1, None, bytes(16)), *KEYS], bytes(32)))
    decoded = decode(with_head(349, 7, 5), with_head(349, 8, 5), gate=gate)
    assert {meter for meter, _, _ in values(decoded)} == {"349-8"}
    assert decoded.tally.refused == {Reason.UNSIGNED: 1}
    assert decoded.tally.meters == {(*meter_id.halves(octets), Reason.UNSIGNED): 1}


def test_one_with_a_bad_value_leaves_the_ticker_as_it_was() -> None:
    good = with_head(349, 7, 1000)
    bad = good.replace(bytes.fromhex("000d0400000003c6"), bytes.fromhex("000d0400000fffff"))
    assert bad != good
    assert decode(bad, good).tally.accepted == 1
    assert decode(bad, good).tally.refused == {Reason.VALUE: 1}


# Any octets


def outcome(datagram: bytes) -> tuple[list[tuple[str, str, int]], dict[Reason, int]]:
    decoded = decode(datagram)
    assert decoded.tally.accepted + decoded.tally.refused.total() == 1
    return values(decoded), dict(decoded.tally.refused)


def parsed(datagram: bytes) -> speedwire.Values | Reason:
    try:
        return speedwire.parse(datagram)
    except RejectedError as rejected:
        return rejected.reason


@given(st.binary(max_size=1300))
def test_any_octets_are_read_or_counted(octets: bytes) -> None:
    outcome(octets)
    outcome(speedwire.MAGIC + octets)


@given(
    st.sampled_from(GOOD),
    st.lists(st.tuples(st.integers(0, 620), st.integers(0, 255)), max_size=6),
    st.integers(0, 620),
    st.binary(max_size=40),
)
def test_what_is_changed_is_read_alike_in_bulk_and_one_by_one(
    vector: dict[str, Any], changes: list[tuple[int, int]], at: int, more: bytes
) -> None:
    good = octets_of(vector)
    changed = bytearray(good)
    for where, octet in changes:
        changed[where % len(changed)] = octet
    changed[at:at] = more
    datagram = bytes(changed)
    # A decoder that knows the layout of the good one must not take the other for one of it.
    decoder = FORMATS["speedwire"].decoder(Options())
    decoder(in_a_row(with_head(1, 1, 1)), ARRIVAL, open_gate())
    decoder(in_a_row(good[:18] + bytes(10) + good[28:]), ARRIVAL, open_gate())
    decoded = decoder(in_a_row(datagram), ARRIVAL, open_gate())
    raw = parsed(datagram)
    if isinstance(raw, Reason):
        assert decoded.tally.refused == {raw: 1}
        return
    expected = {}
    for obis, value in raw.raw.items():
        if obis in REGISTERS and value not in NO_VALUE[obis[2]]:
            exact = Decimal(value) if obis[2] == AVERAGE else Decimal(value) / 3600
            number = int(exact.quantize(Decimal(1), ROUND_HALF_EVEN))
            expected[BY_CODE[REGISTERS[obis]].name] = number
    if decoded.tally.accepted:
        assert {name: value for _, name, value in values(decoded)} == expected
        assert {of for of, _, _ in values(decoded)} == {f"{raw.susy}-{raw.serial}"}
    elif not expected:
        assert decoded.tally.refused == {Reason.NO_READING: 1}
    else:
        assert decoded.tally.refused in ({Reason.VALUE: 1}, {Reason.DUPLICATE: 1})


@pytest.mark.parametrize("vector", [CAPTURED[0], *COMPOSED[:2], COMPOSED[10]], ids=name_of)
def test_one_that_is_cut_anywhere_is_refused(vector: dict[str, Any]) -> None:
    datagram = octets_of(vector)
    decoder = FORMATS["speedwire"].decoder(Options())
    decoder(in_a_row(datagram), ARRIVAL, open_gate())  # it knows the layout
    for length in range(len(datagram)):
        cut = in_a_row(datagram)
        cut.lengths[0] = length
        refused = decoder(cut, ARRIVAL, open_gate()).tally.refused
        assert refused == {Reason.MALFORMED if length >= 4 else Reason.FOREIGN: 1}, length


def test_what_lies_behind_a_datagram_does_not_matter() -> None:
    for vector in GOOD + BAD:
        datagram = octets_of(vector)[:1232]
        rows = in_a_row(datagram)
        zeros = Datagrams(np.zeros_like(rows.octets), rows.lengths, rows.sources)
        zeros.octets[0, : len(datagram)] = rows.octets[0, : len(datagram)]
        parts = []
        for each in (rows, zeros):
            decoder = FORMATS["speedwire"].decoder(Options())
            decoded = decoder(each, ARRIVAL, open_gate())
            parts.append((values(decoded), decoded.tally.refused))
        assert parts[0] == parts[1], name_of(vector)


def made_up(number: int, entries: int) -> bytes:
    """A datagram whose layout only this number has."""
    body = struct.pack(">HHII", 0x6069, 349, number, 5)
    for bit in range(entries):
        body += bytes([number >> bit & 1, 1 + bit, 4, 0]) + bytes(4)
    return b"SMA\0" + struct.pack(">HH", len(body), 0x10) + body + bytes(4)


def test_layouts_that_are_varied_cost_no_more_than_walking() -> None:
    """Time grows with the datagrams, not with their square; memory does not grow."""
    few = Datagrams.of([made_up(number, 13) for number in range(200)])
    many = Datagrams.of([made_up(number, 13) for number in range(6000)])
    decoder = FORMATS["speedwire"].decoder(Options())
    took = []
    for datagrams in (few, many):
        began = time.thread_time()
        tally = decoder(datagrams, ARRIVAL, open_gate()).tally
        assert tally.accepted + tally.refused.total() == len(datagrams)
        took.append((time.thread_time() - began) / len(datagrams))
    assert took[1] < 2 * took[0] + 0.0001
    layouts = speedwire_layouts.Layouts()
    for entries in range(100):
        for number in range(10):
            rows = Datagrams.of([made_up(number, entries)])
            list(layouts.sort(rows, decode().tally))
    kept = layouts._known
    assert len(kept) == speedwire_layouts.MOST_LENGTHS
    assert max(map(len, kept.values())) == speedwire_layouts.MOST_OF_A_LENGTH


# The document


def table(title: str) -> list[list[str]]:
    """The rows of the first table of the section whose first column has this title."""
    _, _, rest = SECTION.partition(f"\n| {title} |")
    lines = rest.split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_table_of_registers_is_the_code_s() -> None:
    said = {}
    for row in table("entry"):
        for entry, name in (row[:2], row[2:]):
            if entry:
                index, type_ = entry.strip("`").split(".")
                said[0, int(index), int(type_), 0] = BY_NAME[name.strip("`")].code
    assert said == REGISTERS
    for (_, number, size, _), code in REGISTERS.items():
        ending = {AVERAGE: 7, COUNTER: 8}[size]
        assert BY_CODE[code].obis == f"1-0:{number}.{ending}.0"


def test_the_table_of_reasons_is_what_happens() -> None:
    said = [row[0].strip("`") for row in table("reason")]
    assert {"foreign", "malformed", "oversized", "no_reading", "value"} == {
        vector["reason"] for vector in BAD
    }
    assert set(said) == {vector["reason"] for vector in BAD} | {
        "not_allowed",
        "unsigned",
        "duplicate",
    }


def test_the_numbers_of_the_document_are_the_code_s() -> None:
    assert f"multicast to `{GROUPS['speedwire']}`, UDP port {speedwire.PORT}" in SECTION
    assert tuple(FORMATS) == NAMES
    assert f"{speedwire.LONGEST:,} octets" in SECTION
    assert FORMATS["speedwire"].longest == speedwire.LONGEST


def test_the_times_of_the_document_are_the_code_s() -> None:
    text = " ".join(SECTION.split())
    assert f"more than {clock.MOST_LAG // 1000} s before the arrival is given up" in text
    assert f"late, by up to {clock.LATE // 1000} s of the ticker" in text
    assert f"goes back by more than {clock.LATE // 1000} s" in text
    assert f"after a pause of {clock.LATE // 1000} s" in text
    assert f"those of the last {clock.LATE // 1000} s, {clock.RECENT} at most" in text
    assert f"remembered of the {clock.MOST_METERS:,} meters" in text


def test_the_configuration_of_the_document() -> None:
    (block,) = re.findall(r"```toml\n(.*?)```", SECTION, re.DOTALL)
    (said,) = tomllib.loads(block)["listeners"]
    listener = Listener(**said)
    assert [said for _, good, said in listener.complaints("listeners.0") if not good] == []
    assert listener.group == GROUPS["speedwire"]
    assert listener.port == speedwire.PORT


SPEEDWIRE_REASONS = [row[0].strip("`") for row in table("reason")]
