"""The body of a batch: its octets against docs/handover.md, and what is refused."""

from __future__ import annotations

import dataclasses
import re
import struct
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import bare, batch_body
from storage.batch_body import Body, pack, together, unpack
from telemetry.counts import Counts, ListenerCounts, joined
from telemetry.datagrams import ENVELOPE_COLUMNS, Envelopes, Mark
from telemetry.readings import COLUMNS, Readings

DOCUMENT = (Path(__file__).parents[2] / "docs/handover.md").read_text(encoding="utf-8")
OWN = ("register", "status", "time", "value")

Parts = list[tuple[Envelopes, Readings]]


def part(
    envelopes: Sequence[tuple[int, ...]], readings: Sequence[tuple[int, ...]]
) -> tuple[Envelopes, Readings]:
    """Envelopes in the order of their columns, readings as register, status, time, value."""
    made = Envelopes(
        *(
            np.array([row[at] for row in envelopes], dtype)
            for at, dtype in enumerate(ENVELOPE_COLUMNS.values())
        )
    )
    own = {
        name: np.array([row[at] for row in readings], COLUMNS[name]) for at, name in enumerate(OWN)
    }
    repeated = {
        name: np.repeat(getattr(made, name), made.count)
        for name in ("key_high", "key_low", "epoch")
    }
    return made, Readings(**repeated, **own)


def same(one: object, other: object, names: tuple[str, ...]) -> None:
    for name in names:
        first, second = getattr(one, name), getattr(other, name)
        assert first.tolist() == second.tolist()
        assert first.dtype == second.dtype


TWO = part(
    [(1, 2**64 - 1, 5, 9, 2, 7), (3, 4, 0, 0, 0, 0), (2**63, 0, 2**32 - 1, 2**32 - 1, 1, 2)],
    [(1, 0, 1_700_000_000_000, -7), (35, 0x0101, -1, 2**62), (2, 1, 0, -(2**63))],
)
COUNTS = Counts(
    [ListenerCounts("udp 127.0.0.1:5001", 3, {"length": 2}, "7/1", 4_000_000_000, 1)],
    [(1, 2, "tag", 5)],
)


def test_the_body_is_that_of_the_document() -> None:
    said = msgspec.json.encode(COUNTS)
    expected = b"".join(
        (
            struct.pack("<3I", 3, 3, len(said)),
            struct.pack("<3Q", 1, 3, 2**63),
            struct.pack("<3Q", 2**64 - 1, 4, 0),
            struct.pack("<3I", 5, 0, 2**32 - 1),
            struct.pack("<3I", 9, 0, 2**32 - 1),
            struct.pack("<3H", 2, 0, 1),
            struct.pack("<3B", 7, 0, 2),
            struct.pack("<3H", 1, 35, 2),
            struct.pack("<3H", 0, 0x0101, 1),
            struct.pack("<3q", 1_700_000_000_000, -1, 0),
            struct.pack("<3q", -7, 2**62, -(2**63)),
            said,
        )
    )
    assert pack([TWO], COUNTS) == expected
    assert said == (
        b'{"listeners":[{"listener":"udp 127.0.0.1:5001","accepted":3,"refused":{"length":2},'
        b'"socket":"7/1","drops":4000000000,"back_pressure":1}],"meters":[[1,2,"tag",5]]}'
    )
    again = unpack(expected)
    same(again.envelopes, TWO[0], tuple(ENVELOPE_COLUMNS))
    same(again, TWO[1], OWN)
    assert again.counts == COUNTS


def test_the_document_names_the_columns_with_their_widths() -> None:
    rows = re.findall(r"^\| (of each .*?) \| ([\d]+) \*([mn])\* \|$", DOCUMENT, re.MULTILINE)
    for (text, width, _), dtypes in zip(
        rows, (ENVELOPE_COLUMNS, {name: COLUMNS[name] for name in OWN}), strict=True
    ):
        said = re.findall(r"`(\w+)` ([ui])(\d+)", text)
        assert [name for name, _, _ in said] == list(dtypes)
        for (_, kind, bits), dtype in zip(said, dtypes.values(), strict=True):
            assert np.dtype(dtype) == np.dtype(f"{kind}{int(bits) // 8}")
        assert int(width) == sum(np.dtype(dtype).itemsize for dtype in dtypes.values())
    (marks,) = re.findall(r"`marks`: (.*?) The counts", DOCUMENT, re.DOTALL)
    bits = re.findall(r"bit (\d):", marks)
    assert [1 << int(bit) for bit in bits] == list(Mark)


u64, u32, u16 = (st.integers(0, 2**bits - 1) for bits in (64, 32, 16))
i64 = st.integers(-(2**63), 2**63 - 1)


@st.composite
def parts(draw: st.DrawFn) -> tuple[Envelopes, Readings]:
    envelopes = draw(
        st.lists(st.tuples(u64, u64, u32, u32, st.integers(0, 4), st.integers(0, 15)), max_size=6)
    )
    count = sum(row[4] for row in envelopes)
    readings = draw(st.lists(st.tuples(u16, u16, i64, i64), min_size=count, max_size=count))
    return part(envelopes, readings)


@given(st.lists(parts(), max_size=4), st.sampled_from([None, COUNTS]))
def test_what_is_packed_comes_back(given_: Parts, counts: Counts | None) -> None:
    body = unpack(pack(given_, counts))
    envelopes, readings = body.envelopes, body.readings
    same(envelopes, Envelopes.concatenate([one for one, _ in given_]), tuple(ENVELOPE_COLUMNS))
    same(readings, Readings.concatenate([one for _, one in given_]), tuple(COLUMNS))
    assert body.counts == counts
    assert len(body) == len(readings)


@given(st.lists(parts(), max_size=4))
def test_bodies_together_are_what_went_into_them(given_: Parts) -> None:
    body = together([unpack(pack([one])) for one in given_])
    envelopes, readings = body.envelopes, body.readings
    same(envelopes, Envelopes.concatenate([one for one, _ in given_]), tuple(ENVELOPE_COLUMNS))
    same(readings, Readings.concatenate([one for _, one in given_]), tuple(COLUMNS))


@given(parts(), st.sampled_from([None, COUNTS]), st.data())
def test_other_lengths_are_refused(
    one: tuple[Envelopes, Readings], counts: Counts | None, data: st.DataObject
) -> None:
    octets = pack([one], counts)
    cut = data.draw(st.integers(0, len(octets) - 1))
    with pytest.raises(ValueError, match="a batch"):
        unpack(octets[:cut])
    with pytest.raises(ValueError, match="a batch"):
        unpack(octets + bytes(data.draw(st.integers(1, 60))))


@given(parts(), st.data())
def test_other_sums_are_refused(one: tuple[Envelopes, Readings], data: st.DataObject) -> None:
    """The same length, but the envelopes say they brought more or fewer readings."""
    envelopes, readings = one
    if not len(envelopes):
        return
    count = envelopes.count.copy()
    row = data.draw(st.integers(0, len(envelopes) - 1))
    count[row] = data.draw(u16.filter(lambda other: other != count[row]))
    changed = dataclasses.replace(envelopes, count=count)
    with pytest.raises(ValueError, match=r"a batch of \d+ readings has datagrams that brought"):
        unpack(pack([(changed, readings)]))


@given(st.binary(max_size=200), st.integers(0, 3), st.integers(0, 3))
def test_any_other_octets_are_refused_with_one_error(octets: bytes, m: int, n: int) -> None:
    """With a head that may fit, so that they get further than that."""
    rest = struct.pack("<3I", m, n, max(0, len(octets) - 27 * m - 20 * n)) + octets
    for any_ in (octets, rest):
        try:
            body = unpack(any_)
        except ValueError:
            continue
        assert pack([(body.envelopes, body.readings)], body.counts)[:8] == any_[:8]


@pytest.mark.parametrize(
    "counts", [b"x", b"[]", b'{"listeners":3}', b'{"meters":[[1,2]]}', b"\xff"]
)
def test_counts_that_cannot_be_read(counts: bytes) -> None:
    with pytest.raises(ValueError, match="a batch's counts cannot be read"):
        unpack(struct.pack("<3I", 0, 0, len(counts)) + counts)


def test_marks_that_there_are_not() -> None:
    envelopes, readings = part([(1, 2, 3, 4, 0, 16)], [])
    with pytest.raises(ValueError, match="unknown marks"):
        unpack(pack([(envelopes, readings)]))


def test_a_batch_of_counts_alone() -> None:
    body = unpack(pack([], COUNTS))
    assert (len(body), len(body.envelopes), body.counts) == (0, 0, COUNTS)
    assert (len(body.envelopes), len(body.readings)) == (0, 0)
    assert len(together([])) == 0
    assert isinstance(Body.of(*TWO), Body)


# Counts


def test_counts_are_joined() -> None:
    def counts(**changes: object) -> Counts:
        listener = {"listener": "a", "accepted": 1, "refused": {"x": 1}, "socket": "s", "drops": 5}
        return Counts([ListenerCounts(**(listener | changes))], [(1, 2, "tag", 3)])  # type: ignore[arg-type]

    assert joined([]) == Counts()
    assert joined([COUNTS]) == COUNTS
    both = joined(
        [
            counts(back_pressure=2),
            counts(accepted=10, refused={"x": 2, "y": 1}, drops=9, back_pressure=1),
            counts(drops=None),
            counts(listener="b"),
            counts(socket="t", drops=1),
            Counts([], [(1, 2, "tag", 1), (1, 2, "age", 1), (2, 2, "tag", 7)]),
        ]
    )
    assert both == Counts(
        [
            ListenerCounts("a", 12, {"x": 4, "y": 1}, "s", 9, 3),
            ListenerCounts("b", 1, {"x": 1}, "s", 5),
            ListenerCounts("a", 1, {"x": 1}, "t", 1),
        ],
        [(1, 2, "tag", 16), (1, 2, "age", 1), (2, 2, "tag", 7)],
    )


# Bare readings


@given(parts())
def test_bare_readings_come_back(one: tuple[Envelopes, Readings]) -> None:
    octets = bare.pack(one[1])
    same(bare.unpack(octets), one[1], tuple(COLUMNS))
    assert len(octets) == 4 + 40 * len(one[1])
    for other in (octets[:-1], octets + b"\0"):
        with pytest.raises(ValueError, match="bare readings have"):
            bare.unpack(other)


def test_the_octets_of_bare_readings() -> None:
    _, readings = part([(1, 3, 5, 0, 2, 0)], [(1, 0, 7, -7), (35, 0x0101, -1, 2**62)])
    assert bare.pack(readings) == b"".join(
        (
            struct.pack("<I", 2),
            struct.pack("<4Q", 1, 1, 3, 3),
            struct.pack("<2I", 5, 5),
            struct.pack("<4H", 1, 35, 0, 0x0101),
            struct.pack("<4q", 7, -1, -7, 2**62),
        )
    )
    assert batch_body.pack([]) == bytes(12)
