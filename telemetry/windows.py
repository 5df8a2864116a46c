"""The collector's half of delivery (docs/delivery.md): windows, verdicts, acknowledgements.

Pure, and without a loop over datagrams: a commit's are judged all at once, those of one meter as
if one after the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from telemetry.formats.ack import WINDOW
from telemetry.readings import Bytes, Int64s, UInt32s, UInt64s

LATE = 15 * 60 * 1000  # ms: who is later sent from an outbox, or after an outage
LAST = 2**32 - 1  # an acknowledgement has no room for the number after this one

Bools = npt.NDArray[np.bool_]

_ONE, _ALL = np.uint64(1), np.uint64(2**64 - 1)
_HALF, _LOW = np.uint64(32), np.uint64(2**32 - 1)
_DEEPEST = np.uint64(WINDOW - 1)
# Swapping halves, quarters … of 64 bits turns them round.
_SWAPS = tuple(
    (np.uint64(width), np.uint64(mask))
    for width, mask in (
        (1, 0x5555555555555555),
        (2, 0x3333333333333333),
        (4, 0x0F0F0F0F0F0F0F0F),
        (8, 0x00FF00FF00FF00FF),
        (16, 0x0000FFFF0000FFFF),
        (32, 0x00000000FFFFFFFF),
    )
)


class Verdict(IntEnum):
    """What a datagram is to its meter's window."""

    UNIQUE = 0
    DUPLICATE = 1
    STALE = 2


@dataclass(frozen=True, slots=True)
class Windows:
    """The windows of k meters; every column has shape (k,).

    Bit i of ``bitmap`` says that number ``highest`` - i of the newest epoch has come; 0 is the
    window of a meter of which nothing has. From ``first`` on its numbers count as lost until they
    come.
    """

    epoch: UInt32s
    highest: UInt32s
    first: UInt32s
    bitmap: UInt64s

    def __len__(self) -> int:
        return len(self.bitmap)

    @classmethod
    def empty(cls, count: int) -> Windows:
        """Of meters of which nothing has come."""
        return cls(*(np.zeros(count, dtype) for dtype in COLUMNS.values()))

    def take(self, rows: npt.NDArray[np.intp] | slice) -> Windows:
        """The windows of the given rows, in their order."""
        return Windows(*(getattr(self, name)[rows] for name in COLUMNS))

    @classmethod
    def concatenate(cls, parts: list[Windows]) -> Windows:
        """The windows of all parts, in the order of the parts."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in COLUMNS))

    def put(self, rows: Int64s, windows: Windows) -> None:
        """Replace the windows of the given rows, which are distinct."""
        for name in COLUMNS:
            getattr(self, name)[rows] = getattr(windows, name)


COLUMNS: dict[str, type[np.generic]] = {
    "epoch": np.uint32,
    "highest": np.uint32,
    "first": np.uint32,
    "bitmap": np.uint64,
}


@dataclass(frozen=True, slots=True)
class Judged:
    """What n datagrams were to k windows, and the windows after them.

    Of each datagram, of shape (n,): its ``verdict``, whether it came ``out_of_order``, and by how
    much it changes its meter's count of ``lost`` numbers.
    """

    verdict: Bytes
    out_of_order: Bools
    lost: Int64s
    windows: Windows


def judge(windows: Windows, group: Int64s, epoch: UInt32s, sequence: UInt32s) -> Judged:
    """Judge n numbered datagrams; ``group``, ``epoch`` and ``sequence`` have shape (n,).

    ``group`` says whose window each concerns, ascending, each of the k at least once; those of one
    are in the order of arrival.
    """
    if not len(group):
        none = np.empty(0, np.bool_)
        return Judged(none.view(np.uint8), none, np.empty(0, np.int64), windows)
    change = group[1:] != group[:-1]
    starts = np.concatenate([[0], np.flatnonzero(change) + 1])
    position, state = _position(epoch, sequence), _position(windows.epoch, windows.highest)
    usual = _follow(windows, group, starts, position, state)
    if usual.all():
        return _in_a_row(windows, group, starts, position)
    if not usual.any():
        return _judge_any(windows, group, starts, epoch, sequence, position, state)
    verdict, lost = np.zeros(len(group), np.uint8), np.zeros(len(group), np.int64)
    out_of_order, after = np.zeros(len(group), np.bool_), Windows.empty(len(windows))
    for chosen in (usual, ~usual):
        rows, those = np.flatnonzero(chosen[group]), np.flatnonzero(chosen)
        own = (np.cumsum(chosen) - 1)[group[rows]]
        part = judge(windows.take(those), own, epoch[rows], sequence[rows])
        verdict[rows], lost[rows] = part.verdict, part.lost
        out_of_order[rows] = part.out_of_order
        after.put(those, part.windows)
    return Judged(verdict, out_of_order, lost, after)


def _follow(
    windows: Windows,
    group: Int64s,
    starts: npt.NDArray[np.intp],
    position: UInt64s,
    state: UInt64s,
) -> Bools:
    """Of which meters each datagram has the number after the one before, as is usual."""
    before = np.empty_like(position)
    before[1:] = position[:-1]
    before[starts] = state
    follows = (position == before + _ONE) & (position >> _HALF == before >> _HALF)
    usual: Bools = windows.bitmap != 0
    if len(starts) == len(group):
        usual &= follows
    else:
        usual &= np.logical_and.reduceat(follows, starts)
    return usual


def _in_a_row(
    windows: Windows, group: Int64s, starts: npt.NDArray[np.intp], position: UInt64s
) -> Judged:
    """What it comes to where each number follows the one before."""
    count = np.diff(starts, append=len(group)).astype(np.uint64)
    highest = (position[starts] + count - _ONE) & _LOW
    # Shifted by 64 nothing is left of a number.
    bitmap = (windows.bitmap << count) | ((_ONE << count) - _ONE)
    after = Windows(windows.epoch, highest.astype(np.uint32), windows.first, bitmap)
    verdict = np.zeros(len(group), np.uint8)
    return Judged(verdict, verdict.view(np.bool_), np.zeros(len(group), np.int64), after)


def _judge_any(
    windows: Windows,
    group: Int64s,
    starts: npt.NDArray[np.intp],
    epoch: UInt32s,
    sequence: UInt32s,
    position: UInt64s,
    state: UInt64s,
) -> Judged:
    change = group[1:] != group[:-1]
    known = windows.bitmap != 0
    begins = np.zeros(len(group), np.bool_)
    begins[starts[~known]] = True
    order = _by_position(position, change)
    before, top = _highest(position, order, starts, np.where(known, state, 0), group)

    forward = begins | (position > before)
    stale = ~forward & (_depth(before, position) == WINDOW)
    bit = windows.bitmap[group] >> _depth(state[group], position)  # 64 bits on there is none
    had = _repeated(group, position, order) | (bit & _ONE != 0)
    duplicate = ~forward & ~stale & had
    out_of_order = ~forward & ~stale & ~had
    verdict = np.zeros(len(group), np.uint8)
    verdict[duplicate] = Verdict.DUPLICATE
    verdict[stale] = Verdict.STALE

    first_epoch = np.where(known, windows.epoch, epoch[starts])
    first = np.where(known, windows.first, np.where(sequence[starts] < WINDOW, 0, sequence[starts]))
    since = np.where(epoch == first_epoch[group], first[group], 0)
    # Of numbers that are skipped: those beyond the highest, or beyond where the count begins.
    number = sequence.astype(np.int64)
    goes_on = ~begins & (epoch == before >> _HALF)
    skipped_from = np.where(goes_on, (before & _LOW).astype(np.int64) + 1, since)
    lost = np.where(forward, number - skipped_from, 0)
    lost[out_of_order & (sequence >= since)] = -1

    top_epoch = (top >> _HALF).astype(np.uint32)
    bits = np.bitwise_or.reduceat(_ONE << _depth(top[group], position), starts)
    after = Windows(
        top_epoch,
        (top & _LOW).astype(np.uint32),
        np.where(top_epoch == first_epoch, first, 0).astype(np.uint32),
        bits | (windows.bitmap << _depth(top, state)),
    )
    return Judged(verdict, out_of_order, lost, after)


def _position(epoch: UInt32s, number: UInt32s) -> UInt64s:
    """Epoch and number as one: the later, the greater."""
    return (epoch.astype(np.uint64) << _HALF) | number


def _by_position(position: UInt64s, change: Bools) -> npt.NDArray[np.intp]:
    """The order by meter, position and arrival; mostly that of arrival."""
    if ((position[1:] >= position[:-1]) | change).all():
        return np.arange(len(position))
    return np.lexsort((position, np.concatenate([[0], np.cumsum(change)])))


def _highest(
    position: UInt64s,
    order: npt.NDArray[np.intp],
    starts: npt.NDArray[np.intp],
    state: UInt64s,
    group: Int64s,
) -> tuple[UInt64s, UInt64s]:
    """The highest position of the meter before each datagram, and of each meter after all."""
    # A place in the order is a rank, and ranks of a later meter are higher: so the highest rank of
    # all that came is the meter's own highest position.
    rank = np.empty(len(order), np.intp)
    rank[order] = np.arange(len(order))
    so_far = position[order[np.maximum.accumulate(rank)]]
    before = np.concatenate([so_far[:1], so_far[:-1]])
    before[starts] = state
    np.maximum(before, state[group], out=before)
    ends = np.append(starts[1:], len(order)) - 1
    return before, np.maximum(so_far[ends], state)


def _repeated(group: Int64s, position: UInt64s, order: npt.NDArray[np.intp]) -> Bools:
    """Whether the same number came before within the commit."""
    one, next_ = order[:-1], order[1:]
    repeated = np.zeros(len(order), np.bool_)
    repeated[next_] = (position[next_] == position[one]) & (group[next_] == group[one])
    return repeated


def _depth(top: UInt64s, position: UInt64s) -> UInt64s:
    """How far numbers lie below others; WINDOW if further, above them, or in another epoch."""
    depth = top - position
    inside = (depth < WINDOW) & (top >> _HALF == position >> _HALF)
    return np.where(inside, depth, np.uint64(WINDOW))


def acknowledgements(windows: Windows) -> tuple[UInt32s, UInt64s]:
    """``next`` and ``bitmap`` of each window that is not empty, of shape (k,) each.

    All up to ``highest`` less 64 counts as told. Of the very last number, whose next has no room,
    nothing is told once all before it have come: who wants to be told does not use it.
    """
    depth = np.minimum(windows.highest, _DEEPEST.astype(np.uint32)).astype(np.uint64)
    missing = ~windows.bitmap & (_ALL >> (_DEEPEST - depth))
    # The bits below the highest one that is missing: so many numbers are above ``next``.
    above = missing.copy()
    for width, _ in _SWAPS:
        above |= above >> width
    count = np.bitwise_count(above).astype(np.uint64)  # 0: none is missing
    following = np.minimum(windows.highest + _ONE - count, np.uint64(LAST))
    told = windows.bitmap & (above >> _ONE)
    for width, mask in _SWAPS:
        told = ((told >> width) & mask) | ((told & mask) << width)
    # Turned round, the number after ``next`` is at bit 65 - count; of 0 and 1 nothing is told.
    told >>= np.minimum(np.uint64(WINDOW + 1) - count, _DEEPEST)
    return following.astype(np.uint32), told


def late(newest_ms: Int64s, now_ms: int) -> Bools:
    """Which datagrams were sent long after their newest readings, instants of Unix time in ms."""
    return newest_ms < now_ms - LATE
