"""Verifies plain rows: SQLite's file, the watermark, the registry of meters, the alerts."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import sqlalchemy as sa

from storage import schema, verify_window, watermark
from storage.database import reason
from storage.verify_report import Difference, Snapshot, differing
from telemetry import meter_id

_ALERTS, _BLOCKS, _INFO, _METERS = (
    schema.alerts.c,
    schema.blocks.c,
    schema.info.c,
    schema.meters.c,
)
_A_LOOK = 100_000  # steps of SQLite's machine
_METERS_A_READ = 1000
_UNIQUE = ("number", "octets", "id")
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def damage(error: BaseException | None) -> bool:
    """Whether a driver's error says that SQLite's file is damaged."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _DAMAGED


def of_file(connection: sa.Connection) -> list[Difference]:
    """What SQLite itself finds wrong with its file; of a server nothing."""
    if connection.dialect.name != "sqlite":
        return []
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    # Ctrl-C is heard only where Python runs.
    driver.set_progress_handler(lambda: 0, _A_LOOK)
    try:
        said = [line for (line,) in driver.execute("PRAGMA quick_check")]
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
            raise KeyboardInterrupt from None
        if not damage(error):
            raise
        said = [reason(error)]
    finally:
        driver.set_progress_handler(None, 0)
    return [Difference("quick_check", "the file", line, "ok") for line in said if line != "ok"]


def of_watermark(connection: sa.Connection) -> list[Difference]:
    """The watermark against the rows of the blocks; where it cannot be read, only that."""
    try:
        reached = watermark.read(connection)
    except (TypeError, ValueError):
        stored = connection.execute(sa.select(_INFO.value).where(_INFO.key == "sealed")).scalar()
        return [Difference("watermark", "info.sealed", repr(stored), "five whole numbers")]
    values = connection.execute(sa.select(sa.func.sum(_BLOCKS.readings))).scalar()
    hidden = [
        shift for shift in verify_window.shifts(connection) if shift not in reached.shift_list
    ]
    pairs: dict[str, tuple[object, object]] = {
        "watermark.values": (reached.values, int(values or 0)),
        "watermark.shifts": (reached.shifts, reached.shifts | sum(1 << shift for shift in hidden)),
    }
    found = list(differing("info.sealed", pairs))
    if reached.passing and reached.passing <= reached.sealed:
        said = f"none, or beyond {reached.sealed}"
        found.append(Difference("watermark.passing", "info.sealed", str(reached.passing), said))
    return found


def unreadable(found: list[Difference]) -> bool:
    """Whether the watermark could not be read, and so nothing can be."""
    return any(difference.what == "watermark" for difference in found)


def of_registry(snapshot: Snapshot) -> Iterator[list[Difference]]:
    """Numbers, octets and ids of the meters, page by page."""
    with snapshot() as connection:
        all_, *distinct = connection.execute(
            sa.select(
                sa.func.count(), *(sa.func.count(_METERS[name].distinct()) for name in _UNIQUE)
            ).select_from(schema.meters)
        ).one()
    for name, count in zip(_UNIQUE, distinct, strict=True):
        if count != all_:
            yield [Difference(f"meters.{name}", "all meters", f"{all_} rows", f"{count} different")]
    after = verify_window.LOWEST - 1
    query = sa.select(_METERS.number, _METERS.octets, _METERS.id).order_by(_METERS.number)
    while True:
        with snapshot() as connection:
            rows = connection.execute(
                query.where(_METERS.number > after).limit(_METERS_A_READ)
            ).all()
        if not rows:
            return
        after = rows[-1].number
        yield [found for row in rows for found in _of_meter(*row)]


def _of_meter(number: int, octets: bytes, id: str) -> Iterator[Difference]:
    try:
        computed = meter_id.to_octets(id).hex()
    except ValueError:
        yield Difference("meters.id", f"meter number {number}", repr(id), "no id a meter can have")
        return
    yield from differing(
        f"meter {id} (number {number})", {"meters.octets": (octets.hex(), computed)}
    )


def of_alerts(connection: sa.Connection) -> list[Difference]:
    """Alerts of meters that do not exist, or that no reading can have raised.

    Whether a later reading or setting would have prevented an alert is not asked: it stays.
    """
    columns = _ALERTS.number, _ALERTS.meter, _ALERTS.energy_wh, _ALERTS.limit_wh
    found = []
    strange = sa.select(*columns).where(_ALERTS.meter.not_in(sa.select(_METERS.number)))
    for number, meter, _, _ in connection.execute(strange):
        where = f"alert {number}"
        found.append(Difference("alerts.meter", where, f"meter number {meter}", "no such meter"))
    below = sa.select(*columns).where(
        _ALERTS.kind == "limit", _ALERTS.energy_wh <= _ALERTS.limit_wh
    )
    for number, _, energy, limit in connection.execute(below):
        said = f"more than limit_wh={limit}"
        found.append(Difference("alerts.energy_wh", f"alert {number}", str(energy), said))
    early = sa.select(_ALERTS.number, _ALERTS.time_ms, _ALERTS.period_start_ms).where(
        _ALERTS.time_ms <= _ALERTS.period_start_ms
    )
    for number, time_ms, start in connection.execute(early):
        said = f"after period_start_ms={start}"
        found.append(Difference("alerts.time_ms", f"alert {number}", str(time_ms), said))
    return found
