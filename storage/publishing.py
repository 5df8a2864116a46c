"""What the writer asks of who publishes live."""

from __future__ import annotations

from typing import Protocol

from storage.limit_watch import LimitAlert
from telemetry.readings import Readings


class Publisher(Protocol):
    """Where committed readings and alerts go live; called from the writer's thread."""

    def heard(self) -> bool:
        """Whether anybody wants readings now."""

    def readings(self, readings: Readings) -> None:
        """Readings that have just become durable, in the order of their arrival."""

    def alert(self, alert: LimitAlert) -> None:
        """An alert that has just been stored."""
