"""What retention does next: pure, from ladders, marks and the time (docs/retention.md).

A mark says of a meter and a tier up to which instant its readings are already as the tier wants
them. Work is done in whole windows: months, or weeks or days of them where readings are many.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from storage.ladder import Keep, Ladder, Policy, Tier
from telemetry.calendar import DAY_MS, Period, day_start, month_start

_WEEK_MS = 7 * DAY_MS
_UTC = ZoneInfo("UTC")

Marks = Mapping[Keep, int]


@dataclass(frozen=True, slots=True)
class Job:
    """A meter's readings of a window are to be kept as ``keep`` says."""

    keep: Keep
    window: Period


@dataclass(frozen=True, slots=True)
class Held:
    """What is known of a meter: its first sealed instant, and how far its tiers have come."""

    id: str
    zone: ZoneInfo
    first_ms: int
    marks: Marks


@dataclass(frozen=True, slots=True)
class Outlook:
    """What retention does with a tier.

    ``meters`` are under it, of ``waiting`` a window is due now, the oldest from ``from_ms`` on;
    ``next_ms`` is when the next window falls due (None where none has begun).
    """

    keep: Keep
    age_ms: int
    meters: int
    waiting: int
    from_ms: int | None
    next_ms: int | None


def next_job(ladder: Ladder, held: Held, now_ms: int) -> Job | None:
    """The next window of a meter that is due, the coarsest tier first; None when all is done."""
    done = held.first_ms
    for tier in reversed(ladder):
        window, due_ms = _window(tier, held, done)
        if due_ms <= now_ms:
            return Job(tier.keep, window)
        done = max(done, window.start_ms)
    return None


def _window(tier: Tier, held: Held, done: int) -> tuple[Period, int]:
    """The window after what is done of a tier, or by a coarser one; when its youngest is of age."""
    start = max(held.marks.get(tier.keep, done), done)
    window = month_of(start, zone_of(tier.keep, held.zone))
    window = Period(max(start, window.start_ms), window.end_ms)
    return window, window.end_ms + tier.age_ms


def zone_of(keep: Keep, zone: ZoneInfo) -> ZoneInfo:
    """The zone of a tier's windows: days are the meter's own, quarter hours are those of UTC."""
    return _UTC if keep is Keep.QUARTER else zone


def month_of(instant_ms: int, zone: ZoneInfo) -> Period:
    """The local month with an instant."""
    local = datetime.fromtimestamp(instant_ms / 1000, UTC).astimezone(zone)
    month = local.year * 12 + local.month - 1
    starts = [month_start(zone, at // 12, at % 12 + 1) for at in (month - 1, month, month + 1)]
    begin = max(start for start in starts if start <= instant_ms)
    after = begin + 45 * DAY_MS
    later = datetime.fromtimestamp(after / 1000, UTC).astimezone(zone)
    ends = [month_start(zone, later.year, later.month), *starts]
    return Period(begin, min(end for end in ends if end > begin))


def narrowed(job: Job, zone: ZoneInfo) -> Job:
    """The first week of a window that has too many readings, or the first day of a week."""
    window = job.window
    length = window.end_ms - window.start_ms
    if length <= DAY_MS + DAY_MS // 2:
        return job
    days = 7 if length > _WEEK_MS + DAY_MS // 2 else 1
    end = _midnight(window.start_ms + days * DAY_MS, zone_of(job.keep, zone))
    return Job(job.keep, Period(window.start_ms, min(max(end, window.start_ms + 1), window.end_ms)))


def _midnight(instant_ms: int, zone: ZoneInfo) -> int:
    """The start of the local day with an instant."""
    day = datetime.fromtimestamp(instant_ms / 1000, UTC).astimezone(zone).date()
    return day_start(zone, day)


def outlook(policy: Policy, meters: Iterable[Held], now_ms: int) -> list[Outlook]:
    """What retention will do, a row for each tier of each age, the finest and youngest first."""
    rows: dict[Tier, list[tuple[int, int]]] = {}
    for held in meters:
        done = held.first_ms
        for tier in reversed(policy.ladder(held.id)):
            window, due_ms = _window(tier, held, done)
            rows.setdefault(tier, []).append((window.start_ms, due_ms))
            done = max(done, window.start_ms)
    order = list(Keep)
    found = []
    for tier in sorted(rows, key=lambda tier: (order.index(tier.keep), tier.age_ms)):
        waiting = [start for start, due_ms in rows[tier] if due_ms <= now_ms]
        later = [due_ms for _, due_ms in rows[tier] if due_ms > now_ms]
        found.append(
            Outlook(
                keep=tier.keep,
                age_ms=tier.age_ms,
                meters=len(rows[tier]),
                waiting=len(waiting),
                from_ms=min(waiting, default=None),
                next_ms=min(later, default=None),
            )
        )
    return found
