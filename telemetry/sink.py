"""Where a receiver's readings go: what it asks of whoever takes them."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from telemetry.counts import Counts
from telemetry.datagrams import Envelopes
from telemetry.readings import Readings


class Sink(Protocol):
    """Where decoded readings go; all methods are called from the receiver's own thread."""

    def full(self) -> bool:
        """Whether it cannot take more now; the receiver then leaves datagrams to the kernel."""

    def put(self, envelopes: Envelopes, readings: Readings) -> None:
        """Take what datagrams brought; it is no longer the receiver's."""

    def count(self, counts: Counts) -> None:
        """Hand over what was counted since the last call, with the next batch."""

    def acknowledgements(self) -> npt.NDArray[np.void]:
        """What became durable since the last call and is to be told meters; of dtype ACK."""

    def tick(self) -> float:
        """Send what is due, take in answers; for how many seconds it may then be left alone."""

    def close(self) -> None:
        """Hand over all that was put, and wait, for a bounded time, until it is durable."""
