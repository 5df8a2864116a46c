"""Ciphered pushes opened: whose key opens them, and that their counters rise."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

import numpy as np

from telemetry import meter_id
from telemetry.admission import Gate
from telemetry.datagrams import Tally
from telemetry.formats import dlms_apdu as apdus
from telemetry.formats.dlms_apdu import Sealed
from telemetry.keys import KeyRing
from telemetry.meter_index import UNKNOWN
from telemetry.rejects import Reason, RejectedError

MOST_COUNTERS = 65_536  # beyond, the writer's windows still know
MOST_TRIED = 8  # keys of a meter, the newest


class Proof(NamedTuple):
    """Whose it is, by the key that opened it, and its number: the writer's epoch and sequence."""

    meter: str
    epoch: int
    sequence: int


class Counters:
    """The highest invocation counter of each meter and key; bounded, the oldest is forgotten."""

    def __init__(self) -> None:
        self._highest: OrderedDict[tuple[str, int], int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._highest)

    def rise(self, meter: str, epoch: int, counter: int) -> None:
        """Note a counter that was proven. RejectedError where it is the last again, or lower."""
        last = self._highest.get((meter, epoch), -1)
        if counter <= last:
            raise RejectedError(Reason.DUPLICATE if counter == last else Reason.REPLAYED)
        self._highest[meter, epoch] = counter
        self._highest.move_to_end((meter, epoch))
        if len(self._highest) > MOST_COUNTERS:
            self._highest.popitem(last=False)


def proven(
    found: Sealed, gate: Gate, arrival: int, counters: Counters, tally: Tally
) -> tuple[bytes, Proof]:
    """What is inside, and the proof of whose it is. Raises RejectedError.

    ``tally`` notes the refused of meters that have a key.
    """
    meter = found.title.hex()
    high, low = np.frombuffer(meter_id.to_octets(meter), "<u8").astype(np.uint64)
    (number,) = gate.ring.meters(np.array([high]), np.array([low])).tolist()
    if number == UNKNOWN:
        raise RejectedError(Reason.UNKNOWN_KEY)
    try:
        row, clear = _opened(found, gate.ring, number, arrival)
        epoch = gate.ring.epoch(row)
        counters.rise(meter, epoch, found.counter)
    except RejectedError as error:
        tally.meters[*gate.ring.owner(number), error.reason] += 1
        raise
    return clear, Proof(meter, epoch, found.counter)


def _opened(found: Sealed, ring: KeyRing, number: int, arrival: int) -> tuple[int, bytes]:
    """The key that opens it, and what is inside."""
    rows = ring.of_meter(number)[:MOST_TRIED]
    over = ring.expired(np.array(rows, np.int64), arrival).tolist()
    valid = [row for row, ended in zip(rows, over, strict=True) if not ended]
    if not valid:
        raise RejectedError(Reason.EXPIRED)
    tagged = bool(found.control & apdus.AUTHENTICATED)
    # A meter that can prove itself has to; one whose key has no second half cannot.
    fitting = [row for row in valid if (ring.authentication(row) is not None) == tagged]
    if not fitting:
        raise RejectedError(Reason.UNKNOWN_KEY if tagged else Reason.UNSIGNED)
    for row in fitting:
        clear = _by(found, ring, row)
        if clear is not None:
            return row, clear
    ended = [row for row, over in zip(rows, over, strict=True) if over]
    if tagged and any(_by(found, ring, row) is not None for row in ended):
        raise RejectedError(Reason.EXPIRED)
    raise RejectedError(Reason.FORGED)


def _by(found: Sealed, ring: KeyRing, row: int) -> bytes | None:
    """What is inside by one key; None where that is not the key."""
    clear = apdus.opened(found, ring.secret(row), ring.authentication(row))
    if clear is None or found.control & apdus.AUTHENTICATED:
        return clear
    # Nothing but sense tells here that it was the key.
    try:
        (apdus.block if clear[0] == apdus.BLOCK else apdus.notification)(clear)
    except RejectedError:
        return None
    return clear if clear[0] in (apdus.BLOCK, apdus.NOTIFICATION) else None
