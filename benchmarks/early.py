"""The collector with a fault, for ``kill --control early``: it acknowledges what is not durable.

The receiver says of each datagram that it is durable as soon as it has come. ``serve`` is made to
start its parts as this module, so that the receiver is this one.
"""

from __future__ import annotations

import sys

import numpy as np
import numpy.typing as npt

from cli import main as program
from cli import serve
from storage import handover
from telemetry.datagrams import Envelopes, Mark
from telemetry.formats.ack import ACK
from telemetry.readings import Readings


class Early(handover.Handover):
    """A handover that answers before it hands over."""

    _early: tuple[npt.NDArray[np.void], ...] = ()

    def put(self, envelopes: Envelopes, readings: Readings) -> None:
        """Take what datagrams brought, and acknowledge it at once."""
        asked = np.flatnonzero(envelopes.marks & Mark.ACKNOWLEDGE)
        acks = np.zeros(len(asked), ACK)
        for column in ("key_high", "key_low", "epoch"):
            acks[column] = getattr(envelopes, column)[asked]
        acks["next"] = envelopes.sequence[asked] + 1
        self._early += (acks,)
        super().put(envelopes, readings)

    def acknowledgements(self) -> npt.NDArray[np.void]:
        """What is said to be durable."""
        super().acknowledgements()
        early, self._early = self._early, ()
        return np.concatenate([np.empty(0, ACK), *early])


if __name__ == "__main__":
    handover.Handover = Early  # type: ignore[misc]
    serve.MODULE = "benchmarks.early"
    sys.exit(program.main())
