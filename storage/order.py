"""The stable order of many rows by small numbers, in linear time: NumPy's radix sort of 16 bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from telemetry.readings import UInt16s, UInt32s

_BITS = 16


def by_group(meter: UInt32s, register: UInt16s, shift: int) -> npt.NDArray[np.intp]:
    """The order of n rows by group (``meter >> shift``), register, meter, then as they stand.

    There is at least one. Where few meters and registers are there, all of it is one digit.
    """
    registers = np.flatnonzero(np.bincount(register))
    low = int(meter.min()) >> shift << shift
    groups = (int(meter.max()) - low >> shift) + 1
    few = groups * len(registers) << shift < 1 << _BITS
    number = np.dtype(np.uint16 if few else np.uint64)
    place: npt.NDArray[Any] = np.zeros(int(registers[-1]) + 1, number)
    place[registers] = np.arange(len(registers))
    member: npt.NDArray[Any] = (meter - np.uint32(low)).astype(number)
    key = member >> number.type(shift)
    member &= number.type((1 << shift) - 1)
    key *= number.type(len(registers))
    key += place[register]
    key <<= number.type(shift)
    key |= member
    return np.argsort(key, kind="stable")


def by_meter(meter: UInt32s, register: UInt16s | None = None) -> npt.NDArray[np.intp]:
    """The order of n rows by meter, then by register if it is given, then as they stand.

    The arguments and the answer have shape (n,). From the last digit to the first, each of 16 bits:
    a third of the time that a sort by comparison takes.
    """
    order: npt.NDArray[np.intp] | None = None
    if register is not None:
        order = np.argsort(register, kind="stable")
    for shift in range(0, max(1, int(meter.max(initial=0)).bit_length()), _BITS):
        digit = (meter >> np.uint32(shift)).astype(np.uint16)
        if order is None:
            order = np.argsort(digit, kind="stable")
        else:
            order = order[np.argsort(digit[order], kind="stable")]
    assert order is not None
    return order
