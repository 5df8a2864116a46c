"""DLMS/COSEM push over UDP: pushes of meters as messages (docs/formats.md).

Of each listener a decoder remembers, bounded: blocks that wait for others, the counters of
ciphered pushes, and which meter named itself last from which address.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from zoneinfo import ZoneInfo

from telemetry.admission import Gate
from telemetry.datagrams import Datagrams, Decoded, Tally
from telemetry.formats import dlms_apdu as apdus
from telemetry.formats.dlms_apdu import Frame, Notification
from telemetry.formats.dlms_blocks import Blocks
from telemetry.formats.dlms_clock import clock, instant
from telemetry.formats.dlms_items import Item, items
from telemetry.formats.dlms_models import named, serial
from telemetry.formats.dlms_proof import Counters, Proof, proven
from telemetry.formats.dlms_values import values
from telemetry.formats.gather import Message, gather
from telemetry.formats.options import Options
from telemetry.readings import Status
from telemetry.rejects import Reason, RejectedError

LONGEST = 2047
STARTS = (apdus.VERSION,)
MOST_SOURCES = 4_096  # addresses of which it is known which meter named itself
_DEEPEST = 4  # blocks in a cipher, a cipher in blocks
_CLOCKS = ("0-0:1.0.0.255", "0-1:1.0.0.255", "1-0:1.0.0.255")
_DATE_TIME = 12

Source = tuple[int, ...]


class Decoder:
    """The decoder of one listener; calling it decodes datagrams."""

    def __init__(self, options: Options) -> None:
        self._zone = ZoneInfo(options.time_zone)
        self._blocks, self._counters = Blocks(), Counters()
        self._meters: OrderedDict[Source, str] = OrderedDict()

    def __call__(self, datagrams: Datagrams, arrival: int, gate: Gate) -> Decoded:
        """What the datagrams bring; each frame of one counts as a datagram of its own."""
        tally = Tally()
        messages: list[Message] = []
        rows: list[int] = []
        sources = [tuple(source) for source in datagrams.sources.tolist()]
        lengths = datagrams.lengths.tolist()
        for row, datagram in enumerate(datagrams.each()):
            if lengths[row] > LONGEST:
                oversized = datagram[:2] == apdus.VERSION
                tally.refuse(Reason.OVERSIZED if oversized else Reason.FOREIGN)
                continue
            try:
                for frame in list(apdus.frames(datagram)):
                    message = self._taken(frame, sources[row], arrival, gate, tally)
                    if message is not None:
                        messages.append(message)
                        rows.append(row)
            except RejectedError as error:
                tally.refuse(error.reason)
        return gather(messages, rows, datagrams, gate, tally)

    def _taken(
        self, frame: Frame, source: Source, arrival: int, gate: Gate, tally: Tally
    ) -> Message | None:
        """The message of a frame; None for one that was counted."""
        try:
            found, proof = self._unwrapped(frame, source, arrival, gate, tally)
            return self._message(found, proof, source, arrival)
        except RejectedError as error:
            tally.refuse(error.reason)
            return None

    def _unwrapped(
        self, frame: Frame, source: Source, arrival: int, gate: Gate, tally: Tally
    ) -> tuple[Notification, Proof | None]:
        """The notification that a frame carries, or completes; and whose it proves to be."""
        apdu, proof = frame.apdu, None
        for _ in range(_DEEPEST):
            tag = apdu[0] if apdu else None
            if tag == apdus.NOTIFICATION:
                return apdus.notification(apdu), proof
            if tag == apdus.BLOCK:
                meter = proof.meter if proof else None
                sender = source, frame.source, frame.destination, meter
                apdu = self._blocks.add(sender, apdus.block(apdu), arrival)
            elif tag == apdus.GLOBAL and proof is None:
                apdu, proof = proven(apdus.sealed(apdu), gate, arrival, self._counters, tally)
            else:
                ciphered = tag in apdus.OTHER_CIPHERS
                raise RejectedError(Reason.FLAGS if ciphered else Reason.FOREIGN)
        raise RejectedError(Reason.MALFORMED)

    def _message(
        self, found: Notification, proof: Proof | None, source: Source, arrival: int
    ) -> Message:
        told, scalers = named(items(found.body))
        read = values(told, scalers)
        time = self._time(found, told, arrival)
        at, status = (arrival, Status.ARRIVAL_TIME) if time is None else (time, Status(0))
        if proof is not None:
            return Message(proof.meter, read, at, status, proof.epoch, proof.sequence, signed=True)
        meter = self._meter(told, source)
        if not read and not meter:
            raise RejectedError(Reason.NO_READING)
        return Message(meter, read, at, status)

    def _meter(self, told: Sequence[Item], source: Source) -> str:
        """Whose a plain message is: as it says, or as the one before from its address said."""
        meter = serial(told)
        if not meter:
            return self._meters.get(source, "")
        self._meters[source] = meter
        self._meters.move_to_end(source)
        if len(self._meters) > MOST_SOURCES:
            self._meters.popitem(last=False)
        return meter

    def _time(self, found: Notification, told: Sequence[Item], arrival: int) -> int | None:
        """When it was so: by the clock among the values, or that of the notification."""
        shown = [item.value for item in told if item.obis in _CLOCKS]
        for octets in (*shown, found.date_time):
            if isinstance(octets, bytes) and len(octets) == _DATE_TIME:
                read = clock(octets)
                time = instant(read, self._zone, arrival) if read else None
                if time is not None:
                    return time
        return None
