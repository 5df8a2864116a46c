"""What was received, lost and refused: of a meter, of listeners, of the meters that lost most."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from cli.answers import thousands, time_text
from cli.render import Answer, Column, Record
from query import messages as m

_COLUMNS = (
    Column("part", "part"),
    Column("measure", "measure"),
    Column(
        "value",
        "value",
        lambda value: value if isinstance(value, str) else thousands(value),
        right=True,
    ),
    Column("unit", "unit"),
)
_COUNTS = ("received", "unique", "duplicate", "stale", "out_of_order", "late", "lost")
_DROPS = {"kernel_drops": "dropped by the kernel", "back_pressure_drops": "dropped under pressure"}


def answer(reply: m.Loss, *, one: bool) -> Answer:
    """A line a count for people and CSV, of ``one`` meter or of all; JSON is the reply itself."""
    lines = _meter_lines(reply.meters[0]) if one and reply.meters else _lines(reply)
    return Answer(_COLUMNS, list(lines), msgspec.to_builtins(reply))


def total_lines(part: str, totals: m.LossTotals) -> Iterator[Record]:
    """A line a count of the whole collector."""
    yield from _counts(part, totals)
    yield from _rejected(part, totals.rejected)
    yield from _drops(part, totals)


def _line(part: str, measure: str, value: int | str, unit: str = "datagrams") -> Record:
    return {"part": part, "measure": measure, "value": value, "unit": unit}


def _lines(reply: m.Loss) -> Iterator[Record]:
    yield _line("all", "as of", time_text(reply.as_of_ms, "UTC") or "nothing was counted yet", "")
    yield from total_lines("all", reply.totals)
    for listener in reply.listeners:
        yield _line(listener.listener, "accepted", listener.accepted)
        yield from _rejected(listener.listener, listener.rejected)
        yield from _drops(listener.listener, listener)
    for meter in reply.meters:
        sent = meter.lost + meter.unique
        yield _line(meter.id, "lost", meter.lost, f"of {thousands(sent)} datagrams")


def _meter_lines(meter: m.MeterLoss) -> Iterator[Record]:
    yield from _counts(meter.id, meter)
    yield from _rejected(meter.id, meter.rejected)


def _counts(part: str, counts: m.LossTotals | m.MeterLoss) -> Iterator[Record]:
    for name in _COUNTS:
        yield _line(part, name.replace("_", " "), getattr(counts, name))


def _rejected(part: str, rejected: dict[str, int]) -> Iterator[Record]:
    for reason, count in rejected.items():
        yield _line(part, f"rejected: {reason.replace('_', ' ')}", count)


def _drops(part: str, counts: m.LossTotals | m.ListenerLoss) -> Iterator[Record]:
    for name, measure in _DROPS.items():
        yield _line(part, measure, getattr(counts, name))
