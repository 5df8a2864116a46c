"""Copies every row of a database into an empty SQLite one, whatever its tables; bounded in memory.

Rows of ``HISTORY`` tables are whole when they are written. Who changes one, as the deletion of a
meter does, changes its number of readings; who merges some writes others under new keys. So they
are copied in many short snapshots while the writer goes on, and one last snapshot tells which have
gone and which have come meanwhile. Everything else is copied within that one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from storage import schema
from storage.migrate import STAMP

HISTORY = ("blocks", "journal")  # this order: sealing makes blocks of the journal
_BODY = "body"
_MOST_OCTETS = 4 * 2**20  # of bodies in memory
_MOST_ROWS = 4096
_ROWS_WITH_BODY = 16  # fetched at once, where a row may have megabytes
_PLAIN_ROW = 64  # octets of a row without a body, about

Moved = Callable[[int], None]  # is told the octets of each batch
Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """A table as it stands in a database: its columns in order, and its primary key."""

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]

    @property
    def table(self) -> sa.TableClause:
        """For queries. Without types: what the driver gives is what the other driver takes."""
        return sa.table(self.name, *(sa.column(name) for name in self.columns))

    def of(self, row: Row) -> Row:
        """The key of a row."""
        return tuple(row[self.columns.index(name)] for name in self.key)


def layouts(connection: Connection) -> list[Layout]:
    """Every table with its primary key, by name."""
    inspector = sa.inspect(connection)
    return [
        Layout(
            name,
            tuple(column["name"] for column in inspector.get_columns(name)),
            tuple(inspector.get_pk_constraint(name)["constrained_columns"]),
        )
        for name in sorted(inspector.get_table_names())
    ]


def known_tables(connection: Connection) -> sa.MetaData:
    """Our tables, and the note of the migrations where there is one."""
    known = sa.MetaData()
    for table in schema.metadata.sorted_tables:
        table.to_metadata(known)
    if sa.inspect(connection).has_table(STAMP.name):
        STAMP.to_metadata(known)
    return known


def batches(
    connection: Connection, layout: Layout, after: Row | None = None
) -> Iterator[list[Row]]:
    """The rows with keys beyond ``after``, by key, in batches of some megabytes."""
    table = layout.table
    query = sa.select(table).order_by(*(table.c[name] for name in layout.key))
    if after is not None:
        query = query.where(_beyond(table, layout, after))
    wide = _BODY in layout.columns
    result = connection.execution_options(stream_results=True).execute(query)
    try:
        batch: list[Row] = []
        size = 0
        while rows := result.fetchmany(_ROWS_WITH_BODY if wide else _MOST_ROWS):
            batch += [tuple(row) for row in rows]
            size += octets(layout, rows)
            if size >= _MOST_OCTETS or len(batch) >= _MOST_ROWS:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch
    finally:
        result.close()


def insert(connection: Connection, layout: Layout, rows: list[Row], moved: Moved) -> None:
    """Add rows to the same table of a SQLite database."""
    marks = ", ".join("?" * len(layout.columns))
    names = ", ".join(f'"{name}"' for name in layout.columns)
    connection.exec_driver_sql(f'INSERT INTO "{layout.name}" ({names}) VALUES ({marks})', rows)
    moved(octets(layout, rows))


def copy_ahead(source: Engine, target: Connection, layout: Layout, moved: Moved) -> int:
    """Copy history beyond what is there, each batch in a snapshot of its own; the rows copied."""
    table = layout.table
    key = [table.c[name] for name in layout.key]
    newest = target.execute(sa.select(*key).order_by(*(part.desc() for part in key))).first()
    after: Row | None = None if newest is None else tuple(newest)
    copied = 0
    while True:
        with source.connect() as connection, connection.begin():
            rows = next(batches(connection, layout, after), [])
        if not rows:
            return copied
        insert(target, layout, rows, moved)
        after = layout.of(rows[-1])
        copied += len(rows)


def reconcile(source: Connection, target: Connection, layout: Layout, moved: Moved) -> int:
    """Make the target's table what the source's is in this snapshot; how many rows that are.

    Rows are told apart by all their columns but the body, and by its length.
    """
    gone, missing, count = [], [], 0
    for key, here, there in _compared(_prints(source, layout), _prints(target, layout)):
        count += here is not None
        if here == there:
            continue
        if there is not None:
            gone.append(key)
        if here is not None:
            missing.append(key)
    table = layout.table
    one = sa.and_(*(table.c[name] == sa.bindparam(f"key_{name}") for name in layout.key))
    if gone:
        target.execute(sa.delete(table).where(one), [_named(layout, key) for key in gone])
    for key in missing:
        row = source.execute(sa.select(table).where(one), _named(layout, key)).one()
        insert(target, layout, [tuple(row)], moved)
    return count


def copy(source: Connection, target: Connection, layout: Layout, moved: Moved) -> int:
    """Copy a table as it is in this snapshot; the rows copied."""
    copied = 0
    for rows in batches(source, layout):
        insert(target, layout, rows, moved)
        copied += len(rows)
    return copied


Print = tuple[Row, Row]  # a row's key, and what tells it from another with that key


def _prints(connection: Connection, layout: Layout) -> Iterator[Print]:
    table = layout.table
    key = [table.c[name] for name in layout.key]
    others = [sa.func.length(column) if column.name == _BODY else column for column in table.c]
    query = sa.select(*key, *others).order_by(*key)
    result = connection.execution_options(stream_results=True).execute(query)
    while rows := result.fetchmany(_MOST_ROWS):
        for row in rows:
            yield tuple(row[: len(key)]), tuple(row[len(key) :])


def _compared(
    source: Iterator[Print], target: Iterator[Print]
) -> Iterator[tuple[Row, Row | None, Row | None]]:
    """Each key of two ordered streams once, with its print in the one and in the other."""
    here, there = next(source, None), next(target, None)
    while here is not None or there is not None:
        if there is None or (here is not None and here[0] < there[0]):
            assert here is not None
            yield here[0], here[1], None
            here = next(source, None)
        elif here is None or there[0] < here[0]:
            yield there[0], None, there[1]
            there = next(target, None)
        else:
            yield here[0], here[1], there[1]
            here, there = next(source, None), next(target, None)


def _beyond(table: sa.TableClause, layout: Layout, after: Row) -> sa.ColumnElement[bool]:
    columns = [table.c[name] for name in layout.key]
    beyond: sa.ColumnElement[bool] = sa.tuple_(*columns) > sa.tuple_(*map(sa.literal, after))
    return beyond


def _named(layout: Layout, key: Row) -> dict[str, Any]:
    return {f"key_{name}": value for name, value in zip(layout.key, key, strict=True)}


def octets(layout: Layout, rows: Sequence[Row]) -> int:
    """About how much storage rows take."""
    if _BODY not in layout.columns:
        return _PLAIN_ROW * len(rows)
    at = layout.columns.index(_BODY)
    return sum(len(row[at]) for row in rows)
