"""Answers about all meters at once, and about the storage."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np

from query import messages as m
from query.asking import Answers, day_range, flag_names, page_size
from query.transport import BusError
from storage import fleet, meters, retention_marks, unsealed
from storage.fleet import Range

_MILLION = 1_000_000


def get_fleet(request: m.GetFleet, source: Answers) -> m.Fleet:
    """The energy of all meters, day by day or month by month."""
    most = page_size(request.most)
    if request.by not in ("day", "month"):
        raise BusError("bad_request", f"by is day or month, not {request.by!r}")
    months = request.by == "month"
    first, last = day_range(request.first, request.last, source)
    additions = unsealed.additions(source.reader, source.defaults)
    found: list[fleet.Period] = []
    following = fleet.next_day(source.reader, additions, fleet.number(first))
    if following is not None and following <= fleet.number(last):
        # No more days than the page has rows, from the first one that is known on.
        end = min(last, _reach(_date(following), most, months))
        within = Range(following, fleet.number(end), request.prefix)
        found = fleet.periods(source.reader, additions, within, months=months)
        beyond = fleet.number(end) + 1
        following = fleet.next_day(source.reader, additions, beyond)
    more = following is not None and following <= fleet.number(last)
    return m.Fleet(
        by=request.by,
        period=[_text(period.key) for period in found],
        wh=[period.wh for period in found],
        meters=[period.meters for period in found],
        flags=flag_names(np.array([period.flags for period in found], np.int64)),
        next=str(_date(following)) if more and following is not None else None,
    )


def get_top(request: m.GetTop, source: Answers) -> m.Top:
    """The meters with the most energy."""
    most = page_size(request.most, m.MOST_TOP)
    first, last = day_range(request.first, request.last, source)
    additions = unsealed.additions(source.reader, source.defaults)
    within = Range(fleet.number(first), fleet.number(last), request.prefix)
    numbers, energy = fleet.ranking(source.reader, additions, within)
    total = int(energy.sum())
    best = dict(zip(numbers[:most].tolist(), energy[:most].tolist(), strict=True))
    known = meters.named(source.reader.connection, list(best))
    return m.Top(
        first=str(first),
        last=str(last),
        wh=total,
        meters=len(numbers),
        top=[
            m.TopMeter(*known[number], wh=wh, share_ppm=_share(wh, total))
            for number, wh in best.items()
        ],
    )


def get_storage(_request: m.GetStorage, source: Answers) -> m.Storage:
    """What is stored, and how large it is."""
    journal, blocks = fleet.extent(source.reader.connection)
    octets, values = source.reader.octets, source.reader.readings()
    now_ms = source.now_ms  # nor is the size what it was as long as nothing is committed
    instants = [part for part in (journal, blocks) if part.values]
    return m.Storage(
        octets=octets,
        meters=source.reader.meter_count(),
        sealed=blocks.values,
        unsealed=values - blocks.values,
        octets_a_value=octets / values if values else None,
        journal_rows=journal.rows,
        blocks=blocks.rows,
        oldest_ms=min((part.first_ms for part in instants), default=None),
        newest_ms=max((part.last_ms for part in instants), default=None),
        retention=[
            m.Thinning(
                keep=tier.keep.value,
                age_ms=tier.age_ms,
                meters=tier.meters,
                waiting=tier.waiting,
                from_ms=tier.from_ms,
                next_ms=tier.next_ms,
            )
            for tier in retention_marks.coming(
                source.reader.connection, source.policy, source.defaults, now_ms
            )
        ],
    )


def _share(wh: int, total: int) -> int:
    return (2 * _MILLION * wh + total) // (2 * total) if total > 0 else 0


def _reach(first: date, rows: int, months: bool) -> date:
    """The last day of so many days or months."""
    try:
        if not months:
            return first + timedelta(days=rows - 1)
        month = first.year * 12 + first.month - 1 + rows
        return date(month // 12, month % 12 + 1, 1) - timedelta(days=1)
    except (ValueError, OverflowError):
        return date.max


def _date(number: int) -> date:
    return date(number // 10_000, number // 100 % 100, number % 100)


def _text(key: int) -> str:
    """2026-01-31 for 20260131, and 2026-01 for 202601."""
    text = f"{key:06d}"
    return "-".join(part for part in (text[:4], text[4:6], text[6:]) if part)
