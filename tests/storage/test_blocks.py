"""Blocks: golden octets (tests/vectors/blocks, docs/block-format.md), and what is damaged."""

from __future__ import annotations

import json
import struct
import tracemalloc
import zlib
from contextlib import suppress
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pcodec import ChunkConfig, DeltaSpec, ModeSpec, standalone

from storage import block_bits, block_series, blocks
from storage.blocks import BRIEF, LASTING, MOST_READINGS, Stored
from storage.journal import DamagedError
from tests.examples import examples

VECTORS = sorted((Path(__file__).parents[1] / "vectors/blocks").glob("?/*.json"))
NEWEST = [path for path in VECTORS if path.parent.name == "2"]
NAMES = ("meter", "register", "status", "epoch", "time", "value", "late")
TYPES = (np.uint32, np.uint16, np.uint16, np.uint32, np.int64, np.int64, np.int64)
COLUMNS = ("meters", "counts", "time", "value", "epoch", "status", "late")
FIELDS = ("code", *COLUMNS, "cumulative", "divisor", "guide", "narrow")
APART = ("starts", "bases", "levels", "sharp", "lengths", "low")
REFERRING = tuple(name for name in COLUMNS if name != "value")
EFFORTS = {"brief": BRIEF, "lasting": LASTING}


def name_of(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


each_vector = pytest.mark.parametrize("path", VECTORS, ids=name_of)


@cache
def vector(path: Path) -> tuple[Stored, bytes, int]:
    """The readings, the body, and the effort of a vector."""
    found = json.loads(path.read_text(encoding="utf-8"))
    columns = [
        np.array(found["readings"][name], kind) for name, kind in zip(NAMES, TYPES, strict=True)
    ]
    return Stored(*columns), bytes.fromhex(found["body"]), EFFORTS[found["effort"]]


def named(name: str) -> bytes:
    """The body of the vector with this name."""
    return next(vector(path)[1] for path in VECTORS if name_of(path) == name)


def assert_same(found: Stored, expected: Stored) -> None:
    for name, kind in zip(NAMES, TYPES, strict=True):
        column = getattr(found, name)
        assert column.dtype == kind, name
        assert column.tolist() == getattr(expected, name).tolist(), name


def by_hand(body: bytes) -> list[tuple[int, ...]]:
    """The readings of a block, one by one as the document says, in Python's own integers."""
    assert body[:4] in (b"WBB1", b"WBB2")
    assert struct.unpack_from("<I", body, 4)[0] == zlib.crc32(body[8:])
    fields = FIELDS if body[3:4] == b"1" else FIELDS + APART
    registers = [dict(zip(fields, own, strict=True)) for own in msgspec.msgpack.decode(body[8:])]
    readings: list[tuple[int, ...]] = []
    for own in registers:
        columns = {name: column_by_hand(registers, name, own[name]) for name in COLUMNS}
        numbers = list(accumulate(columns["meters"]))
        begins = [sum(columns["counts"][:at]) for at in range(len(numbers))]
        starts, own["firsts"] = (
            column_by_hand(registers, name, own.get(name, [])) or [0] * len(numbers)
            for name in ("starts", "bases")
        )
        instants = columns["time"]
        for first, start in zip(begins, starts, strict=True):
            instants[first] += start
        for at in range(len(instants)):
            if at not in begins:
                instants[at] = wrapped(instants[at] + instants[at - 1])
        own["steps"] = steps_by_hand(registers, own, columns, begins)
        for number, first, count in zip(numbers, begins, columns["counts"], strict=True):
            value = 0
            for at in range(first, first + count):
                value = wrapped(value * own["cumulative"] + own["steps"][at])
                others = columns["status"][at], columns["epoch"][at]
                time = wrapped(instants[at])
                readings.append((number, own["code"], *others, time, value, columns["late"][at]))
        assert {len(columns[name]) for name in COLUMNS[2:]} == {sum(columns["counts"])}
    return readings


def steps_by_hand(
    registers: list[dict[str, Any]],
    own: dict[str, Any],
    columns: dict[str, list[int]],
    begins: list[int],
) -> list[int]:
    """The steps of a register, from what is told of each and its rest."""
    levels = list(accumulate(column_by_hand(registers, "levels", own.get("levels", []))))
    lengths = column_by_hand(registers, "lengths", own.get("lengths", []))
    steps = []
    for at, rest in enumerate(columns["value"]):
        meter = sum(first <= at for first in begins) - 1
        first = at == begins[meter]
        told = 0
        if own["guide"] and not first:
            place, rate = own["guide"]
            told = registers[place]["steps"][at] * rate // 65536
        elif levels and not first:
            level = levels[24 * meter + columns["time"][at] // 3_600_000 % 24]
            told = level if level < 2 else (2 + level % 2) * 2 ** (level // 2 - 1)
        if lengths:
            if first:
                ends = sum(lengths[:meter]) + lengths[meter]
                bits = int.from_bytes(own["low"][ends - lengths[meter] : ends], "little")
            width = min(48, max(0, told.bit_length() - own["sharp"]))
            rest = rest * 2**width + bits % 2**width
            bits >>= width
            assert at + 1 not in (*begins, len(columns["value"])) or bits == 0
        base = own["firsts"][meter] if first else 0
        steps.append((rest + told) * own["divisor"] + base)
    return steps


def column_by_hand(registers: list[dict[str, Any]], name: str, column: Any) -> list[int]:
    """One column's values, or those that it refers to."""
    own = registers[column][name] if isinstance(column, int) else column
    if isinstance(own, bytes):
        values: list[int] = standalone.simple_decompress(own).tolist()
        return values
    runs = zip(own[::2], own[1::2], strict=True)
    return [value for value, length in runs for _ in range(length)]


def wrapped(number: int) -> int:
    """An integer as 64 bits with a sign hold it."""
    return (number + 2**63) % 2**64 - 2**63


def test_there_are_vectors() -> None:
    assert len(VECTORS) == 17 + len(NEWEST)
    assert len(NEWEST) == 19


@each_vector
def test_golden_octets_are_read(path: Path) -> None:
    expected, body, _ = vector(path)
    assert_same(blocks.decode(body), expected)
    rows = zip(*(getattr(expected, name).tolist() for name in NAMES), strict=True)
    assert by_hand(body) == list(rows)


@each_vector
def test_golden_octets_are_read_by_series(path: Path) -> None:
    expected, body, _ = vector(path)
    pairs = set(zip(expected.meter.tolist(), expected.register.tolist(), strict=True))
    for meter in {meter for meter, _ in pairs} | {2**31}:
        for code in {code for _, code in pairs} | {999}:
            begins = block_series.begins(body, meter, code)
            found = block_series.series(body, meter, code)
            own = (expected.meter == meter) & (expected.register == code)
            assert block_series.begins(body, meter, code) == begins  # once it is unpacked
            if (meter, code) in pairs:
                assert found is not None
                assert_same(found, expected.take(own))
                assert begins == found.time[0]
                first, last = (int(found.time[len(found) * share // 4]) for share in (1, 3))
                some = block_series.series(body, meter, code, first, last)
                assert some is not None
                own &= (expected.time >= first) & (expected.time <= last)
                assert_same(some, expected.take(own))
            else:
                assert found is None
                assert begins is None


@pytest.mark.parametrize("path", NEWEST, ids=name_of)
def test_golden_octets_are_written(path: Path) -> None:
    """All but what pcodec packs: another version of it may pack better."""
    expected, body, effort = vector(path)
    written = blocks.encode(expected, effort)
    assert written[:4] == body[:4]
    assert unpacked(written) == unpacked(body)
    assert_same(blocks.decode(written), expected)


def unpacked(body: bytes) -> list[list[Any]]:
    """A block's columns, those that pcodec packed without their octets."""
    registers = msgspec.msgpack.decode(body[8:])
    return [[b"" if isinstance(column, bytes) else column for column in own] for own in registers]


# Packed by hand: MessagePack's octets one by one, as the document's example shows them.
EXAMPLE = bytes.fromhex(
    "91"  # one register
    "dc 0012 01"  # of eighteen fields: code 1
    "92 07 01"  # meters: 7, once
    "92 01 01"  # counts: 1, once
    "92 00 01"  # time: 0, once
    "92 00 01"  # value: 0, once
    "92 03 01"  # epoch: 3, once
    "92 00 01"  # status: 0, once
    "92 00 01"  # late: 0, once
    "c3"  # cumulative
    "01"  # divisor: 1
    "90"  # guide: none
    "c2"  # not narrow
    "92 cf 0000019ab697e800 01"  # starts: 1,764,000,000,000, once
    "92 cd 3039 01"  # bases: 12,345, once
    "90"  # levels: none
    "00"  # sharp: 0
    "90"  # lengths: none
    "c4 00"  # low: nothing
)


def sealed(octets: bytes, magic: bytes = b"WBB2") -> bytes:
    """A body with the right checksum."""
    return magic + struct.pack("<I", zlib.crc32(octets)) + octets


def test_the_octets_are_those_of_the_document() -> None:
    assert named("2/one-reading") == sealed(EXAMPLE)
    document = (Path(__file__).parents[2] / "docs/block-format.md").read_text(encoding="utf-8")
    assert sealed(EXAMPLE).hex(" ") in " ".join(document.split())


def refused(body: bytes) -> str:
    """What decode says of a damaged body; series refuses it too, if asked for what is damaged."""
    with pytest.raises(DamagedError) as error:
        blocks.decode(body)
    refusals = 0
    for code in (1, 2, 3):
        try:
            block_series.series(body, 1, code)
        except DamagedError:
            refusals += 1
    assert refusals
    return str(error.value)


@each_vector
def test_cut_short(path: Path) -> None:
    body = vector(path)[1]
    for length in range(len(body)):
        refused(body[:length])


@each_vector
def test_a_flipped_bit(path: Path) -> None:
    body = vector(path)[1]
    for bit in range(8 * len(body)):
        damaged = bytearray(body)
        damaged[bit // 8] ^= 1 << bit % 8
        refused(bytes(damaged))


def packed(values: list[int], kind: type[np.generic] = np.int64) -> bytes:
    config = ChunkConfig(delta_spec=DeltaSpec.no_op(), mode_spec=ModeSpec.classic())
    return bytes(standalone.simple_compress(np.array(values, kind), config))


def block(*changes: dict[str, Any], code: int = 1) -> bytes:
    """A block of sound registers, each of meter 1 with three readings, but for the changes."""
    registers = []
    for place, change in enumerate(changes):
        columns: dict[str, Any] = {
            "code": code + place,
            "meters": [1, 1],
            "counts": [3, 1],
            "time": [1_000, 3],
            "value": packed([1, 5, 9]),
            "epoch": [1, 3],
            "status": [0, 3],
            "late": packed([0, 7, 0]),
            "cumulative": True,
            "divisor": 1,
            "guide": [],
            "narrow": False,
            "starts": [],
            "bases": [],
            "levels": [],
            "sharp": 0,
            "lengths": [],
            "low": b"",
        }
        registers.append(list((columns | change).values()))
    return sealed(msgspec.msgpack.encode(registers))


def of_version_1(body: bytes) -> bytes:
    """The same block as its first version, which had twelve fields."""
    registers = [own[: len(FIELDS)] for own in msgspec.msgpack.decode(body[8:])]
    return sealed(msgspec.msgpack.encode(registers), b"WBB1")


def test_the_sound_block_is_sound() -> None:
    body = block({}, dict.fromkeys(REFERRING, 0))
    found = blocks.decode(body)
    assert found.register.tolist() == [1, 1, 1, 2, 2, 2]
    assert found.time.tolist() == 2 * [1_000, 2_000, 3_000]
    assert found.value.tolist() == 2 * [1, 6, 15]
    one = block_series.series(body, 1, 2)
    assert one is not None
    assert one.late.tolist() == [0, 7, 0]


HUGE = 2**60
SAME = dict.fromkeys(REFERRING, 0) | {"cumulative": False}
LONG = MOST_READINGS + 1
# Level 9 stands for 24: of its five bits three less are apart, of the second value and the third.
FINE: dict[str, Any] = {"levels": [9, 1, 0, 23], "sharp": 3, "lengths": [1, 1], "low": b"\x0d"}

# What pcodec unpacks to 2^24 equal values: a chunk says in 24 bits how many it has.
MANY_VALUES = bytes.fromhex("70636f2103000201040104ffffff0010004800000000000000040000")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "a block of 0 octets is too short for a header"),
        (b"WBB3" + block({})[4:], "the block starts with b'WBB3', not b'WBB2'"),
        (b"WBJ1" + block({})[4:], "the block starts with b'WBJ1', not b'WBB2'"),
        (b"WBB1" + block({})[4:], "array"),
        (b"WBB2" + of_version_1(block({}))[4:], "array"),
        (block({}) + b"\0", "the block's checksum does not match its octets"),
        (sealed(b""), "truncated"),
        (sealed(b"\x90"), "the block has no registers"),
        (sealed(block({})[8:] + b"\0"), "trailing"),
        (sealed(block({})[8:] + block({})[8:]), "trailing"),
        (sealed(b"\xdd\xff\xff\xff\xff"), "truncated"),
        (sealed(b"\x91\xdc\x00\x12\x01\xc6\xff\xff\xff\xff"), "truncated"),
        (sealed(b"\x91\x9c\x01\xc6\xff\xff\xff\xff", b"WBB1"), "truncated"),
        (block({"more": 0}), "array"),
        (block({"cumulative": 1}), "bool"),
        (block({"code": 2}, {}), "the block's registers do not ascend"),
        (block({"code": 3}, {}), "the block's registers do not ascend"),
        (block({"code": -1}), "the block's registers do not ascend"),
        (block({"code": 65_536}), "the block's registers do not ascend"),
        # References.
        (block({"late": 0}), "the block's late refer to a register that is not before"),
        (block({"late": 1}, {}), "the block's late refer to a register that is not before"),
        (block({"time": -1}), "the block's time refer to a register that is not before"),
        (block({"counts": HUGE}), "the block's counts refer to a register that is not before"),
        (block({}, {"late": 0}, {"late": 1}), "the block's late refer to a reference"),
        (block({}, {"counts": [2, 1], "time": 0}), "the block's time are no runs"),
        # Runs.
        (block({"time": []}), "the block's time are no runs of the right length"),
        (block({"time": [1_000]}), "the block's time are no runs"),
        (block({"time": [1_000, 2, 5]}), "the block's time are no runs"),
        (block({"time": [1_000, 3, 5]}), "the block's time are no runs"),
        (block({"time": [1_000, 2]}), "the block's time are no runs"),
        (block({"time": [1_000, 4]}), "the block's time are no runs"),
        (block({"time": [1_000, 4, 5, -1]}), "the block's time are no runs"),
        (block({"time": [1_000, 0, 5, 3]}), "the block's time are no runs"),
        (block({"time": [1_000, HUGE]}), "the block's time are no runs"),
        (block({"time": [1_000, 2**64 - 1, 5, 4]}), "the block's time are no runs"),
        (block({"time": [2**63, 3]}), "the block's time are out of range"),
        (block({"epoch": [-1, 3]}), "the block's epoch are out of range"),
        (block({"epoch": [2**32, 3]}), "the block's epoch are out of range"),
        (block({"status": [2**16, 3]}), "the block's status are out of range"),
        # Values.
        (block({}, {"value": 0}), "the block's values refer to others"),
        (block({"divisor": 0}), "the block's values are in units of 0"),
        (block({"divisor": 7}), "the block's values are in units of 7"),
        (block({"divisor": 10**7}), "the block's values are in units of 10000000"),
        (block({"value": [2**63, 3]}), "the block's value are out of range"),
        (block({"guide": [0, 1]}), "the block's guide is no register before that grows"),
        (block({}, SAME | {"guide": [0]}), "the block's guide is no place and rate"),
        (block({}, SAME | {"guide": [0, 0]}), "the block's guide is no place and rate"),
        (block({}, SAME | {"guide": [0, 2**31]}), "the block's guide is no place and rate"),
        (block({}, SAME | {"guide": [1, 5]}), "the block's guide is no register before"),
        (block({}, SAME | {"guide": [-1, 5]}), "the block's guide is no register before"),
        (block({"cumulative": False}, SAME | {"guide": [0, 5]}), "no register before that grows"),
        (block({}, {"guide": [0, 5]}), "the block's guide has other readings"),
        (block({"narrow": True}), "the block's value cannot be unpacked"),
        (block({"value": packed([1, 2, 3], np.int32)}), "the block's value cannot be unpacked"),
        # What is told of values, and low bits apart.
        (block({"levels": [0, 23]}), "the block's levels are no runs of the right length"),
        (block({"levels": [0, 25]}), "the block's levels are no runs of the right length"),
        (block({"levels": [-1, 1, 0, 23]}), "the block's levels are out of range"),
        (block({"levels": [94, 1, 0, 23]}), "the block's levels are out of range"),
        (block({"sharp": 64}), "the block's values are sharp by 64 bits"),
        (block({"sharp": -1}), "the block's values are sharp by -1 bits"),
        (block({"low": b"\0"}), "the block's low bits are not as many as their lengths say"),
        (block({"lengths": [1, 1]}), "the block's low bits are not as many as their lengths say"),
        (block({"lengths": [-1, 1]}), "the block's low bits are not as many as their lengths say"),
        (block(FINE | {"lengths": [2, 1], "low": b"ab"}), "not as many as the widths say"),
        (block(FINE | {"lengths": [0, 1], "low": b""}), "not as many as the widths say"),
        (block(FINE | {"lengths": [1, 2]}), "the block's lengths are no runs"),
        (block({}, SAME | {"guide": [0, 5], "starts": [1, 1]}), "guide has other readings"),
        (block({"starts": [1, 2]}), "the block's starts are no runs of the right length"),
        (block({"bases": [1, 2]}), "the block's bases are no runs of the right length"),
        # What pcodec packed.
        (block({"time": b""}), "the block's time cannot be unpacked"),
        (block({"time": b"pco!"}), "the block's time cannot be unpacked"),
        (block({"value": packed([1, 2])}), "the block's value are not 3"),
        (block({"value": packed([1, 2, 3, 4])}), "the block's value are not 3"),
        (block({"value": packed([1] * 700)}), "the block's value are not 3"),
        (block({"value": packed([])}), "the block's value are not 3"),
        (block({"value": packed([1, 2, 3], np.uint64)}), "the block's value cannot be unpacked"),
        (block({"epoch": packed([1, 2, 3])}), "the block's epoch cannot be unpacked"),
        (block({"status": packed([1, 2, 3], np.int16)}), "the block's status cannot be unpacked"),
        (block({"late": packed([1, 2, 3], np.float64)}), "the block's late cannot be unpacked"),
        (block({"value": packed([1, 2, 3])[:-2]}), "the block's value cannot be unpacked"),
        # Meters and their counts.
        (block({"counts": []}), "the block's counts are no runs"),
        (block({"counts": packed([])}), "the block's counts are not those of readings"),
        (block({"counts": [0, 1]}), "the block's counts are not those of readings"),
        (block({"counts": [-3, 1]}), "the block's counts are not those of readings"),
        (block({"counts": [3, 2]}), "the block's meters are no runs"),
        (block({"meters": [1, 2]}), "the block's meters are no runs"),
        (block({"meters": [-1, 1]}), "the block's meters do not ascend"),
        (block({"meters": [2**32, 1]}), "the block's meters do not ascend"),
        (block({"meters": [1, 1, 0, 1], "counts": [1, 1, 2, 1]}), "the block's meters do not"),
        (block({"meters": [2**63 - 1, 2], "counts": [1, 1, 2, 1]}), "the block's meters do not"),
        # More than there is room for.
        (block({"counts": [HUGE, 1]}), "the block's counts are not those of readings"),
        (block({"counts": [HUGE, 16]}), "the block's counts are not those of readings"),
        (block({"counts": [1, HUGE]}), "the block's counts are no runs of the right length"),
        (block({"counts": [LONG, 1]}), "the block's counts are not those of readings"),
        (block({"counts": packed([2**62, 2**62, 2**62, 2**62])}), "the block's counts are not"),
        (block({"counts": MANY_VALUES}), "the block has more than 4194304 meters"),
        (block({"meters": MANY_VALUES}), "the block's meters are not 1"),
        (block({"value": MANY_VALUES}), "the block's value are not 3"),
    ],
)
def test_what_is_said_of_damage(body: bytes, said: str) -> None:
    assert said in refused(body)


def test_values_are_what_the_guide_tells_and_the_rest_in_their_unit() -> None:
    body = block({"divisor": 100}, SAME | {"guide": [0, 3 << 15], "divisor": 10})
    # The energy grows by 500 and 900; times 1.5 and with the rest of 1, 5, 9, all in tens.
    power = [10, (750 + 5) * 10, (1350 + 9) * 10]
    assert blocks.decode(body).value.tolist() == [100, 600, 1500, *power]
    one = block_series.series(body, 1, 2)
    assert one is not None
    assert one.value.tolist() == power
    narrow = block({"value": packed([1, 5, 9], np.int32), "narrow": True})
    assert blocks.decode(narrow).value.tolist() == [1, 6, 15]


def test_values_are_what_their_hour_tells_and_the_rest_with_its_low_bits() -> None:
    body = block(FINE | {"cumulative": False, "divisor": 10, "bases": [7, 1]})
    # No low bits of the first, 01 and 11 of the others.
    values = [1 * 10 + 7, (24 + 5 * 4 + 1) * 10, (24 + 9 * 4 + 3) * 10]
    assert blocks.decode(body).value.tolist() == values
    one = block_series.series(body, 1, 1)
    assert one is not None
    assert one.value.tolist() == values


def test_low_bits_are_read_up_to_the_widest() -> None:
    widths = np.array([48, 1, 48, 0, 47, 48, 7], np.int64)
    numbers = np.array([-1, 1, 2**47 + 5, 9, 2**46 + 3, 2**48 - 1, 0x55], np.int64)
    firsts = np.array([0, 3, 4], np.int64)
    octets, lengths = block_bits.pack(numbers, widths, firsts)
    assert lengths.tolist() == [13, 0, 13]
    assert len(octets) == 26
    found = block_bits.unpack(octets, widths, firsts, lengths)
    assert found.tolist() == [int(n) % 2 ** int(w) for n, w in zip(numbers, widths, strict=True)]


def test_the_first_version_is_read_as_it_was() -> None:
    body = of_version_1(block({"time": [1_000, 3]}, dict.fromkeys(REFERRING, 0)))
    assert blocks.decode(body).time.tolist() == 2 * [1_000, 2_000, 3_000]
    assert by_hand(body) == by_hand(block({"time": [1_000, 3]}, dict.fromkeys(REFERRING, 0)))


def test_regular_readings_of_many_meters_have_no_octets_of_time() -> None:
    stored = vector(next(path for path in NEWEST if path.stem == "households"))[0]
    energy, power = (
        dict(zip(FIELDS + APART, own, strict=True))
        for own in msgspec.msgpack.decode(blocks.encode(stored)[8:])
    )
    assert energy["time"] == [1_800_000, 600]
    assert energy["starts"] == [1_764_000_000_000 - 1_800_000, 3]
    assert energy["levels"], "energy is told by the hour"
    assert power["guide"], "power by the energy"
    assert energy["low"], "low bits are apart"
    assert power["low"], "low bits are apart"


def test_readings_of_all_registers_together_are_bounded() -> None:
    half = MOST_READINGS // 2 + 1
    runs = {"counts": [half, 1]} | {
        name: [1, half] for name in ("time", "value", "epoch", "status", "late")
    }
    assert len(blocks.decode(block(runs))) == half
    with pytest.raises(DamagedError, match="the block's counts are not those of readings"):
        blocks.decode(block(runs, runs | dict.fromkeys(REFERRING, 0)))


def test_many_values_in_few_octets_take_no_room() -> None:
    assert len(MANY_VALUES) < 100
    assert len(standalone.simple_decompress(MANY_VALUES)) == 2**24, "it says what it should say"
    tracemalloc.start()
    try:
        for column in ("time", "value", "late", "meters"):
            refused(block({column: MANY_VALUES}))
            refused(block({column: [1, HUGE]}))
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def decoded(body: bytes) -> None:
    """Decode a body whole and by series, or have it refused; nothing else may happen."""
    try:
        found = blocks.decode(body)
    except DamagedError:
        found = None
    for meter, code in ((1, 1), (12, 1), (3, 3)):
        begins = own = None
        with suppress(DamagedError):
            begins = block_series.begins(body, meter, code)
        try:
            own = block_series.series(body, meter, code)
        except DamagedError:
            continue
        assert begins == (None if own is None else own.time[0])
        if found is not None:
            rows = (found.meter == meter) & (found.register == code)
            assert (own is None) == (not rows.any())
            if own is not None:
                assert_same(own, found.take(rows))


@settings(max_examples=examples(300), deadline=None)
@given(st.binary(max_size=200))
def test_any_octets_are_damaged_or_whole(octets: bytes) -> None:
    decoded(octets)
    decoded(sealed(octets))


column = st.one_of(
    st.binary(max_size=40),
    st.lists(st.one_of(st.integers(-3, 9), st.integers(-(2**63), 2**64 - 1)), max_size=8),
    st.tuples(st.integers(0, 3), st.integers(1, 3)).map(list),
    st.integers(-2, 3),
    st.lists(st.integers(0, 5), min_size=1, max_size=5).map(packed),
)


@settings(max_examples=examples(500), deadline=None)
@given(
    st.lists(
        st.tuples(
            st.one_of(st.integers(0, 3), st.integers(-(2**63), 2**64 - 1)),
            *(column for _ in COLUMNS),
            st.booleans(),
            st.just(1),
            st.just([]),
            st.just(False),
            *(column for _ in range(3)),
            st.integers(0, 64),
            column,
            st.binary(max_size=3),
        ),
        max_size=4,
    )
)
def test_any_columns_are_damaged_or_whole(registers: list[tuple[Any, ...]]) -> None:
    decoded(sealed(msgspec.msgpack.encode(registers)))


@settings(max_examples=examples(500), deadline=None)
@given(
    path=st.sampled_from(VECTORS),
    places=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_changed_octets_under_a_right_checksum(path: Path, places: list[tuple[int, int]]) -> None:
    octets = bytearray(vector(path)[1][8:])
    for place, octet in places:
        octets[place % len(octets)] = octet
    decoded(sealed(bytes(octets), vector(path)[1][:4]))


def test_any_octet_of_a_vector_may_change_under_a_right_checksum() -> None:
    for name in ("1/two-registers", "2/conflicts", "2/largest-numbers", "2/two-registers"):
        magic, octets = named(name)[:4], named(name)[8:]
        for place in range(len(octets)):
            for octet in (0, 1, 0x7F, 0x80, 0xFF, octets[place] ^ 1):
                decoded(sealed(octets[:place] + bytes([octet]) + octets[place + 1 :], magic))


def test_more_readings_than_a_decoder_takes_are_not_encoded() -> None:
    zeros: list[Any] = [np.zeros(MOST_READINGS + 1, kind) for kind in TYPES]
    with pytest.raises(AssertionError):
        blocks.encode(Stored(*zeros))


def of_values(values: list[int]) -> bytes:
    """A block of one series with these, a reading a second."""
    some = np.array(values, np.int64)
    return blocks.encode(
        Stored(
            meter=np.full(len(some), 1, np.uint32),
            register=np.full(len(some), 1, np.uint16),
            status=np.zeros(len(some), np.uint16),
            epoch=np.ones(len(some), np.uint32),
            time=1_000 * np.arange(len(some)),
            value=some,
            late=np.zeros(len(some), np.int64),
        )
    )


def test_what_was_unpacked_is_remembered_within_bounds_the_last_asked_for_longest() -> None:
    rng = np.random.default_rng(1)
    bodies = [of_values(rng.integers(0, 1 << 40, 2_000).tolist()) for _ in range(12)]
    remembered = block_series.Unpacked(6 * 60_000)
    first = remembered.of(bodies[0], 1)
    for body in bodies:
        found = remembered.of(body, 1)
        assert found is not None
        assert found.value.tolist() == blocks.decode(body).value.tolist()
        assert remembered.of(bodies[0], 1) is first
        assert remembered.of(bodies[0], 2) is None
        assert remembered.octets <= 6 * 60_000
    assert remembered.of(bodies[11], 1) is found
    assert remembered.octets > 3 * 60_000
    too_large = of_values(rng.integers(0, 1 << 40, 40_000).tolist())
    assert remembered.of(too_large, 1) is not None
    assert remembered.octets == 0


def test_other_octets_with_the_same_head_and_length_are_another_block() -> None:
    one = of_values([5, 7, 9])
    remembered = block_series.Unpacked(1 << 20)
    remembered.of(one, 1)
    other = one[:-1] + bytes([one[-1] ^ 1])
    with pytest.raises(DamagedError, match="checksum"):
        remembered.of(other, 1)
    again = remembered.of(bytes(bytearray(one)), 1)
    assert again is not None
    assert again.value.tolist() == [5, 7, 9]


def test_nobody_changes_what_is_remembered() -> None:
    found = block_series.series(of_values([5, 7, 9]), 1, 1)
    assert found is not None
    for name in ("status", "epoch", "time", "value", "late"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(found, name)[0] = 1
