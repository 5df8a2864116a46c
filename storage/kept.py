"""What is told once a group is durable: to receivers, and to those who listen live."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from storage.group import Group
from storage.judged import Judged
from telemetry.readings import Readings


@dataclass(frozen=True, slots=True)
class Kept:
    """The readings that are stored, and the acknowledgements (ACK) by receiver."""

    readings: Readings
    acknowledgements: dict[bytes, npt.NDArray[np.void]]

    @classmethod
    def of(cls, group: Group, judged: Judged | None) -> Self:
        """Of a group of which this was said; without a verdict nothing is acknowledged."""
        envelopes, readings = group.contents
        if judged is None:
            return cls(readings, {})
        if not judged.stored.all():
            stored = np.repeat(judged.stored, envelopes.count)
            readings = readings.take(np.flatnonzero(stored))
        return cls(readings, group.by_receiver(judged.acknowledgements, judged.answers))
