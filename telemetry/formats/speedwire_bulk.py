"""Many Speedwire datagrams as readings (docs/formats.md): whose come in, when they were sent."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from telemetry.admission import Gate
from telemetry.bounds import MAXIMA, MINIMA
from telemetry.datagrams import Datagrams, Decoded, Envelopes, Tally
from telemetry.formats.native_checks import Sieve
from telemetry.formats.speedwire_clock import DUPLICATE, Clock
from telemetry.formats.speedwire_layouts import Alike, Layouts
from telemetry.meter_id import OCTETS
from telemetry.meter_index import UNKNOWN
from telemetry.readings import Int64s, Readings, Status
from telemetry.rejects import Reason


def decoder() -> Callable[[Datagrams, int, Gate], Decoded]:
    """A decoder of Speedwire datagrams, which remembers their layouts and the meters' tickers."""
    layouts, clock = Layouts(), Clock()

    def decode(datagrams: Datagrams, arrival: int, gate: Gate) -> Decoded:
        """Datagrams that arrived at ``arrival`` (ms, UTC): readings and what was refused why."""
        tally = Tally()
        alike = list(layouts.sort(datagrams, tally))
        return (
            _decode(alike, datagrams, arrival, gate, clock, tally)
            if alike
            else (Decoded.nothing(tally))
        )

    return decode


def _decode(
    alike: Sequence[Alike],
    datagrams: Datagrams,
    arrival: int,
    gate: Gate,
    clock: Clock,
    tally: Tally,
) -> Decoded:
    """The readings of datagrams in layouts, each other one counted in ``tally``."""
    rows = np.concatenate([one.rows for one in alike])
    head = np.concatenate([one.layout.heads(one.octets) for one in alike])
    count = np.concatenate([np.full(len(one.rows), len(one.layout.codes)) for one in alike])
    code = np.concatenate([np.tile(one.layout.codes, len(one.rows)) for one in alike])
    values = [one.layout.values(one.octets) for one in alike]
    raw = np.concatenate([raw.ravel() for raw, _ in values])
    present = ~np.concatenate([absent.ravel() for _, absent in values])
    if len(alike) > 1:  # back to the order of arrival
        order = np.argsort(rows, kind="stable")
        cells = np.argsort(np.repeat(rows, count), kind="stable")
        code, raw, present = code[cells], raw[cells], present[cells]
        rows, head, count = rows[order], head[order], count[order]
    owner = np.repeat(np.arange(len(rows)), count)
    if not present.all():
        code, raw, owner = code[present], raw[present], owner[present]
        count = np.bincount(owner, minlength=len(rows))
    ids = [f"{susy}-{serial}".encode() for susy, serial in zip(*_columns(head), strict=True)]
    halves = np.frombuffer(b"".join(own.ljust(OCTETS, b"\0") for own in ids), np.uint64)
    high, low = halves[::2].copy(), halves[1::2].copy()

    beyond = np.zeros(len(rows), np.bool_)
    beyond[owner[(raw < MINIMA[code]) | (raw > MAXIMA[code])]] = True
    sieve = Sieve(gate.ring, tally, np.ones(len(rows), np.bool_), gate.ring.meters(high, low))
    sieve.refuse(Reason.NOT_ALLOWED, ~gate.allowed.takes(datagrams.sources[rows], high, low))
    sieve.refuse(Reason.UNSIGNED, sieve.meters != UNKNOWN)
    sieve.refuse(Reason.NO_READING, count == 0)
    sieve.refuse(Reason.VALUE, beyond)
    said = _contents(code, raw, count)
    sent = _sent(sieve.passed, ids, head["ticker"].tolist(), said, arrival, clock)
    time = np.array([0 if at is DUPLICATE else at for at in sent], np.int64)
    sieve.refuse(Reason.DUPLICATE, np.array([at is DUPLICATE for at in sent], np.bool_))

    passed = np.flatnonzero(sieve.passed)
    taken = sieve.passed[owner]
    tally.accepted += len(passed)
    each = count[passed]
    total = int(each.sum())
    readings = Readings(
        key_high=np.repeat(high[passed], each),
        key_low=np.repeat(low[passed], each),
        epoch=np.zeros(total, np.uint32),
        register=code[taken].astype(np.uint16),
        status=np.full(total, Status.ARRIVAL_TIME, np.uint16),
        time=np.repeat(time[passed], each),
        value=raw[taken],
    )
    starts = np.cumsum(each) - each
    return Decoded(readings, Envelopes.unnumbered(readings, starts), rows[passed], tally)


def _columns(head: npt.NDArray[np.void]) -> tuple[list[int], list[int]]:
    return head["susy"].tolist(), head["serial"].tolist()


def _contents(code: Int64s, raw: Int64s, count: Int64s) -> list[int]:
    """A number for each datagram that is equal where the same is said of the same registers."""
    cells = np.stack([code, raw], axis=1).tobytes()
    ends = (np.cumsum(count) * 16).tolist()
    return [hash(cells[start:end]) for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def _sent(
    passed: npt.NDArray[np.bool_],
    ids: list[bytes],
    tickers: list[int],
    contents: list[int],
    arrival: int,
    clock: Clock,
) -> list[int | None]:
    """When those that passed were sent, meter by meter; of the others it does not matter."""
    sent: list[int | None] = [0] * len(ids)
    of_meter = defaultdict[bytes, list[int]](list)
    for place in np.flatnonzero(passed).tolist():
        of_meter[ids[place]].append(place)
    for meter, places in of_meter.items():
        times = clock.times(
            meter, [tickers[at] for at in places], [contents[at] for at in places], arrival
        )
        for place, time in zip(places, times, strict=True):
            sent[place] = time
    return sent
