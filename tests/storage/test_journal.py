"""The journal's rows: their octets against docs/journal-format.md, their order, what is damaged."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.journal import MOST_READINGS, Batch, DamagedError, decode, encode, series_key, sort
from telemetry.readings import COLUMNS, Readings

Row = tuple[int, int, int, int, int, int]  # meter, register, status, epoch, time, value
NAMES = ("meter", "register", "status", "epoch", "time", "value")
LARGEST_METER = 2**28 - 1  # what the sort key has room for

ROWS: list[Row] = [
    (1, 1, 0, 7, 1_700_000_000_000, 12_345),
    (1, 3, 0x0101, 7, 1_700_000_000_000, -250),
    (2, 1, 2, 0, -1, 2**62),
    (LARGEST_METER, 35, 0xFFFF, 2**32 - 1, 1_700_000_060_000, 500_000),
]

# Packed by hand, field by field, as the document's box shows it.
COLUMNS_OF_ROWS = b"".join(
    (
        struct.pack("<4I", 1, 1, 2, LARGEST_METER),
        struct.pack("<4H", 1, 3, 1, 35),
        struct.pack("<4H", 0, 0x0101, 2, 0xFFFF),
        struct.pack("<4I", 7, 7, 0, 2**32 - 1),
        struct.pack("<4q", 1_700_000_000_000, 1_700_000_000_000, -1, 1_700_000_060_000),
        struct.pack("<4q", 12_345, -250, 2**62, 500_000),
    )
)
OLD = b"WBJ1" + struct.pack("<II", 4, zlib.crc32(COLUMNS_OF_ROWS)) + COLUMNS_OF_ROWS

# Version 2: the width and the least value of each column, then the offsets.
SHORT_COLUMNS = b"".join(
    (
        struct.pack("<Bq", 4, 1),
        struct.pack("<Bq", 1, 1),
        struct.pack("<Bq", 2, 0),
        struct.pack("<Bq", 4, 0),
        struct.pack("<Bq", 8, -1),
        struct.pack("<Bq", 8, -250),
        struct.pack("<4I", 0, 0, 1, LARGEST_METER - 1),
        struct.pack("<4B", 0, 2, 0, 34),
        struct.pack("<4H", 0, 0x0101, 2, 0xFFFF),
        struct.pack("<4I", 7, 7, 0, 2**32 - 1),
        struct.pack("<4Q", 1_700_000_000_001, 1_700_000_000_001, 0, 1_700_000_060_001),
        struct.pack("<4Q", 12_595, 0, 2**62 + 250, 500_250),
    )
)
GOLDEN = b"WBJ2" + struct.pack("<II", 4, zlib.crc32(SHORT_COLUMNS)) + SHORT_COLUMNS


def readings(rows: Sequence[Row]) -> Readings:
    """The rows as a receiver hands them on, without their meters' octets."""
    columns = {name: [row[at] for row in rows] for at, name in enumerate(NAMES)}
    blank = [0] * len(rows)
    values = {"key_high": blank, "key_low": blank} | columns
    return Readings(**{name: np.array(values[name], dtype) for name, dtype in COLUMNS.items()})


def sorted_batch(rows: Sequence[Row]) -> Batch:
    return sort(np.array([row[0] for row in rows], np.uint32), readings(rows))


def rows_of(batch: Batch) -> list[Row]:
    return list(zip(*(getattr(batch, name).tolist() for name in NAMES), strict=True))


def test_the_octets_are_those_of_the_document() -> None:
    assert len(OLD) == 12 + 4 * 28
    assert OLD[:12].hex() == "57424a3104000000" + struct.pack("<I", OLD_CRC).hex()
    assert len(GOLDEN) == 66 + 4 * (4 + 1 + 2 + 4 + 8 + 8)
    assert encode(sorted_batch(ROWS)) == GOLDEN
    assert rows_of(decode(GOLDEN)) == rows_of(decode(OLD)) == ROWS


# Computed once, bit by bit: the CRC-32 of zlib (reflected 0xEDB88320), not the library's call.
OLD_CRC = 0xFFFFFFFF
for _octet in COLUMNS_OF_ROWS:
    OLD_CRC ^= _octet
    for _ in range(8):
        OLD_CRC = OLD_CRC >> 1 ^ (0xEDB88320 if OLD_CRC & 1 else 0)
OLD_CRC ^= 0xFFFFFFFF


def test_an_empty_batch() -> None:
    body = encode(sorted_batch([]))
    assert body == b"WBJ2" + bytes(4) + struct.pack("<I", zlib.crc32(bytes(54))) + bytes(54)
    assert len(decode(body)) == 0


row = st.tuples(
    st.sampled_from([0, 1, 2, 3, 255, 256, 65_536, LARGEST_METER]),
    st.sampled_from([1, 2, 3, 35, 65_535]),
    st.integers(0, 2**16 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-(2**63), 2**63 - 1),
)


@given(st.lists(row, max_size=60))
def test_sorts_as_sorted_does(rows: list[Row]) -> None:
    batch = sorted_batch(rows)
    # Python's sort is stable: of one series the order of arrival stays.
    expected = sorted(rows, key=lambda row: row[:2])
    assert rows_of(batch) == expected
    assert batch.series.tolist() == [
        series_key(meter, register) for meter, register, *_ in rows_of(batch)
    ]
    again = decode(encode(batch))
    assert rows_of(again) == expected
    for name in NAMES:
        assert getattr(again, name).dtype == getattr(batch, name).dtype, name


def test_a_large_batch_stays_stable() -> None:
    count = 200_000
    generator = np.random.default_rng(1)
    meter = generator.integers(0, 50, count).astype(np.uint32)
    nothing = np.zeros(count, np.uint64)
    register = generator.integers(1, 4, count).astype(np.uint16)
    arrived = np.arange(count)
    whole = Readings(
        nothing,
        nothing,
        nothing.astype(np.uint32),
        register,
        nothing.astype(np.uint16),
        arrived,
        arrived * 3,
    )
    batch = sort(meter, whole)
    order = np.lexsort((arrived, register, meter))
    assert (batch.time == order).all()
    assert (batch.value == order * 3).all()
    assert (batch.meter == meter[order]).all()
    assert (batch.register == register[order]).all()


def test_more_than_the_sort_key_can_tell_apart_is_refused() -> None:
    count = MOST_READINGS + 1
    zeros = {name: np.zeros(count, dtype) for name, dtype in COLUMNS.items()}
    with pytest.raises(AssertionError):
        sort(np.zeros(count, np.uint32), Readings(**zeros))


def test_a_meters_registers_are_contiguous() -> None:
    assert series_key(5) == series_key(5, 0) < series_key(5, 1) < series_key(5, 0xFFFF)
    assert series_key(5, 0xFFFF) < series_key(6)


@pytest.mark.parametrize("body", [OLD, GOLDEN], ids=["1", "2"])
def test_cut_short(body: bytes) -> None:
    for length in range(len(body)):
        with pytest.raises(DamagedError):
            decode(body[:length])


@pytest.mark.parametrize("body", [OLD, GOLDEN], ids=["1", "2"])
def test_a_flipped_bit(body: bytes) -> None:
    for bit in range(8 * len(body)):
        damaged = bytearray(body)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DamagedError):
            decode(bytes(damaged))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "a body of 0 octets is too short for a header"),
        (b"WBJ3" + GOLDEN[4:], "the body starts with b'WBJ3', not b'WBJ2'"),
        (GOLDEN + b"\0", f"the body of 4 rows has {len(GOLDEN) + 1} octets"),
        (GOLDEN[:8] + bytes(4) + GOLDEN[12:], "the body's checksum does not match its octets"),
    ],
)
def test_what_is_said_of_damage(body: bytes, said: str) -> None:
    with pytest.raises(DamagedError) as error:
        decode(body)
    assert str(error.value) == said


@given(st.binary(max_size=200))
def test_any_octets_are_damaged_or_whole(octets: bytes) -> None:
    crc = struct.pack("<I", zlib.crc32(octets[4:]))
    for magic in (b"WBJ1", b"WBJ2"):
        for body in (octets, magic + octets, magic + octets[:4] + crc + octets[4:]):
            try:
                batch = decode(body)
            except DamagedError:
                continue
            assert rows_of(decode(encode(batch))) == rows_of(batch)
