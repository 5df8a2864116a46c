"""The meter's half of acknowledged delivery (docs/delivery.md): what is sent, when, and again.

For many meters at once, in columns. Pure: the time (seconds of a steady clock) and chance are
arguments; the octets are in the outbox, the socket is the courier's. What is kept here of a meter
is its window of 64 numbers, however many more wait.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from telemetry.formats.ack import WINDOW
from telemetry.formats.ack_bulk import Acks
from telemetry.readings import Int64s, UInt64s

Float64s = npt.NDArray[np.float64]

SHORTEST: Final = 1.0  # seconds until the first repeat
LONGEST: Final = 60.0
SHORTENED: Final = 1 / 3  # of a wait, at most, by chance
SILENT_AFTER: Final = 2  # repeats of the oldest without any acknowledgement
_SMOOTHING = 1 / 8
_OFFSETS = np.arange(WINDOW)
_BITS = _OFFSETS.astype(np.uint64)
_ALL = np.uint64(2**64 - 1)
_ONE = np.uint64(1)


@dataclass(frozen=True, slots=True)
class Numbers:
    """Datagrams by their numbers; columns of shape (n,). A meter is its place in the fleet."""

    meter: Int64s
    epoch: Int64s
    sequence: Int64s

    def __len__(self) -> int:
        return len(self.meter)

    def first(self, count: int) -> Numbers:
        """The first ``count`` of them."""
        return Numbers(self.meter[:count], self.epoch[:count], self.sequence[:count])


class Delivery:
    """What of a fleet's datagrams is not acknowledged yet, and when each is to be sent."""

    def __init__(self, meters: int):
        # The epoch under way; its numbers from ``oldest`` to below ``end`` wait, but those whose
        # bit is set in ``done`` (bit i: oldest + i).
        self._epoch = np.zeros(meters, np.int64)
        self._oldest = np.zeros(meters, np.int64)
        self._end = np.zeros(meters, np.int64)
        self._done = np.zeros(meters, np.uint64)
        self._later: dict[int, list[tuple[int, int, int]]] = {}
        # Of each number in the window, at column number % 64; infinite: not to be sent.
        self._due = np.full((meters, WINDOW), np.inf)
        self._sent = np.zeros((meters, WINDOW))
        self._tries = np.zeros((meters, WINDOW), np.int16)
        self._doublings = np.zeros((meters, WINDOW), np.int16)  # of the wait until the next repeat
        self._usual = np.zeros(meters)  # smoothed seconds until an acknowledgement; 0: none yet
        self._unanswered = np.zeros(meters, np.int64)
        self._silent = np.zeros(meters, np.bool_)
        self.heard = -np.inf  # when the last acknowledgement came that may be true

    @property
    def waiting(self) -> int:
        """How many datagrams are not acknowledged."""
        later = sum(end - first for spans in self._later.values() for _, first, end in spans)
        under_way = int((self._end - self._oldest).sum())
        return under_way - int(np.bitwise_count(self._done).sum()) + later

    @property
    def silent(self) -> bool:
        """Whether something waits, and repeats of no meter that waits are answered."""
        waits = self._oldest < self._end
        return bool(waits.any() and (self._unanswered[waits] >= SILENT_AFTER).all())

    @property
    def expecting(self) -> bool:
        """Whether acknowledgements may be on their way."""
        waits = self._oldest < self._end
        return bool((self._unanswered[waits] < SILENT_AFTER).any())

    def next_due(self) -> float:
        """When something is to be sent next; infinite if nothing is."""
        return float(self._due.min(initial=np.inf))

    def add(self, first: Numbers, end: Int64s) -> None:
        """Of each meter, named once, the numbers from its ``first`` to below ``end`` wait now.

        They follow on what waits already: the next numbers of its epoch, or of a greater one.
        """
        empty = self._oldest[first.meter] == self._end[first.meter]
        several = first.meter[empty & (end - first.sequence > 1)]
        # A backlog from before: the oldest shows whether somebody listens at all.
        self._silent[several] = True
        self._begin(first.meter[empty], first.epoch[empty], first.sequence[empty], end[empty])
        same = ~empty & (self._epoch[first.meter] == first.epoch)
        self._end[first.meter[same]] = end[same]
        self._expose(first.meter[same], first.sequence[same])
        for row in np.flatnonzero(~empty & ~same).tolist():
            spans = self._later.setdefault(int(first.meter[row]), [])
            epoch, start = int(first.epoch[row]), int(first.sequence[row])
            if spans and spans[-1][0] == epoch:
                start = spans.pop()[1]
            spans.append((epoch, start, int(end[row])))

    def due(self, now: float) -> Numbers:
        """What is to be sent now, by meter and number."""
        meter, slot = np.divmod(np.flatnonzero(self._due.ravel() <= now), WINDOW)
        oldest = self._oldest[meter]
        sequence = oldest + (slot - oldest) % WINDOW
        order = np.lexsort((sequence, meter))
        meter = meter[order]
        return Numbers(meter, self._epoch[meter], sequence[order])

    def sent(self, numbers: Numbers, now: float, chance: Float64s) -> None:
        """These, of what was due, have left; ``chance``, of their shape, is from [0, 1)."""
        meter, slot = numbers.meter, numbers.sequence % WINDOW
        tries = np.minimum(self._tries[meter, slot] + 1, 100)
        self._tries[meter, slot] = tries
        self._sent[meter, slot] = now
        doublings = self._doublings[meter, slot]
        self._doublings[meter, slot] = np.minimum(doublings + 1, 100)
        pause = self._first_pause(meter) * np.exp2(doublings)
        self._due[meter, slot] = now + np.minimum(pause, LONGEST) * (1 - SHORTENED * chance)
        repeated = meter[(tries > 1) & (numbers.sequence == self._oldest[meter])]
        self._unanswered[repeated] += 1
        fallen = repeated[(self._unanswered[repeated] >= SILENT_AFTER) & ~self._silent[repeated]]
        self._silent[fallen] = True
        probe = fallen, self._oldest[fallen] % WINDOW
        kept = self._due[probe]
        self._due[fallen] = np.inf
        self._due[probe] = kept

    def acknowledged(self, acks: Acks, now: float) -> Numbers:
        """Take acknowledgements that came, in any order.

        The answer names the meters whose oldest changed: of that epoch all below ``sequence`` are
        durable. They must be gone from the outbox, durably, before anything more is sent: started
        again, a meter must not offer numbers that the collector's window has left behind.
        """
        acks = self._possible(acks)
        if len(acks):
            self.heard = now
        self._unanswered[acks.meter] = 0
        opened = np.unique(acks.meter[self._silent[acks.meter]])
        self._silent[opened] = False

        news = np.zeros(len(self._done), np.uint64)
        ahead = acks.next - self._oldest[acks.meter]
        np.bitwise_or.at(news, acks.meter, _ones(ahead) | _shifted(acks.bitmap, ahead + 1))
        news &= _ones(self._end - self._oldest) & ~self._done
        changed = np.flatnonzero(news)
        self._learn(changed, news[changed], now)
        self._done[changed] |= news[changed]

        done = self._done[changed]
        steps = np.bitwise_count((~done & (done + _ONE)) - _ONE).astype(np.int64)
        moved, steps = changed[steps > 0], steps[steps > 0]
        before = self._oldest[moved]
        self._oldest[moved] += steps
        self._done[moved] = _shifted(self._done[moved], -steps)
        self._hurry(acks.meter, now)
        self._expose(moved, before + WINDOW)
        self._expose(opened, self._oldest[opened])
        removed = Numbers(moved, self._epoch[moved], self._oldest[moved])
        if self._later:
            self._begin_later(moved[self._oldest[moved] == self._end[moved]])
        return removed

    def _first_pause(self, meters: Int64s) -> Float64s:
        """Seconds until a number is repeated for the first time."""
        found: Float64s = np.maximum(SHORTEST, 2 * self._usual[meters])
        return found

    def _hurry(self, meters: Int64s, now: float) -> None:
        """The collector hears these meters: what it has not got was lost, and waits no longer."""
        meters = np.unique(meters)
        waits = np.isfinite(self._due[meters]) & (self._doublings[meters] > 0)
        row, slot = np.nonzero(waits)
        meter = meters[row]
        self._doublings[meter, slot] = 0
        soon = now + self._first_pause(meter)
        self._due[meter, slot] = np.minimum(self._due[meter, slot], soon)

    def _possible(self, acks: Acks) -> Acks:
        """Those of the epoch under way that name no number which does not exist.

        Numbers that exist and were not sent yet may be named: they were sent before a restart.
        """
        unnamed = self._end[acks.meter] - acks.next
        return acks.where(
            (acks.epoch == self._epoch[acks.meter])
            & (unnamed >= 0)
            & (acks.bitmap & ~_ones(unnamed - 1) == 0)
        )

    def _learn(self, meters: Int64s, news: UInt64s, now: float) -> None:
        """Numbers became durable: send them no more, and see how long that took."""
        row, offset = np.nonzero((news[:, np.newaxis] >> _BITS) & _ONE)
        if not len(row):
            return
        meter = meters[row]
        slot = (self._oldest[meter] + offset) % WINDOW
        self._due[meter, slot] = np.inf
        # Of one that was sent twice it is not known which one is answered (Karn's rule).
        once = self._tries[meter, slot] == 1
        took = np.where(once, now - self._sent[meter, slot], np.inf)
        took = np.minimum.reduceat(took, np.searchsorted(row, np.arange(len(meters))))
        usual = self._usual[meters]
        smoothed = np.where(usual == 0, took, usual + (took - usual) * _SMOOTHING)
        self._usual[meters] = np.where(np.isfinite(took), smoothed, usual)

    def _begin(self, meters: Int64s, epoch: Int64s, first: Int64s, end: Int64s) -> None:
        """A span of meters of which nothing is under way."""
        self._epoch[meters] = epoch
        self._oldest[meters] = first
        self._end[meters] = end
        self._done[meters] = 0
        self._expose(meters, first)

    def _begin_later(self, meters: Int64s) -> None:
        """Go on with the next epoch of those that have one; a meter has one in centuries."""
        for meter in set(meters.tolist()) & self._later.keys():
            epoch, first, end = self._later[meter].pop(0)
            if not self._later[meter]:
                del self._later[meter]
            columns = (np.array([value], np.int64) for value in (meter, epoch, first, end))
            self._begin(*columns)

    def _expose(self, meters: Int64s, low: Int64s) -> None:
        """Let what is in the windows, from the number ``low`` on, be sent for the first time."""
        oldest = self._oldest[meters][:, np.newaxis]
        numbers = oldest + _OFFSETS
        waits = (self._done[meters][:, np.newaxis] >> _BITS) & _ONE == 0
        waits &= (numbers >= low[:, np.newaxis]) & (numbers < self._end[meters][:, np.newaxis])
        row, offset = np.nonzero(waits)
        meter = meters[row]
        slot = numbers[row, offset] % WINDOW
        self._tries[meter, slot] = self._doublings[meter, slot] = 0
        self._due[meter, slot] = np.where(self._silent[meter] & (offset > 0), np.inf, -np.inf)


def _ones(count: Int64s) -> UInt64s:
    """Masks of so many lowest bits; none for a count below 0, all from 64 on."""
    low = (_ONE << np.clip(count, 0, WINDOW - 1).astype(np.uint64)) - _ONE
    return np.where(count >= WINDOW, _ALL, low)


def _shifted(bits: UInt64s, by: Int64s) -> UInt64s:
    """The bits shifted up by so many places, down where that is negative."""
    places = np.minimum(np.abs(by), WINDOW - 1).astype(np.uint64)
    moved = np.where(by >= 0, bits << places, bits >> places)
    return np.where(np.abs(by) >= WINDOW, np.uint64(0), moved)
