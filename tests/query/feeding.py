"""What the tests of the bus send to a collector: registers over time, as native datagrams."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from query.client import Client
from query.live import Live
from query.publisher import LiveReadings
from query.transport import BusError
from telemetry import meter_id
from telemetry.formats import native
from telemetry.registers import ENERGY_IMPORT
from tests.conftest import Stack

QUARTER, HOUR, DAY = 900_000, 3_600_000, 86_400_000
_MOST = 70
_FURTHEST = 20 * DAY  # in one datagram
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Point = tuple[int, int]  # an instant in ms and a register in Wh


@contextmanager
def running(directory: Path) -> Iterator[Stack]:
    """A collector that a whole module shares."""
    stack = Stack(directory / "data")
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()


def at(text: str) -> int:
    """The instant of a text in ISO 8601, UTC if it has no offset."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def datagrams(
    id: str, points: Sequence[Point], *, epoch: int = 1, register: int = ENERGY_IMPORT
) -> list[bytes]:
    """The points in their order, as few datagrams as they fit in."""
    octets = meter_id.to_octets(id)
    parts: list[list[native.Record]] = []
    for time_ms, value in points:
        part = parts[-1] if parts else []
        if not part or len(part) == _MOST or abs(time_ms - part[0].time) > _FURTHEST:
            part = []
            parts.append(part)
        part.append(native.Record(register, time_ms, value))
    return [native.encode(octets, epoch, number, part) for number, part in enumerate(parts)]


def received(client: Client, id: str) -> int:
    """How many datagrams of a meter are stored, or were before."""
    try:
        (meter,) = client.loss(id).meters
    except BusError as error:
        if error.code != "unknown_meter":
            raise
        return 0
    return meter.received


def feed(
    stack: Stack,
    id: str,
    points: Sequence[Point],
    *,
    epoch: int = 1,
    register: int = ENERGY_IMPORT,
) -> None:
    """Send the points and wait until all of them can be asked for.

    What others sent may be under way still: it is the meter's own datagrams that count.
    """
    sent = datagrams(id, points, epoch=epoch, register=register)
    with stack.client() as client:
        before = received(client, id)
        stack.send(sent)
    stack.wait_until(lambda asker: received(asker, id) == before + len(sent))


def heard(stack: Stack, live: Live, id: str, first: int = 0) -> LiveReadings:
    """Send readings until one is heard: a subscription takes a moment to be known.

    One at a time, so that each is a message of its own, and none is under way at the end.
    """
    for number in range(first, first + 300):
        feed(stack, id, [(at("2024-03-01") + number, number)])
        for message in live.listen(0.2):
            assert isinstance(message, LiveReadings)
            return message
    raise AssertionError("nothing was heard")


def constant(start_ms: int, end_ms: int, *, watts: int = 1000, step: int = QUARTER) -> list[Point]:
    """A register that rises evenly from 0, both ends included."""
    return [(time, (time - start_ms) * watts // HOUR) for time in range(start_ms, end_ms + 1, step)]


@contextmanager
def refused(code: str, *words: str) -> Iterator[None]:
    """Expect an error with this code and with these words in its message."""
    with pytest.raises(BusError) as caught:
        yield
    assert caught.value.code == code, str(caught.value)
    for word in words:
        assert word in str(caught.value)
