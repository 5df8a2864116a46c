"""The golden vectors through every decoder, and docs/wire-format.md held to the code."""

from __future__ import annotations

import ast
import json
import re
import uuid
from collections import Counter
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from telemetry import clock, meter_id
from telemetry.datagrams import Datagrams, Decoded, Mark, halves_of
from telemetry.formats import ack, json_text, native, native_bulk
from telemetry.formats.options import Options
from telemetry.formats.table import FORMATS
from telemetry.readings import Readings, Status
from telemetry.registers import BY_NAME, REGISTERS
from telemetry.rejects import Reason, RejectedError
from tests.telemetry.rings import KEYS, vector_gate

ROOT = Path(__file__).parents[2]
VECTORS = ROOT / "tests" / "vectors"
DOCUMENT = (ROOT / "docs" / "wire-format.md").read_text(encoding="utf-8")

GATE = vector_gate()

Row = tuple[bytes, int, int, int, int, int]  # octets, epoch, register, time, value, status


@dataclass(frozen=True)
class Vector:
    name: str
    datagram: bytes
    arrival: int
    rows: tuple[Row, ...]
    meters: tuple[str, ...]
    reason: Reason | None
    auto: Reason | None  # the reason of an ``auto`` listener
    source: str
    rest: dict[str, Any]

    @property
    def tally(self) -> tuple[int, dict[Reason, int]]:
        return (0, {self.reason: 1}) if self.reason else (1, {})


def places_of(decoded: Decoded) -> list[int]:
    """Which datagram each reading came in."""
    places: list[int] = np.repeat(decoded.rows, decoded.envelopes.count).tolist()
    return places


def load(format: str) -> list[Vector]:
    vectors = []
    for path in sorted((VECTORS / format).glob("*.json")):
        for case in json.loads(path.read_text(encoding="utf-8")):
            datagram = (
                case.pop("text").encode("utf-8")
                if "text" in case
                else bytes.fromhex("".join(case.pop("hex")))
            )
            readings = case.pop("readings", [])
            reason = case.pop("reason", None)
            assert bool(readings) != bool(reason), case
            vectors.append(
                Vector(
                    f"{path.stem}: {case.pop('case')}",
                    datagram,
                    case.pop("arrival"),
                    tuple(
                        (
                            bytes.fromhex(one["octets"]),
                            *(one[key] for key in ("epoch", "register", "time", "value", "status")),
                        )
                        for one in readings
                    ),
                    tuple(one["meter"] for one in readings),
                    Reason(reason) if reason else None,
                    Reason(auto) if (auto := case.pop("auto", reason)) else None,
                    case.pop("source", "127.0.0.1"),
                    case,
                )
            )
    return vectors


NATIVE, JSON = load("native"), load("json")
each_native = pytest.mark.parametrize("vector", NATIVE, ids=[one.name for one in NATIVE])
each_json = pytest.mark.parametrize("vector", JSON, ids=[one.name for one in JSON])


def rows(readings: Readings) -> tuple[Row, ...]:
    columns = (readings.epoch, readings.register, readings.time, readings.value, readings.status)
    octets = [
        meter_id.from_halves(high, low)
        for high, low in zip(readings.key_high.tolist(), readings.key_low.tolist(), strict=True)
    ]
    return tuple(zip(octets, *(column.tolist() for column in columns), strict=True))


def counted(decoded: Decoded) -> tuple[int, dict[Reason, int]]:
    return decoded.tally.accepted, dict(decoded.tally.refused)


def in_a_row(vector: Vector) -> Datagrams:
    """As the receiver gives it: a row with room, octets of an earlier datagram after it."""
    octets = np.full((1, 1280), 0xA5, np.uint8)
    kept = vector.datagram[:1280]
    octets[0, : len(kept)] = np.frombuffer(kept, np.uint8)
    lengths = np.array([len(vector.datagram)], np.int64)
    return Datagrams(octets, lengths, halves_of(vector.source)[None])


@each_native
def test_the_scalar_native_decoder(vector: Vector) -> None:
    if vector.reason:
        with pytest.raises(RejectedError, match=f"^{vector.reason}$"):
            native.decode(vector.datagram, vector.arrival, GATE, vector.source)
        return
    found = native.decode(vector.datagram, vector.arrival, GATE, vector.source)
    assert vector.rows == tuple(
        (found.octets, found.epoch, one.register, one.time, one.value, one.status)
        for one in found.records
    )
    assert {meter_id.to_name(found.octets)} == set(vector.meters)
    for name, value in vector.rest.items():
        assert getattr(found, name) == value


@each_native
def test_the_bulk_native_decoder(vector: Vector) -> None:
    decoded = native_bulk.decode(in_a_row(vector), vector.arrival, GATE)
    assert counted(decoded) == vector.tally
    assert rows(decoded.readings) == vector.rows
    assert places_of(decoded) == [0] * len(vector.rows)
    marks = {"acknowledge": Mark.ACKNOWLEDGE, "key_id": Mark.SIGNED}
    for envelope in decoded.envelopes.marks.tolist():
        assert envelope & Mark.NUMBERED
        for name, mark in marks.items():
            if name in vector.rest:
                assert bool(envelope & mark) == bool(vector.rest[name])
        assert bool(envelope & Mark.SIGNED) == bool(vector.datagram[3])


WITH_KEYS = {octets for octets, *_ in KEYS}
AFTER_THE_METER = {"not_allowed", "unsigned", "unknown_key", "expired", "forged"} | {
    "register",
    "value",
}


@each_native
def test_what_is_refused_of_a_meter_with_a_key_counts_for_it(vector: Vector) -> None:
    octets = vector.datagram[4:20]
    decoded = native_bulk.decode(in_a_row(vector), vector.arrival, GATE)
    expected = (
        {(*meter_id.halves(octets), vector.reason): 1}
        if vector.reason in AFTER_THE_METER and octets in WITH_KEYS
        else {}
    )
    assert decoded.tally.meters == expected


def load_acks() -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = json.loads((VECTORS / "ack" / "acks.json").read_text("utf-8"))
    return cases


@pytest.mark.parametrize("case", load_acks(), ids=[one["case"] for one in load_acks()])
def test_an_acknowledgement(case: dict[str, Any]) -> None:
    datagram, octets = bytes.fromhex("".join(case["hex"])), bytes.fromhex(case["octets"])
    said = ack.Ack(octets, case["epoch"], case["next"], case["bitmap"])
    halves = [np.array([half], np.uint64) for half in meter_id.halves(octets)]
    key_id = np.array([case["key_id"]], np.uint8)
    (row,) = GATE.ring.keys(GATE.ring.meters(*halves), key_id).tolist()
    key = GATE.ring.acknowledgement_key(row) if case["key_id"] else None
    assert ack.encode(said, case["key_id"], key) == datagram
    assert ack.decode(datagram, key) == said
    columns = (*(half[0] for half in halves), *said[1:])
    rows, lengths = ack.encode_many(np.array([columns], ack.ACK), key_id, [key])
    assert rows[0, : lengths[0]].tobytes() == datagram
    assert len(datagram) < 40 + 16 + (16 if key else 0)
    if key:
        for bit in range(8 * len(datagram)):
            mutated = bytearray(datagram)
            mutated[bit // 8] ^= 1 << bit % 8
            assert ack.decode(bytes(mutated), key) is None
    for wrong in (datagram[:-1], datagram + b"\0", b"\xf5" + datagram[1:], b""):
        assert ack.decode(wrong, key) is None


@each_json
def test_the_json_decoder(vector: Vector) -> None:
    decoded = json_text.decode(in_a_row(vector), vector.arrival, GATE)
    assert counted(decoded) == vector.tally
    assert rows(decoded.readings) == vector.rows
    assert [meter_id.to_name(octets) for octets, *_ in vector.rows] == list(vector.meters)


@pytest.mark.parametrize("vector", NATIVE + JSON, ids=[one.name for one in NATIVE + JSON])
def test_a_listener_that_looks_at_the_first_octet(vector: Vector) -> None:
    decoded = FORMATS["auto"].decoder(Options())(in_a_row(vector), vector.arrival, GATE)
    assert counted(decoded) == ((0, {vector.auto: 1}) if vector.auto else (1, {}))
    assert rows(decoded.readings) == vector.rows


@pytest.mark.parametrize(
    ("format", "vectors"),
    [
        ("native", NATIVE),
        ("json", JSON),
        ("auto", [one for one in chain(*zip_longest(NATIVE, JSON)) if one]),
    ],
)
def test_all_vectors_in_one_call_keep_their_order(format: str, vectors: list[Vector]) -> None:
    assert len({vector.arrival for vector in vectors}) == 1
    datagrams = Datagrams.of([vector.datagram for vector in vectors])
    sources = np.stack([halves_of(vector.source) for vector in vectors])
    datagrams = Datagrams(datagrams.octets, datagrams.lengths, sources)
    decoded = FORMATS[format].decoder(Options())(datagrams, vectors[0].arrival, GATE)
    reasons = [vector.auto if format == "auto" else vector.reason for vector in vectors]
    assert decoded.tally.accepted == reasons.count(None)
    assert decoded.tally.refused == Counter(reason for reason in reasons if reason)
    assert rows(decoded.readings) == tuple(row for vector in vectors for row in vector.rows)
    assert places_of(decoded) == [
        place for place, vector in enumerate(vectors) for _ in vector.rows
    ]


def test_every_register_is_sent_at_both_its_bounds() -> None:
    """The vectors know the bounds by hand; here they meet the table."""
    for vectors in (NATIVE, JSON):
        values: dict[int, set[int]] = {}
        for vector in vectors:
            for _, _, code, _, value, _ in vector.rows:
                values.setdefault(code, set()).add(value)
        for register in REGISTERS:
            assert min(values[register.code]) == register.minimum, register
            assert max(values[register.code]) == register.maximum, register


# The document and the code.


def section(heading: str) -> str:
    found = re.search(rf"^## {re.escape(heading)}$(.*?)(?=^## |\Z)", DOCUMENT, re.M | re.S)
    assert found, heading
    return found[1]


def table(text: str, first: str) -> list[list[str]]:
    """The rows of the table whose first heading is ``first``, their marks taken off."""
    lines = text.split(f"| {first} |", 1)[1].splitlines()[2:]
    found = []
    for line in lines:
        if not line.startswith("|"):
            break
        found.append([cell.strip().strip("`") for cell in line.strip("|").split("|")])
    return found


def test_the_table_of_registers() -> None:
    assert table(section("Registers"), "code") == [
        [
            str(register.code),
            register.obis,
            register.name,
            register.unit or "1",
            str(register.scaler),
        ]
        for register in REGISTERS
    ]
    assert BY_NAME["1.8.0"].code == 1
    assert "`1.8.0`" in section("Registers")


def reasons_named(module: str, function: str = "") -> list[str]:
    """The reasons that a module of formats, or one function of it, names, in their order."""
    tree: ast.AST = ast.parse((ROOT / "telemetry" / "formats" / f"{module}.py").read_text("utf-8"))
    if function:
        (tree,) = (
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef) and node.name == function
        )
    named = [
        (node.lineno, Reason[node.attr].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "Reason"
    ]
    return [reason for _, reason in sorted(named)]


NATIVE_REASONS = [row[0] for row in table(section("Native datagram, version 1"), "reason")]
JSON_REASONS = [row[0] for row in table(section("JSON datagram"), "reason")]


def test_the_reasons_of_the_native_datagram_and_their_order() -> None:
    scalar = reasons_named("native", "decode")
    records = scalar.index(Reason.REGISTER)
    opening = reasons_named("native", "_in_clear")
    assert scalar[:records] + opening + scalar[records:] == NATIVE_REASONS
    bulk = list(dict.fromkeys(reasons_named("native_bulk", "_decode_mixed")))
    bulk += [one for one in reasons_named("native_checks", "sift") if one not in bulk]
    assert bulk + reasons_named("native_bulk", "_decode_shape") == NATIVE_REASONS
    assert set(reasons_named("native")) == set(NATIVE_REASONS)
    assert {*reasons_named("native_bulk"), *reasons_named("native_checks")} == set(NATIVE_REASONS)
    assert set(NATIVE_REASONS) == {vector.reason for vector in NATIVE if vector.reason}


def test_the_reasons_of_the_json_datagram() -> None:
    assert set(reasons_named("json_text")) == set(JSON_REASONS)
    assert len(JSON_REASONS) == len(set(JSON_REASONS))
    assert set(JSON_REASONS) == {vector.reason for vector in JSON if vector.reason}


def test_no_reason_is_left_out_of_the_document() -> None:
    others = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    tables = others.split("| reason | when |\n|---|---|\n")[1:]
    rows = [row for part in tables for row in part.split("\n\n", 1)[0].splitlines()]
    named = {row.split("|")[1].strip().strip("`") for row in rows}
    assert named | set(NATIVE_REASONS) | set(JSON_REASONS) == set(Reason)
    # What is the same for all, or special to one, is named where it is the reason of a module.
    own = set(Reason) - set(NATIVE_REASONS) - set(JSON_REASONS)
    assert own == {Reason.DUPLICATE, Reason.NO_READING, Reason.REPLAYED, Reason.BLOCK}
    assert set(reasons_named("table")) == {Reason.FOREIGN, Reason.OVERSIZED}


FIELDS = {"key id": ["key_id"], "meter id": ["key_high", "key_low"], "n": ["count"]} | {
    "0 0 0": ["reserved"],
    "base time": ["base"],
    "raw value": ["value"],
}


def boxes() -> list[list[tuple[str, int, int, str]]]:
    """Each row of boxes: the name of a field, where it starts and ends, its type if it says so."""
    lines = section("Native datagram, version 1").split("```")[1].splitlines()
    found = []
    for number, line in enumerate(lines):
        if not line.strip().startswith("+-") or not lines[number + 1].strip().startswith("|"):
            continue
        edges = [int(edge) for edge in re.findall(r"\d+", lines[number - 1])]
        cells = [cell.strip() for cell in lines[number + 1].strip().strip("|").split("|")]
        assert len(edges) == len(cells) + 1, lines[number - 1]
        # A box starts at its first octet's number and ends at the number of the next one's.
        row = []
        for cell, start, end in zip(cells, edges, edges[1:], strict=False):
            name, _, rest = cell.partition(",")
            type_ = re.match(r"\s*([ui]\d+)\b", rest)
            row.append((name, start, end, type_[1] if type_ else ""))
        found.append(row)
    return found


def test_the_octets_of_the_boxes() -> None:
    header, continued, record = boxes()
    for dtype, row in ((native.HEADER, header + continued), (native.RECORD, record)):
        assert dtype.fields is not None
        named = []
        for name, start, end, type_ in row:
            names = FIELDS.get(name, [name])
            parts = [dtype.fields[one] for one in names]
            assert parts[0][1] == start, name
            assert parts[-1][1] + parts[-1][0].itemsize == end, name
            if type_:
                kind = np.dtype(f"{type_[0]}{int(type_[1:]) // 8}").newbyteorder("<")
                assert parts[0][0] == kind, name
            named += names
        assert tuple(named) == dtype.names
        assert row[0][1] == 0
        assert row[-1][2] == dtype.itemsize


@pytest.mark.parametrize(
    "sentence",
    [
        f"At most {native.LONGEST:,} octets of UDP payload",
        f"| more than {native.LONGEST:,} octets |",
        f"One object, UTF-8, at most {native.LONGEST:,} octets",
        f"fewer than {native.HEADER.itemsize + native.RECORD.itemsize} octets",
        f"n records of {native.RECORD.itemsize} octets",
        f"1 to {native.MOST_UNSIGNED} ({native.MOST_RECORDS} when signed)",
        f"magic | `{native.MAGIC:X}`",
        f"version | {native.VERSION} |",
        "All integers are little-endian",
        f"bit {native.FLAG_ACKNOWLEDGE.bit_length() - 1}: the sender wants an acknowledgement",
        f"bit {native.FLAG_ENCRYPTED.bit_length() - 1}: the records are encrypted",
        f"bit {int(Status.ESTIMATED).bit_length() - 1}: the device estimated",
        f"bit {int(Status.SUSPECT).bit_length() - 1}: the device doubts",
        f"`0x{int(Status.ARRIVAL_TIME):04x}`",
        f"a name of 1 to {meter_id.OCTETS} characters",
        f"to {meter_id.LONGEST_NAME} characters",
        f"`{meter_id.NAMESPACE}`",
    ],
)
def test_a_number_of_the_document_is_the_code_s(sentence: str) -> None:
    assert sentence in " ".join(DOCUMENT.split()), sentence


def test_the_times_of_the_document_are_the_code_s() -> None:
    assert np.datetime64("2000-01-01", "ms").astype(int) == clock.EARLIEST
    assert "before the year 2000" in DOCUMENT
    assert np.timedelta64(1, "h") == np.timedelta64(clock.FUTURE_WINDOW, "ms")
    assert "more than an hour ahead" in DOCUMENT


def test_the_marks_of_a_name_are_the_document_s() -> None:
    found = re.search(r"letters, digits and `([^`]+)`", DOCUMENT)
    assert found
    marks = set(found[1].split())
    for octet in range(1, 256):
        letter = bytes([octet]).decode("latin-1")
        allowed = letter in marks or (octet < 128 and letter.isalnum())
        try:
            named = meter_id.to_name(b"a" + bytes([octet]) + bytes(14)) == "a" + letter
        except ValueError:
            named = False
        assert named == allowed, letter


ARRIVAL = 1_795_428_900_000


def test_the_json_example_of_the_document() -> None:
    (example,) = re.findall(r"```json\n(.*?)\n```", DOCUMENT, re.S)
    found = json_text.decode_one(example.encode("utf-8"), ARRIVAL)
    high, low = meter_id.halves(b"kitchen".ljust(16, b"\0"))
    assert found == [
        (high, low, 0, 1, 0, 1_795_428_900_000, 12_345),
        (high, low, 0, 13, 0, 1_795_428_900_000, 230_100),
    ]
    fields = {row[0] for row in table(section("JSON datagram"), "field")}
    assert set(json.loads(example)) <= fields == json_text._FIELDS


def test_the_line_to_send_by_hand() -> None:
    (line,) = re.findall(r"echo '([^']+)'", DOCUMENT)
    ((_, _, _, register, status, time, value),) = json_text.decode_one(line.encode(), ARRIVAL)
    assert (register, status, time, value) == (1, Status.ARRIVAL_TIME, ARRIVAL, 12_345)


def test_the_namespace_names_long_names() -> None:
    found = re.search(r"namespace\s+`([0-9a-f-]+)`", DOCUMENT)
    assert found
    name = "the-longest-cellar-of-the-house"
    assert meter_id.to_octets(name) == uuid.uuid5(uuid.UUID(found[1]), name).bytes
