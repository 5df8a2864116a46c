"""What the writer does between two commits: deleting, sealing, merging, thinning, in this order."""

from __future__ import annotations

import sqlalchemy as sa

from storage.database import Begin
from storage.defaults import Defaults
from storage.deletion import Deletions
from storage.ladder import Policy
from storage.retention import Retention
from storage.sealing import Sealer

_DELETING = 0.005  # seconds between two commits


class Upkeep:
    """Belongs to the writer's thread, and uses its transactions."""

    def __init__(self, begin: Begin, engine: sa.Engine, defaults: Defaults, policy: Policy) -> None:
        """``learn`` has to be called before anything else."""
        self._begin = begin
        self.sealer = Sealer(begin, defaults)
        self.deletions = Deletions(begin, engine)
        self._retention = Retention(begin, policy, defaults, self.sealer.look_again)

    def learn(self, connection: sa.Connection) -> None:
        """See how far everything is, at the start and after a transaction that may have failed."""
        self.sealer.learn(connection)
        self.deletions.learn(connection)

    def step(self, now_ms: int, settled: int) -> bool:
        """Do one slice of what is due; whether there was any.

        Rows of the journal are sealed up to ``settled``, where all limits were looked at: those
        behind it tell the next writer which meters are left.
        """
        if self.deletions.work(_DELETING):
            with self._begin() as connection:
                self.sealer.learn(connection)
        # Nobody else may change rows with readings that are to be removed.
        if self.deletions.removing:
            return False
        return self.sealer.step(now_ms, settled) or self._retention.step(now_ms)

    def postpone(self, now_ms: int) -> None:
        """Do nothing for a while: the last slice failed."""
        self.sealer.postpone(now_ms)
        self._retention.postpone(now_ms)
