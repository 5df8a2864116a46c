"""The collector's status for people: what listens, what was refused and lost, what is written."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from cli.loss import total_lines
from cli.render import Answer, Column, Record
from query import messages as m


def _amount(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:,}"


_STATUS = (
    Column("part", "part"),
    Column("measure", "measure"),
    Column("value", "value", _amount, right=True),
    Column("unit", "unit"),
)


def answer(status: m.Status) -> Answer:
    """A line a measure for people and CSV; JSON is the reply itself."""
    return Answer(_STATUS, list(_lines(status)), msgspec.to_builtins(status))


def received(status: m.Status) -> int:
    """Datagrams that came in, accepted or not, over all listeners."""
    receivers = status.writer.receivers if status.writer else []
    return sum(
        listener.accepted + sum(listener.refused.values())
        for receiver in receivers
        for listener in receiver.listeners
    )


def _line(part: str, measure: str, value: float | str, unit: str = "") -> Record:
    return {"part": part, "measure": measure, "value": value, "unit": unit}


def _seconds(start_ms: int, end_ms: int) -> float:
    return max(0, end_ms - start_ms) / 1000


def _lines(status: m.Status) -> Iterator[Record]:
    yield _line("service", "version", status.version)
    yield _line("service", "up", _seconds(status.started_ms, status.now_ms), "s")
    if status.away is not None:
        yield _line("storage", "state", f"away: {status.away}")
    yield _line("storage", "meters", status.meters)
    yield _line("storage", "readings", status.readings)
    yield _line("storage", "size", round(status.database_octets / 2**20, 3), "MiB")
    if status.damaged_rows:
        yield _line("storage", "damaged", status.damaged_rows, "rows, left out (docs/care.md)")
    if status.writer is None:
        yield _line("writer", "state", "away")
        return
    writer = status.writer
    yield _line("writer", "up", _seconds(writer.started_ms, status.now_ms), "s")
    yield _line("writer", "readings", writer.readings)
    yield _line("writer", "commits", writer.commits)
    yield _line("writer", "a commit takes", round(writer.commit_ms, 3), "ms")
    if writer.spooling or writer.spooled:
        state = "spooling" if writer.spooling else "draining the spool"
        yield _line("writer", "state", state)
        yield _line("writer", "in the spool", writer.spooled, "readings")
    if writer.trouble:
        yield _line("writer", "trouble", writer.trouble)
    if writer.loss is not None:
        yield from total_lines("delivery", writer.loss)
    for number, receiver in enumerate(writer.receivers, 1):
        yield from _receiver_lines(f"receiver {number}", receiver, status.now_ms)


def _receiver_lines(part: str, receiver: m.ReceiverStatus, now_ms: int) -> Iterator[Record]:
    yield _line(part, "up", _seconds(receiver.started_ms, now_ms), "s")
    yield _line(part, "last heard of", _seconds(receiver.reported_ms, now_ms), "s ago")
    yield _line(part, "not yet durable", receiver.waiting, "readings")
    up = _seconds(receiver.started_ms, receiver.reported_ms)
    for listener in receiver.listeners:
        yield from _listener_lines(f"{listener.address} {listener.format}", listener, up)


def _listener_lines(part: str, listener: m.ListenerStatus, up: float) -> Iterator[Record]:
    refused = sum(listener.refused.values())
    yield _line(part, "accepted", listener.accepted, "datagrams")
    yield _line(part, "refused", refused, "datagrams")
    for reason, count in sorted(listener.refused.items()):
        if count:
            yield _line(part, f"refused: {reason.replace('_', ' ')}", count, "datagrams")
    yield _line(part, "lost in the kernel", listener.kernel_drops, "datagrams")
    if up:
        yield _line(part, "on average", round((listener.accepted + refused) / up, 1), "datagrams/s")
    yield _line(part, "buffer", listener.buffer_octets, "octets")
    if listener.buffer_seconds is not None:
        yield _line(part, "buffer holds", round(listener.buffer_seconds, 3), "s at the top rate")
