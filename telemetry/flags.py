"""What is to be known of an interval or a slot besides its energy."""

from __future__ import annotations

from enum import IntFlag
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from telemetry.readings import DEVICE_BITS, Status, UInt16s


class Flag(IntFlag):
    """What is to be known of an interval or a slot besides its energy."""

    ESTIMATED = 0x0001  # divided within an interval longer than a quarter of an hour
    PARTIAL = 0x0002  # the data do not reach over the whole slot
    MISSING = 0x0004  # the data do not reach the slot at all
    CONFLICT = 0x0008  # different values were sent for one instant
    RESET = 0x0010  # the register restarted at an unknown instant in the interval
    ZERO = 0x0020  # a zero that is no reset was held back
    QUARANTINED = 0x0040  # an impossible or unconfirmed reading was held back
    ROLLOVER = 0x0080  # the register ran over its last digit
    REPLACED = 0x0100  # the meter was replaced
    ARRIVAL_TIME = 0x0200  # a bounding reading has the time of its arrival
    DEVICE = 0x0400  # the device itself estimated or doubts a bounding reading


_ARRIVAL = int(Status.ARRIVAL_TIME)


def names(flags: int) -> list[str]:
    """The names of the flags that are set, in lower case."""
    return list(_names(flags))


@lru_cache(maxsize=1024)
def _names(flags: int) -> tuple[str, ...]:
    return tuple(str(flag.name).lower() for flag in Flag if flags & flag)


def mark(where: npt.NDArray[Any], flag: Flag) -> UInt16s:
    """The flag where something is, else none."""
    return np.where(where, np.uint16(flag), np.uint16(0))


def of_status(status: UInt16s) -> UInt16s:
    """What the status of readings says of the intervals that they bound."""
    if not status.any():
        return np.zeros(len(status), np.uint16)
    device = mark(status & DEVICE_BITS, Flag.DEVICE)
    return device | mark(status & _ARRIVAL, Flag.ARRIVAL_TIME)


def of_both_ends(own: UInt16s, flags: UInt16s) -> UInt16s:
    """``flags`` of intervals by their ends, and what ``own`` says of the readings before these."""
    if not own.any():
        return flags
    flags = flags.copy()
    flags[1:] |= own[:-1]
    return flags
