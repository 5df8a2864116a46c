"""What is told once a group is durable: to receivers, and to those who listen live."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from storage.batch_body import Body
from storage.group import Group
from storage.judged import Judged


@dataclass(frozen=True, slots=True)
class Kept:
    """What is stored, and the acknowledgements (ACK) by receiver."""

    body: Body
    acknowledgements: dict[bytes, npt.NDArray[np.void]]

    @classmethod
    def of(cls, group: Group, judged: Judged | None) -> Self:
        """Of a group of which this was said; without a verdict nothing is acknowledged."""
        body = group.contents
        if judged is None:
            return cls(body, {})
        if not judged.stored.all():
            body = body.of_datagrams(judged.stored)
        return cls(body, group.by_receiver(judged.acknowledgements, judged.answers))
