"""Verifies a database while it is written: what is derived from readings is computed again.

Nothing is changed. What belongs together is read in one snapshot, so that no commit, sealing or
merging shows as a difference; no snapshot lasts long but that of SQLite's check of the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from storage import schema, verify_bodies, verify_ledger, verify_meters, verify_rows
from storage.defaults import Defaults
from storage.engine import Database, open_reader, reason
from storage.verify_report import Difference, Report, Totals

_LONGEST_STATEMENT = "SET LOCAL statement_timeout = '1h'"

__all__ = ["Difference", "Report", "Totals", "verify"]


def verify(database: Database, defaults: Defaults, report: Report) -> Totals:
    """Look at everything; ``defaults`` are those of the collector.

    Raises StorageError, or one of REFUSALS, where the database cannot be looked at at all.
    """
    engine = open_reader(database)
    try:
        return _Verification(engine, defaults, report).run()
    finally:
        engine.dispose()


class _Verification:
    """One run."""

    def __init__(self, engine: sa.Engine, defaults: Defaults, report: Report) -> None:
        self._engine = engine
        self._defaults = defaults
        self._report = report
        self._totals = Totals()

    def run(self) -> Totals:
        """Look at everything that can be read."""
        self._report.reached("file", 0, 1)
        for look in self._looks:
            try:
                if not look():
                    break
            except sa.exc.DatabaseError as error:
                if not verify_rows.damage(error.orig):
                    raise
                lost = f"damaged ({reason(error)})"
                self._tell([Difference(look.__name__.strip("_"), "the file", lost, "readable")])
        return self._totals

    @property
    def _looks(self) -> tuple[Callable[[], bool], ...]:
        return self._file, self._rows, self._ledger, self._blocks, self._journal, self._meters

    def _file(self) -> bool:
        with self._engine.connect() as connection:
            self._tell(verify_rows.of_file(connection))
        return True

    def _rows(self) -> bool:
        with self._snapshot() as connection:
            of_watermark = verify_rows.of_watermark(connection)
            of_alerts = verify_rows.of_alerts(connection)
        self._tell(of_watermark + of_alerts)
        for found in verify_rows.of_registry(self._snapshot):
            self._tell(found)
        return not verify_rows.unreadable(of_watermark)

    def _ledger(self) -> bool:
        for found in verify_ledger.of_ledger(self._snapshot):
            self._tell(found)
        return True

    def _blocks(self) -> bool:
        of = self._count(schema.blocks)
        for looked in verify_bodies.of_blocks(self._snapshot):
            self._totals.blocks += 1
            self._totals.values += looked.values
            self._tell(looked.differences)
            self._report.reached("blocks", self._totals.blocks, of)
        return True

    def _journal(self) -> bool:
        of = self._count(schema.journal)
        for looked in verify_bodies.of_journal(self._snapshot):
            self._totals.rows += 1
            self._totals.values += looked.values
            self._tell(looked.differences)
            self._report.reached("journal", self._totals.rows, of)
        return True

    def _meters(self) -> bool:
        of = self._count(schema.meters)
        for looked in verify_meters.of_meters(self._snapshot, self._defaults):
            self._totals.meters += looked.meters
            self._totals.days += looked.days
            self._tell(looked.differences)
            self._report.reached("meters", self._totals.meters, of)
        return True

    @contextmanager
    def _snapshot(self) -> Iterator[sa.Connection]:
        with self._engine.connect() as connection, connection.begin():
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql(_LONGEST_STATEMENT)
            yield connection

    def _tell(self, found: list[Difference]) -> None:
        self._totals.differences += len(found)
        for difference in found:
            self._report.found(difference)

    def _count(self, table: sa.Table) -> int:
        with self._snapshot() as connection:
            return connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
