"""The receiver: owns the UDP sockets, takes datagrams in bulk, hands readings on, acknowledges."""

from __future__ import annotations

import select
import threading
import time
from collections import Counter
from collections.abc import Callable

from telemetry.counts import Counts
from telemetry.keys import KeyRing
from telemetry.listener import Listener
from telemetry.rejects import Reason
from telemetry.replies import Replies
from telemetry.sink import Sink

# A nap after the first datagram lets many gather for one call: enough for what a call costs to
# count no more, few enough for the processor's cache, and a quarter of the socket buffer at most.
SHORTEST_NAP = 0.001
LONGEST_NAP = 0.04
LONGEST_WAITED_FOR = 0.02  # while meters want to be told what is durable
_ENOUGH = 2048
TELL_AGAIN = 3600.0  # seconds: a meter that was deleted and sends again is known by its name again
MOST_TOLD = 100_000
IDLE = 0.05  # seconds between looks at the stop flag and the sink when nothing arrives


def receive(
    listeners: list[Listener],
    sink: Sink,
    stop: threading.Event,
    keys: Callable[[], KeyRing],
    clock: Callable[[], float] = time.time,
) -> None:
    """Take datagrams until ``stop`` is set, then what is still waiting, then close the sink.

    ``keys`` is asked for the meters' keys at the start and once a second; it answers the same ring
    as long as nothing changed.
    """
    part = _Part(listeners, sink, keys, clock)
    poll = select.poll()
    by_fd = {listener.sock.fileno(): listener for listener in listeners}
    for fd in by_fd:
        poll.register(fd, select.POLLIN)
    nap, wait, held = SHORTEST_NAP, IDLE, False
    while not stop.is_set():
        if sink.full():
            held = True
            time.sleep(LONGEST_NAP)
        else:
            if held:  # what was dropped up to here was so because of the sink
                part.measure(held=True)
            held = False
            ready = [by_fd[fd] for fd, _ in poll.poll(wait * 1000)]
            if ready:
                time.sleep(nap)
                # The one whose buffer fills first sets the pace.
                nap = min(_next_nap(nap, part.drain(one), one.holds) for one in ready)
                nap = min(nap, part.longest_nap())
        part.measure(held=held)
        wait = min(IDLE, part.keep_house())
    for listener in listeners:
        part.drain(listener)
        listener.let_go(sink, None)
    part.measure(held=False)
    part.hand_counts()
    part.keep_house()
    sink.close()
    part.acknowledge()


class _Part:
    """What the loop does, beside waiting."""

    def __init__(
        self,
        listeners: list[Listener],
        sink: Sink,
        keys: Callable[[], KeyRing],
        clock: Callable[[], float],
    ) -> None:
        self._listeners, self._sink, self._keys, self._clock = listeners, sink, keys, clock
        self._replies = Replies({one.sock: one.portable for one in listeners})
        self._due = 0.0
        self._ring = KeyRing.empty()
        self._told: dict[str, float] = {}  # when the writer was told long ids
        self._once_a_second()

    def drain(self, listener: Listener) -> int:
        """Take what waits, unless the sink is full, but not what goes on arriving; how many."""
        total = 0
        while not self._sink.full() and total <= 2 * listener.holds:  # no more than was waiting
            taken = listener.take(self._sink, self._replies, int(self._clock() * 1000))
            total += taken
            if taken < listener.most:
                break
        return total

    def longest_nap(self) -> float:
        """How long to nap at most, by whether meters have asked for an answer since the last."""
        return LONGEST_WAITED_FOR if self._replies.were_asked_for() else LONGEST_NAP

    def measure(self, *, held: bool) -> None:
        """Read the kernel's counts."""
        now = time.monotonic()
        for listener in self._listeners:
            listener.measure(now, held=held)

    def keep_house(self) -> float:
        """The sink's turn, acknowledgements, and once a second counts, keys and what is overdue.

        Answers for how many seconds the sink may be left alone.
        """
        if time.monotonic() >= self._due:
            self._once_a_second()
        wait = self._sink.tick()
        self.acknowledge()
        return wait

    def acknowledge(self) -> None:
        """Tell meters what has become durable."""
        self._replies.send(self._sink.acknowledgements(), self._ring)

    def hand_counts(self) -> None:
        """Give the sink what was counted since the last time, if anything was."""
        found = [counts for one in self._listeners if (counts := one.counts())]
        meters: Counter[tuple[int, int, Reason]] = Counter()
        for listener in self._listeners:
            meters.update(listener.tally.meters)
            listener.tally.meters.clear()
        names = self._new_names()
        if found or names:
            of_meters = [(high, low, why.value, n) for (high, low, why), n in meters.items()]
            self._sink.count(Counts(found, of_meters, names))

    def _new_names(self) -> list[str]:
        """The long ids of meters that have not been told for long, of all listeners."""
        heard = set[str]()
        for listener in self._listeners:
            heard |= listener.tally.names
            listener.tally.names.clear()
        now = time.monotonic()
        new = [name for name in heard if now - self._told.get(name, -TELL_AGAIN) >= TELL_AGAIN]
        if len(self._told) + len(new) > MOST_TOLD:
            self._told.clear()
        self._told |= dict.fromkeys(new, now)
        return new

    def _once_a_second(self) -> None:
        self._due = time.monotonic() + 1.0
        self.hand_counts()
        for listener in self._listeners:
            listener.let_go(self._sink, int(self._clock() * 1000))
        ring = self._keys()
        if ring is not self._ring:
            self._ring = ring
            for listener in self._listeners:
                listener.gate.ring = ring


def _next_nap(nap: float, taken: int, holds: int) -> float:
    fitting = nap * min(_ENOUGH, holds // 4) / max(1, taken)
    return min(LONGEST_NAP, nap * 1.25, max(SHORTEST_NAP, nap / 2, fitting))
