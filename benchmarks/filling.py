"""The writer's own path in this process: commits and slices of sealing, timed one by one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from benchmarks.homes import Homes
from storage.defaults import Defaults
from storage.engine import Database
from storage.group import Group
from storage.limit_watch import LimitAlert
from storage.writer import Writer
from telemetry.readings import Readings

LARGEST = 65_536  # values of a commit
REGISTERS = 2
# Readings of 1,000 meters in eight passes of sealing: in so many each group's blocks are merged
# once, however many the last turn has left of them.
TURN = 4_200_000
_CLOCKS = {"process": time.process_time, "thread": time.thread_time}


@dataclass
class Cost:
    """What a kind of work took: seconds of CPU by each clock, and each call's, wall and CPU."""

    cpu: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_CLOCKS, 0.0))
    calls: list[float] = field(default_factory=list)
    calls_cpu: list[float] = field(default_factory=list)

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Add what happens inside."""
        before = {name: clock() for name, clock in _CLOCKS.items()}
        began = time.perf_counter()
        try:
            yield
        finally:
            self.calls.append(time.perf_counter() - began)
            used = {name: clock() - before[name] for name, clock in _CLOCKS.items()}
            for name, seconds in used.items():
                self.cpu[name] += seconds
            self.calls_cpu.append(used["thread"])

    def micros(self, readings: int, clock: str = "process") -> float:
        """Microseconds of CPU a reading."""
        return self.cpu[clock] / readings * 1e6

    def slowest(self, share: float = 1.0) -> float:
        """The longest call in ms, or the one longer than such a share of them."""
        return _at(self.calls, share)

    def slowest_cpu(self, share: float = 1.0) -> float:
        """The same by CPU: what it takes where nothing else runs and the disk does not wait."""
        return _at(self.calls_cpu, share)


def _at(calls: list[float], share: float) -> float:
    ordered = sorted(calls)
    return 1000 * ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


@dataclass
class Costs:
    """What storing took, by kind."""

    commit: Cost = field(default_factory=Cost)
    seal: Cost = field(default_factory=Cost)
    rest: Cost = field(default_factory=Cost)  # sealing of what was not due yet
    alerts: Cost = field(default_factory=Cost)
    readings: int = 0

    def commits(self, clock: str = "process") -> float:
        """Microseconds of CPU a reading for commits."""
        return self.commit.micros(self.readings, clock)

    def sealing(self, clock: str = "process") -> float:
        """Microseconds of CPU a reading for sealing."""
        return sum(cost.micros(self.readings, clock) for cost in (self.seal, self.rest))

    def both(self, clock: str = "process") -> float:
        """Microseconds of CPU a reading for commits and sealing together."""
        return self.commits(clock) + self.sealing(clock)


class _Nobody:
    """Takes what would be published; nobody listens."""

    def heard(self) -> bool:
        """Always, if there is anybody."""
        return True

    def readings(self, readings: Readings) -> None:
        """Nothing is published."""

    def alert(self, alert: LimitAlert) -> None:
        """Nothing is published."""


class Filler(Writer):
    """A writer that is given its readings here instead of by receivers."""

    def __init__(self, database: Database, defaults: Defaults) -> None:
        """Open the database, which nobody else may write to."""
        endpoint = f"inproc://filling-{id(self)}"
        super().__init__(database, endpoint, defaults, _Nobody())
        self.costs = Costs()

    def fill(
        self, homes: Homes, rounds: int, progress: Callable[[int], None] = lambda _: None
    ) -> Costs:
        """Store the homes' next readings; what it took.

        Between two commits all is done that is due, as it is where the writer is not at its limit.
        """
        self.costs = Costs()
        batch = max(1, LARGEST // (REGISTERS * homes.count))
        for done in range(0, rounds, batch):
            readings = homes.readings(min(batch, rounds - done))
            with self.costs.commit.timed():
                group = Group.of_nobody(readings, int(time.time() * 1000))
                self._committing.commit(group, self._spooling.spool.number())
            self.costs.readings += len(readings) // REGISTERS
            self._work()
            progress(self.costs.readings)
        return self.costs

    def _work(self) -> None:
        while self._watch.waiting and not self._postponed():
            with self.costs.alerts.timed():
                self._settle_limits()
        self._busy = True
        while self._busy:
            with self.costs.seal.timed():
                self._seal()

    def seal_all(self) -> None:
        """Seal what is in the journal, whether it is due or not, and merge what is to be merged."""
        with self.costs.rest.timed():
            self._upkeep.sealer.seal_all()
