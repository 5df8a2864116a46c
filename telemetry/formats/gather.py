"""Messages decoded one by one, as a batch of readings: whose come in, and within which bounds.

A datagram may carry messages of several meters; each counts as a datagram of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from telemetry import meter_id
from telemetry.admission import Gate
from telemetry.bounds import MAXIMA, MINIMA
from telemetry.datagrams import Datagrams, Decoded, Envelopes, Mark, Tally
from telemetry.formats.native_checks import Sieve
from telemetry.meter_index import UNKNOWN
from telemetry.readings import Int64s, Readings
from telemetry.rejects import Reason


@dataclass(frozen=True, slots=True)
class Message:
    """What one meter said at one instant.

    ``meter`` is its id; ``values`` are codes of registers with raw integers; ``time_ms`` and
    ``status`` are those of all of them. ``sequence`` is the message's number in ``epoch``, for
    devices that number theirs; ``signed`` says that it was proven to be the meter's.
    """

    meter: str
    values: Sequence[tuple[int, int]]
    time_ms: int
    status: int
    epoch: int = 0
    sequence: int | None = None
    signed: bool = False


def gather(
    messages: Sequence[Message], rows: Sequence[int], datagrams: Datagrams, gate: Gate, tally: Tally
) -> Decoded:
    """The readings of the messages that come in; each other one is counted in ``tally``.

    ``rows`` names the datagram of each message and ascends.
    """
    known, octets = [], []
    for number, message in enumerate(messages):
        try:
            octets.append(meter_id.to_octets(message.meter))
        except ValueError:
            tally.refuse(Reason.METER_ID)
        else:
            known.append(number)
    halves = np.frombuffer(b"".join(octets), np.uint64).reshape(-1, 2)
    high, low = halves[:, 0].copy(), halves[:, 1].copy()
    found = [messages[number] for number in known]
    row: Int64s = np.array([rows[number] for number in known], np.int64)
    count = np.array([len(message.values) for message in found], np.int64)
    values = [value for message in found for value in message.values]
    code = np.array([code for code, _ in values], np.int64)
    # A number that 64 bits do not hold is out of every register's bounds.
    raw = np.array([max(-(2**62), min(raw, 2**62)) for _, raw in values], np.int64)
    place = np.minimum(code, len(MAXIMA) - 1)
    wrong = (raw < MINIMA[place]) | (raw > MAXIMA[place])
    owner = np.repeat(np.arange(len(found)), count)
    signed = np.array([message.signed for message in found], np.bool_)

    sieve = Sieve(gate.ring, tally, np.ones(len(found), np.bool_), gate.ring.meters(high, low))
    plain = np.flatnonzero(~signed)
    refused = np.zeros(len(found), np.bool_)
    long = {
        place: found[number].meter
        for place, number in enumerate(plain.tolist())
        if meter_id.is_long(found[number].meter)
    }
    sources = datagrams.sources[row[plain]]
    refused[plain] = ~gate.allowed.takes(sources, high[plain], low[plain], long)
    sieve.refuse(Reason.NOT_ALLOWED, refused)
    sieve.refuse(Reason.UNSIGNED, ~signed & (sieve.meters != UNKNOWN))
    sieve.refuse(Reason.NO_READING, count == 0)
    beyond = np.zeros(len(found), np.bool_)
    beyond[owner[wrong]] = True
    sieve.refuse(Reason.VALUE, beyond)

    passed = np.flatnonzero(sieve.passed)
    taken = sieve.passed[owner]
    tally.accepted += len(passed)
    passing = [found[number] for number in passed.tolist()]
    tally.names.update({own.meter for own in passing if meter_id.is_long(own.meter)})
    each = count[passed]
    epoch = np.array([message.epoch for message in passing], np.uint32)
    readings = Readings(
        key_high=np.repeat(high[passed], each),
        key_low=np.repeat(low[passed], each),
        epoch=np.repeat(epoch, each),
        register=code[taken].astype(np.uint16),
        status=np.repeat(np.array([message.status for message in passing], np.uint16), each),
        time=np.repeat(np.array([message.time_ms for message in passing], np.int64), each),
        value=raw[taken],
    )
    envelopes = Envelopes(
        high[passed],
        low[passed],
        epoch,
        np.array([message.sequence or 0 for message in passing], np.uint32),
        each.astype(np.uint16),
        np.array([_marks(message) for message in passing], np.uint8),
    )
    return Decoded(readings, envelopes, row[passed], tally)


def _marks(message: Message) -> int:
    numbered = Mark.NUMBERED if message.sequence is not None else 0
    return numbered | (Mark.SIGNED if message.signed else 0)
