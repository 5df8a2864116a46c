"""Blocks of general block transfer put together: bounded in number, octets and time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

from telemetry.formats.dlms_apdu import Block
from telemetry.rejects import Reason, RejectedError

MOST_TRANSFERS = 256  # under way at once, of one listener
LONGEST = 8192  # octets of one message
LONGEST_GAP = 3_000  # ms between two blocks: the next push must not complete this one


@dataclass(slots=True)
class _Transfer:
    number: int
    last: bytes
    octets: bytearray
    time_ms: int


class Blocks:
    """The transfers of a listener that are under way, each by who sends it."""

    def __init__(self) -> None:
        self._transfers: OrderedDict[Hashable, _Transfer] = OrderedDict()

    def __len__(self) -> int:
        return len(self._transfers)

    def add(self, sender: Hashable, block: Block, now_ms: int) -> bytes:
        """The whole message, with its last block. Raises RejectedError for any other.

        BLOCK where more are to come; MALFORMED where one before it is missing, came too long ago,
        or there is no room.
        """
        transfer = self._transfers.pop(sender, None)
        if block.number == 1:
            transfer = _Transfer(0, b"", bytearray(), now_ms)
        elif transfer is None or abs(now_ms - transfer.time_ms) > LONGEST_GAP:
            raise RejectedError(Reason.MALFORMED)
        elif block.number == transfer.number and block.octets == transfer.last:
            self._transfers[sender] = transfer
            raise RejectedError(Reason.DUPLICATE)
        elif block.number != transfer.number + 1:
            raise RejectedError(Reason.MALFORMED)
        if len(transfer.octets) + len(block.octets) > LONGEST:
            raise RejectedError(Reason.MALFORMED)
        transfer.octets += block.octets
        if block.last:
            return bytes(transfer.octets)
        transfer.number, transfer.last, transfer.time_ms = block.number, block.octets, now_ms
        self._transfers[sender] = transfer
        if len(self._transfers) > MOST_TRANSFERS:
            self._transfers.popitem(last=False)
        raise RejectedError(Reason.BLOCK)
