"""What the writer has done since it started."""

from __future__ import annotations

import statistics
from collections import deque
from typing import Any


class Tally:
    """Counts commits; belongs to the writer's thread."""

    def __init__(self, started_ms: int) -> None:
        self._started = started_ms
        self._readings = self._commits = 0
        self._durations: deque[float] = deque(maxlen=100)

    def committed(self, readings: int, seconds: float) -> None:
        """A transaction was made durable."""
        self._readings += readings
        self._commits += 1
        self._durations.append(seconds)

    def status(self) -> dict[str, Any]:
        """These fields of the status (docs/bus-protocol.md, WriterStatus)."""
        return {
            "started_ms": self._started,
            "readings": self._readings,
            "commits": self._commits,
            "commit_ms": 1000 * statistics.median(self._durations) if self._durations else 0.0,
        }
