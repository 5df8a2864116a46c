"""Notifications of Shelly devices: what was captured, what may come, and what the document says."""

from __future__ import annotations

import json
import re
import time
import tracemalloc
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from telemetry import meter_id
from telemetry.admission import LOOPBACK, Allowed, Gate
from telemetry.datagrams import Datagrams, Decoded, halves_of
from telemetry.formats import shelly, shelly_status
from telemetry.formats.options import Options
from telemetry.formats.table import FORMATS
from telemetry.meter_id import to_octets
from telemetry.readings import Status
from telemetry.registers import BY_CODE, BY_NAME
from telemetry.rejects import Reason
from tests.telemetry.rings import open_gate, ring_of

ROOT = Path(__file__).parents[2]
VECTORS = ROOT / "tests" / "vectors" / "shelly"
DOCUMENT = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
OPEN = open_gate()
DECODE = FORMATS["shelly"].decoder(Options())
AUTO = FORMATS["auto"].decoder(Options())
ARRIVAL = 1_783_004_880_250

Meters = dict[str, dict[str, int]]


@dataclass(frozen=True)
class Vector:
    name: str
    datagram: bytes
    arrival: int
    meters: Meters
    time: int
    status: int
    reason: Reason | None


def load() -> list[Vector]:
    cases = json.loads((VECTORS / "notifications.json").read_text(encoding="utf-8"))
    vectors = []
    for case in cases:
        assert isinstance(case["real"], bool)
        assert case["source"]
        reason = Reason(case["reason"]) if "reason" in case else None
        meters = case.get("meters", {})
        assert bool(meters) != bool(reason)
        vectors.append(
            Vector(
                case["case"],
                case["text"].encode(),
                case["arrival"],
                meters,
                case.get("time", 0),
                case.get("status", 0),
                reason,
            )
        )
    return vectors


NOTIFICATIONS = load()
each_vector = pytest.mark.parametrize(
    "vector", NOTIFICATIONS, ids=[vector.name for vector in NOTIFICATIONS]
)
GIVEN = json.loads((VECTORS / "gen2.json").read_text(encoding="utf-8"))["gen2"]


def in_a_row(datagram: bytes, room: int, filler: int = 0xA5) -> Datagrams:
    """As the receiver gives it: a row with room, octets of an earlier datagram after it."""
    octets = np.full((1, room), filler, np.uint8)
    kept = datagram[:room]
    octets[0, : len(kept)] = np.frombuffer(kept, np.uint8)
    return Datagrams(octets, np.array([len(datagram)], np.int64), halves_of("127.0.0.1")[None])


def meters_of(decoded: Decoded, names: set[str]) -> Meters:
    """Registers and raw values by meter, whose names are among ``names``."""
    known = {to_octets(name): name for name in names}
    found: Meters = {}
    readings = decoded.readings
    for high, low, code, value in zip(
        readings.key_high.tolist(),
        readings.key_low.tolist(),
        readings.register.tolist(),
        readings.value.tolist(),
        strict=True,
    ):
        registers = found.setdefault(known[meter_id.from_halves(high, low)], {})
        assert BY_CODE[code].name not in registers
        registers[BY_CODE[code].name] = value
    return found


def check(decoded: Decoded, vector: Vector) -> None:
    names = set(vector.meters)
    assert decoded.tally.accepted == len(names)
    assert decoded.tally.refused == ({vector.reason: 1} if vector.reason else {})
    assert meters_of(decoded, names) == vector.meters
    assert decoded.tally.names == {name for name in names if meter_id.is_long(name)}
    assert set(decoded.readings.time.tolist()) <= {vector.time}
    assert set(decoded.readings.status.tolist()) <= {vector.status}
    assert len(decoded.envelopes) == len(names)


@each_vector
@pytest.mark.parametrize("filler", [0x00, 0x20, 0x7D, 0xA5])
def test_a_notification(vector: Vector, filler: int) -> None:
    check(DECODE(in_a_row(vector.datagram, 4096, filler), vector.arrival, OPEN), vector)


@each_vector
def test_a_listener_that_looks_at_the_first_octets(vector: Vector) -> None:
    if vector.datagram.startswith(shelly.STARTS):
        check(AUTO(in_a_row(vector.datagram, 2048), vector.arrival, OPEN), vector)


def test_all_notifications_in_one_call_keep_their_order() -> None:
    chosen = [vector for vector in NOTIFICATIONS if not vector.status & Status.ARRIVAL_TIME]
    for decode in (DECODE, AUTO):
        if decode is AUTO:
            chosen = [vector for vector in chosen if vector.datagram.startswith(shelly.STARTS)]
        datagrams = Datagrams.of([vector.datagram for vector in chosen])
        decoded = decode(datagrams, 1_848_000_000_000, OPEN)
        rows = [row for row, vector in enumerate(chosen) for _ in vector.meters]
        assert decoded.rows.tolist() == rows
        refused = Counter(vector.reason for vector in chosen if vector.reason)
        assert decoded.tally.refused == refused
        own = decoded.envelopes
        names = [name for vector in chosen for name in vector.meters]
        assert [
            meter_id.from_halves(*halves)
            for halves in zip(own.key_high.tolist(), own.key_low.tolist(), strict=True)
        ] == [to_octets(name) for name in names]
        times = np.repeat([vector.time for vector in chosen for _ in vector.meters], own.count)
        assert decoded.readings.time.tolist() == times.tolist()


# How the given vectors call what they expect, with the register and the raw integers in one unit.
EXPECTED = {
    "power_w": "power",
    "total_w": "power",
    "current_a": "current_l1",
    "voltage_v": "voltage_l1",
    "freq_hz": "frequency",
    "energy_wh": "energy_import",
    "energy_returned_wh": "energy_export",
}


@pytest.mark.parametrize("given_one", GIVEN, ids=[one["id"] for one in GIVEN])
def test_a_given_vector(given_one: dict[str, Any]) -> None:
    expected = given_one["expected"]
    decoded = DECODE(in_a_row(given_one["frame"].encode(), 4096), ARRIVAL, OPEN)
    if isinstance(expected, str):
        assert expected.startswith("ignore")
        assert decoded.tally.refused == {Reason.NO_READING: 1}
        return
    name = expected.pop("meter")
    found = meters_of(decoded, {name})[name]
    if "ts" in expected:
        stated = Decimal(str(expected.pop("ts"))) * 1000
        assert set(decoded.readings.time.tolist()) == {stated}
    assert not decoded.readings.status.any()
    for key, value in expected.items():
        register = BY_NAME[EXPECTED[key]]
        assert found[register.name] == register.raw(Decimal(str(value)))


def test_the_phases_of_the_given_three_phase_meter() -> None:
    (frame,) = (one["frame"] for one in GIVEN if one["id"] == "pro3em-notify-composed")
    name = "shellypro3em-ec6260890b50/em:0"
    assert meters_of(DECODE(in_a_row(frame.encode(), 4096), ARRIVAL, OPEN), {name})[name] == {
        "power_l1": 24037,
        "apparent_power_l1": 25035,
        "current_l1": 10739,
        "power_factor_l1": 960,
        "voltage_l1": 233300,
        "power_l2": 4091,
        "apparent_power_l2": 4431,
        "current_l2": 1872,
        "power_factor_l2": -930,
        "voltage_l2": 236700,
        "power_l3": 2353,
        "apparent_power_l3": 2704,
        "current_l3": 1143,
        "power_factor_l3": -870,
        "voltage_l3": 236900,
        "power": 30481,
        "apparent_power": 32170,
        "current": 13753,
    }


# Whose it is.


def frame(params: object, src: str = "shellypmmini-8cbfeaa0b1c2") -> bytes:
    told = {"src": src, "dst": "*", "method": "NotifyStatus", "params": params}
    return json.dumps(told, separators=(",", ":")).encode()


def test_who_may_send() -> None:
    datagram = frame({"switch:0": {"apower": 1}, "switch:1": {"apower": 2}}, "dev")
    only_one = Gate(Allowed(LOOPBACK, ["*/switch:0"]), ring_of([]))
    decoded = DECODE(in_a_row(datagram, 4096), ARRIVAL, only_one)
    assert meters_of(decoded, {"dev/switch:0"}) == {"dev/switch:0": {"power": 10}}
    assert decoded.tally.refused == {Reason.NOT_ALLOWED: 1}
    nobody = Gate(Allowed([]), ring_of([]))
    decoded = DECODE(in_a_row(datagram, 4096), ARRIVAL, nobody)
    assert decoded.tally.refused == {Reason.NOT_ALLOWED: 2}
    with_a_key = Gate(Allowed(LOOPBACK), ring_of([(to_octets("dev/switch:1"), 1, None, bytes(16))]))
    decoded = DECODE(in_a_row(datagram, 4096), ARRIVAL, with_a_key)
    assert decoded.tally.accepted == 1
    assert decoded.tally.refused == {Reason.UNSIGNED: 1}


def test_a_wrong_component_does_not_take_the_others_with_it() -> None:
    datagram = frame({"switch:0": {"apower": 1}, "switch:1": {"voltage": -2}}, "dev")
    decoded = DECODE(in_a_row(datagram, 4096), ARRIVAL, OPEN)
    assert decoded.tally.accepted == 1
    assert decoded.tally.refused == {Reason.VALUE: 1}


def test_a_component_without_a_reading_is_not_counted_beside_one_with() -> None:
    datagram = frame({"switch:0": {"output": True}, "switch:1": {"apower": 2}}, "dev")
    decoded = DECODE(in_a_row(datagram, 4096), ARRIVAL, OPEN)
    assert meters_of(decoded, {"dev/switch:1"}) == {"dev/switch:1": {"power": 20}}
    assert not decoded.tally.refused


@pytest.mark.parametrize("connected", "abc")
def test_the_frequency_is_that_of_a_phase_that_is_connected(connected: str) -> None:
    said = {f"{phase}_freq": 50.0 if phase == connected else 0.0 for phase in "abc"}
    decoded = DECODE(in_a_row(frame({"em:0": said}, "dev"), 4096), ARRIVAL, OPEN)
    assert meters_of(decoded, {"dev/em:0"}) == {"dev/em:0": {"frequency": 50000}}


# What may come.


def counted(decoded: Decoded) -> int:
    assert len(decoded.envelopes) == decoded.tally.accepted
    assert decoded.envelopes.count.all()
    assert int(decoded.envelopes.count.sum()) == len(decoded.readings)
    return decoded.tally.accepted + decoded.tally.refused.total()


@each_vector
def test_cut_anywhere_it_is_counted_once_and_never_taken(vector: Vector) -> None:
    for length in range(min(len(vector.datagram), shelly.LONGEST)):
        cut = vector.datagram[:length]
        decoded = DECODE(in_a_row(cut, 4096), vector.arrival, OPEN)
        assert decoded.tally.accepted == 0
        ours = cut.startswith(shelly.STARTS)
        assert decoded.tally.refused == {Reason.MALFORMED if ours else Reason.FOREIGN: 1}


@given(st.binary(max_size=300))
@example(b"[" * 100_000)
@example(b'{"src":' * 585)
@example(b'{"src":"a","method":"NotifyStatus","params":' + b'{"em:0":' * 500)
@example(b'{"src":"a","method":"NotifyStatus","params":{"em:0":{"a_errors":' + b"[" * 4000)
@example(b'{"src":"\xff","method":"NotifyStatus","params":{"pm1:0":{"apower":1}}}')
@example(b'{"src":"\\ud800","method":"NotifyStatus","params":{"pm1:0":{"apower":1}}}')
@example(b'{"src":"a","method":"NotifyStatus","params":{"pm1:0":{"\xff":1,"apower":1}}}')
@example(b'{"src":"a","method":"NotifyStatus","params":{"pm1:0":{"apower":1}}}\0')
@example(b'{"src":"a","method":"NotifyStatus","params":{"ts":1e9999999999999999999}}')
def test_any_octets_are_counted_once(datagram: bytes) -> None:
    assert counted(DECODE(in_a_row(datagram, 4096), ARRIVAL, OPEN)) == 1


numbers = st.one_of(
    st.integers(-(10**9), 10**9).map(lambda number: str(Decimal(number).scaleb(-3))),
    st.tuples(st.integers(), st.integers(0), st.integers(-(10**19), 10**19)).map(
        lambda parts: "{}.{}e{}".format(*parts)
    ),
    st.sampled_from(["null", "true", '"5"', "{}", "[]", "0", "-0.0", "1" * 400]),
)
kinds = st.sampled_from([*shelly_status.KINDS, "sys", "input", "bthomesensor", ""])
fields = st.sampled_from(
    [
        *shelly_status.METER,
        *shelly_status.COUNTERS,
        *shelly_status.LOAD,
        *("id", "errors", "temperature", ""),
    ]
)


@st.composite
def statuses(draw: st.DrawFn) -> tuple[bytes, int]:
    """A frame with components of any fields, and how many components it has."""
    components = {}
    for _ in range(draw(st.integers(0, 4))):
        said = [
            f'"{field}":{{"total":{draw(numbers)}}}'
            if field.endswith("aenergy")
            else f'"{field}":{draw(numbers)}'
            for field in draw(st.lists(fields, max_size=6))
        ]
        components[f"{draw(kinds)}:{draw(st.integers(0, 200))}"] = f"{{{','.join(said)}}}"
    params = [f'"ts":{draw(numbers)}'] if draw(st.booleans()) else []
    params += [f'"{name}":{said}' for name, said in components.items()]
    src = draw(st.sampled_from(["shellypro4pm-1", "", "a b", "x" * 70, "é"]))
    method = draw(st.sampled_from(["NotifyStatus", "NotifyFullStatus", "NotifyEvent"]))
    text = f'{{"src":"{src}","method":"{method}","params":{{{",".join(params)}}}}}'
    return text.encode(), len(components)


@given(statuses())
def test_any_status_is_counted_once_a_meter(status: tuple[bytes, int]) -> None:
    datagram, components = status
    decoded = DECODE(in_a_row(datagram, 4096), ARRIVAL, OPEN)
    assert 1 <= counted(decoded) <= max(1, components)
    assert {*decoded.tally.refused} <= {Reason(reason) for reason in REASONS}


def test_what_a_datagram_costs_is_bounded() -> None:
    """The most meters that fit in, and the longest numbers."""
    each = b",".join(b'"pm1:%d":{"pf":1}' % number for number in range(1000))
    most = b'{"src":"a","method":"NotifyStatus","params":{' + each
    most = most[: most.rindex(b",", 0, shelly.LONGEST - 2)] + b"}}"
    digits = b'{"src":"a","method":"NotifyStatus","params":{"pm1:0":{"pf":0.%s}}}' % (b"9" * 4000)
    for datagram in (most, digits):
        datagrams = in_a_row(datagram, 4096)
        tracemalloc.start()
        counted(DECODE(datagrams, ARRIVAL, OPEN))
        octets = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert octets < 512 * 1024
        took = []
        for _ in range(5):
            began = time.thread_time()
            assert counted(DECODE(datagrams, ARRIVAL, OPEN)) == datagram.count(b"pm1:")
            took.append(time.thread_time() - began)
        assert min(took) < 0.01


loads = st.decimals(0, 10**9, allow_nan=False, places=3)


@given(st.sampled_from(sorted(shelly_status.LOAD.items())), loads)
def test_what_a_load_says_is_kept_exactly_rounded_once(
    item: tuple[str, str], value: Decimal
) -> None:
    field, name = item
    value = value if name != "power_factor" else value / 10**9
    said = {"total": float(value)} if field.endswith("aenergy") else float(value)
    written = json.dumps(said)
    datagram = frame({}).replace(
        b'"params":{}', f'"params":{{"pm1:0":{{"{field}":{written}}}}}'.encode()
    )
    decoded = DECODE(in_a_row(datagram, 4096), ARRIVAL, OPEN)
    number = Decimal(
        json.loads(written, parse_float=str)["total"] if isinstance(said, dict) else written
    )
    register = BY_NAME[name]
    if number <= register.value(register.maximum):
        assert decoded.readings.value.tolist() == [register.raw(number)]
    else:
        assert decoded.tally.refused == {Reason.VALUE: 1}


@given(loads, loads)
def test_what_a_load_drew_is_the_sum_less_what_it_returned(one: Decimal, other: Decimal) -> None:
    total, returned = max(one, other), min(one, other)
    kind = shelly_status.KINDS["switch"]
    found = shelly_status.registers(
        kind, {"ret_aenergy": {"total": returned}, "aenergy": {"total": total}}
    )
    assert found == {1: round(total - returned), 2: round(returned)}
    assert shelly_status.registers(kind, {"aenergy": {"total": total}}) == {1: round(total)}


@pytest.mark.parametrize(
    ("stated", "time", "status"),
    [
        ("1783004880.01", 1783004880010, 0),
        ("1733774573.41000008583", 1733774573410, 0),
        ("1783004880", 1783004880000, 0),
        ("1783008480.250", 1783008480250, 0),  # an hour ahead
        ("1783008480.251", ARRIVAL, Status.ARRIVAL_TIME),
        ("946684800", 946684800000, 0),
        ("946684799.99", ARRIVAL, Status.ARRIVAL_TIME),
        *(
            (text, ARRIVAL, Status.ARRIVAL_TIME)
            for text in ("1.61", "0", "-1", "null", "1e999999999")
        ),
    ],
)
def test_the_instant(stated: str, time: int, status: int) -> None:
    text = (
        f'{{"src":"a","method":"NotifyStatus","params":{{"ts":{stated},"pm1:0":{{"apower":1}}}}}}'
    )
    (message,) = shelly.decode_one(text.encode(), ARRIVAL)
    assert (message.time_ms, message.status) == (time, status)


def test_the_same_again_is_the_same_reading() -> None:
    """Nothing is remembered: what storage has already it does not take again."""
    datagrams = Datagrams.of([frame({"ts": 1783004880.01, "pm1:0": {"apower": 5}})] * 2)
    decoded = DECODE(datagrams, ARRIVAL, OPEN)
    assert decoded.tally.accepted == 2
    assert decoded.readings.time.tolist() == [1783004880010] * 2


# The document and the code.


def section() -> str:
    found = re.search(r"^## Shelly\b.*?$(.*?)(?=^## |\Z)", DOCUMENT, re.M | re.S)
    assert found
    return found[1]


def table(first: str) -> list[list[str]]:
    """The rows of the section's table whose first heading is ``first``."""
    lines = section().split(f"| {first} |", 1)[1].splitlines()[2:]
    ended = next(number for number, line in enumerate(lines) if not line.startswith("|"))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[:ended]]


def quoted(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


REASONS = [quoted(row[0])[0] for row in table("reason")]


def test_the_reasons_are_the_documents() -> None:
    assert {vector.reason for vector in NOTIFICATIONS if vector.reason} | {
        Reason.NOT_ALLOWED,
        Reason.UNSIGNED,
    } == set(REASONS)
    assert len(REASONS) == len(set(REASONS))


@pytest.mark.parametrize(
    ("heading", "fields"),
    [
        ("field of a meter", shelly_status.METER),
        ("field of a counter", shelly_status.COUNTERS),
        ("field of a load", shelly_status.LOAD),
    ],
)
def test_the_tables_of_fields(heading: str, fields: dict[str, str]) -> None:
    told: dict[str, str] = {}
    for names, register, *_ in table(heading):
        (target,) = quoted(register)
        for name in quoted(names):
            phases = [("a", "1"), ("b", "2"), ("c", "3")] if name.startswith("a_") else [("a", "1")]
            for phase, line in phases:
                own = re.sub(r"^a_", f"{phase}_", name)
                told[own] = target.replace("l1", f"l{line}") if name.startswith("a_") else target
    assert told == fields


def test_the_components_and_their_meters() -> None:
    told = {
        component: (quoted(meter)[0].split("/")[1].split(":")[0] or component, "sum" in sums)
        for components, meter, sums in table("component")
        for component in (name.split(":")[0] for name in quoted(components))
    }
    own = {name: (kind.meter, kind.sums) for name, kind in shelly_status.KINDS.items()}
    assert told == own


def test_what_else_the_document_says() -> None:
    text = " ".join(section().split())
    assert f"{shelly.LONGEST:,} octets" in text
    assert f"{FORMATS['auto'].longest:,} octets" in text
    assert all(f"`{name}`" in text for name in shelly_status.DOUBTS)
    assert all(f"`{start.decode()}`" in text for start in shelly.STARTS)
