"""A copy of the whole database as one SQLite file, made while the writer goes on.

docs/decisions/0017-backup.md says why it is copied in this way.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from storage import copying, inspection, own_files, schema
from storage.engine import StorageError
from storage.inspection import Findings
from storage.whole_file import need_space, refuse_existing, whole_file

_FEW = 256  # rows that came while the others were copied: now the last snapshot is short
_MOST_ROUNDS = 20

# Nothing is read from the file before it is whole, and it is synced at the end.
_TARGET_PRAGMAS = (
    "PRAGMA journal_mode = OFF",
    "PRAGMA synchronous = OFF",
    "PRAGMA locking_mode = EXCLUSIVE",
    "PRAGMA cache_size = -16384",
)
# What a database keeps of how it was made; set before its first table.
_KEPT_PRAGMAS = ("page_size", "auto_vacuum", "application_id", "user_version")


@dataclass
class Progress:
    """How far a copy is: ``octets`` of about ``expected``; ``told`` after each step."""

    told: Callable[[Progress], None] = lambda _: None
    stage: str = ""
    octets: int = 0
    expected: int = 0

    def enter(self, stage: str) -> None:
        """Begin another stage."""
        self.stage = stage
        self.told(self)

    def moved(self, octets: int) -> None:
        """So much more was copied."""
        self.octets += octets
        self.told(self)

    def look(self) -> None:
        """Nothing new, but time has passed."""
        self.told(self)


def backup(
    source: Engine, file: Path, *, force: bool = False, progress: Progress | None = None
) -> Findings:
    """Copy all that is committed to ``file``, a SQLite database whatever the source is.

    The file appears when it is whole, checked and synced. Raises StorageError and leaves nothing.
    ``force`` writes over a file of that name, but of Wattbus's own over nothing but a backup.
    """
    progress = progress or Progress()
    refuse_existing(file, replace=force)
    _refuse_own(file)
    try:
        with source.connect() as connection, connection.begin():
            progress.expected = _expected(connection)
        need_space(file.parent, progress.expected, "the backup")
        with whole_file(file, replace=force) as partial:
            with _target(partial) as target:
                if source.dialect.name == "sqlite":
                    rows = _in_steps(source, target, progress)
                else:
                    rows = _at_once(source, target, progress)
            progress.enter("checking")
            findings = inspection.inspect(partial, progress.look)
            _compare(source, partial, rows, findings)
        return findings
    except sa.exc.DBAPIError as error:
        raise StorageError(
            f"the backup failed: {error.orig}. Is there room, and is the database sound?"
        ) from error


def _refuse_own(file: Path) -> None:
    if own_files.in_use(file):
        raise StorageError(f"{file} is a collector's own, no backup: choose another name")
    if own_files.precious(file):
        try:
            inspection.recognize(file)
        except StorageError as error:
            raise StorageError(f"only a backup is written over there: {error}") from None


def _expected(connection: Connection) -> int:
    """About how large the copy becomes."""
    if connection.dialect.name != "sqlite":
        tables = [table.name for table in schema.metadata.sorted_tables]
        sizes = (
            connection.execute(sa.select(sa.func.pg_total_relation_size(name))).scalar_one()
            for name in tables
        )
        return sum(int(size) for size in sizes)
    pages, free, size = (
        int(connection.exec_driver_sql(f"PRAGMA {name}").scalar_one())
        for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * size


@contextmanager
def _target(file: Path) -> Iterator[Connection]:
    engine = sa.create_engine(
        "sqlite://",
        creator=lambda: sqlite3.connect(file, isolation_level=None),
        poolclass=sa.pool.StaticPool,
    )
    try:
        with engine.connect() as connection:
            for pragma in _TARGET_PRAGMAS:
                connection.exec_driver_sql(pragma)
            yield connection
            connection.exec_driver_sql("COMMIT")
    finally:
        engine.dispose()


def _in_steps(source: Engine, target: Connection, progress: Progress) -> dict[str, int]:
    """Copy a SQLite database: no snapshot is held while the mass of the history is copied.

    The answer is the rows of each table in the last snapshot.
    """
    with source.connect() as connection, connection.begin():
        for name in _KEPT_PRAGMAS:
            value = connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            target.exec_driver_sql(f"PRAGMA {name} = {value}")
        # As it is defined there, so that a database of an older version is copied as it is.
        made = connection.exec_driver_sql(
            "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' "
            "ORDER BY type = 'table' DESC, rowid"
        )
        # The driver is in autocommit mode: without BEGIN each batch would be a transaction.
        target.exec_driver_sql("BEGIN")
        for (definition,) in made.all():
            target.exec_driver_sql(definition)
        tables = {layout.name: layout for layout in copying.layouts(connection)}
    ahead = [tables[name] for name in copying.HISTORY if name in tables]
    progress.enter("copying")
    for _ in range(_MOST_ROUNDS):
        if sum(copying.copy_ahead(source, target, each, progress.moved) for each in ahead) < _FEW:
            break
    progress.enter("copying the last")
    with source.connect() as connection, connection.begin():
        return {
            layout.name: (copying.reconcile if layout in ahead else copying.copy)(
                connection, target, layout, progress.moved
            )
            for layout in tables.values()
        }


def _at_once(source: Engine, target: Connection, progress: Progress) -> dict[str, int]:
    """Copy a database that lets a snapshot stand for long, as PostgreSQL does."""
    progress.enter("copying")
    with (
        source.connect().execution_options(isolation_level="REPEATABLE READ") as connection,
        connection.begin(),
    ):
        known = copying.known_tables(connection)
        target.exec_driver_sql("BEGIN")
        known.create_all(target)
        return {
            layout.name: copying.copy(connection, target, layout, progress.moved)
            for layout in copying.layouts(connection)
            if layout.name in known.tables
        }


def _compare(source: Engine, file: Path, rows: dict[str, int], findings: Findings) -> None:
    """Raise StorageError unless the file holds what the source held."""
    wrong = [name for name, count in rows.items() if findings.rows.get(name) != count]
    if wrong:
        raise StorageError(f"the backup is not what was copied: {', '.join(wrong)}. Try again")
    for damage in findings.damaged:
        with source.connect() as connection:
            table = sa.table(damage.table, sa.column("id"), sa.column("body"))
            query = sa.select(table.c.body).where(table.c.id == damage.id)
            theirs = connection.execute(query).scalar()
        # What was damaged before is copied as it is, and told; gone, it was sealed meanwhile.
        if theirs is not None and bytes(theirs) != inspection.body(file, damage.table, damage.id):
            raise StorageError(f"the backup is damaged while it was written: {damage}. Try again")
