"""Puts a backup in the place of a database: into an empty directory, or an empty database."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from storage import copying, inspection, schema
from storage.backup import Progress
from storage.engine import Database, StorageError, close_writer, database_path, open_writer
from storage.inspection import Findings
from storage.lock import only_writer
from storage.whole_file import need_space, whole_file

_PIECE = 4 * 2**20
_BESIDE = ("-wal", "-shm", "-journal")


def restore(
    file: Path, data: Path, *, force: bool, now: datetime, progress: Progress | None = None
) -> tuple[Findings, Path | None]:
    """Make the backup the database of a directory.

    With ``force`` a database that is there already is kept beside it, under the name that is
    answered. Raises StorageError: for what is no backup, for one of a newer version, where a
    database is in the way, where a writer runs.
    """
    progress = progress or Progress()
    inspection.recognize(file)
    with only_writer(data):
        target = database_path(data)
        if target.exists() and not force:
            raise StorageError(
                f"there is a database in {data} already: choose an empty --data, or let --force "
                "keep it beside the restored one"
            )
        size = file.stat().st_size
        need_space(data, size, "the restored database")
        progress.expected = size
        with whole_file(target, replace=True) as partial:
            progress.enter("copying")
            _copy(file, partial, progress.moved)
            progress.enter("checking")
            findings = inspection.inspect(partial, progress.look)
            kept = _set_aside(data, now) if target.exists() else None
        return findings, kept


def restore_database(file: Path, database: Database, progress: Progress | None = None) -> Findings:
    """Fill an empty database on a server from the backup, as its only writer.

    Raises StorageError: also where a writer runs.
    """
    inspection.recognize(file)
    with only_writer(database.data):
        engine = open_writer(database)
        try:
            return restore_into(engine, file, progress=progress)
        finally:
            close_writer(engine)


def restore_into(engine: Engine, file: Path, *, progress: Progress | None = None) -> Findings:
    """Fill an empty database of any kind from the backup, in one transaction.

    Nobody else may write to it meanwhile. Raises StorageError.
    """
    progress = progress or Progress()
    version = inspection.recognize(file)
    if version != schema.VERSION:
        raise StorageError(
            f"{file} has schema {version}, and only schema {schema.VERSION} moves between kinds of "
            "database: restore it into a directory, run `wattbus migrate --data` there, "
            "and back that up"
        )
    progress.enter("checking")
    findings = inspection.inspect(file, progress.look)
    progress.expected = file.stat().st_size
    progress.enter("copying")
    source = inspection.engine(file)
    try:
        with source.connect() as theirs, engine.begin() as ours:
            known = copying.known_tables(theirs)
            known.create_all(ours)
            _refuse_filled(ours)
            layouts = {layout.name: layout for layout in copying.layouts(theirs)}
            for table in known.sorted_tables:
                layout = layouts[table.name]
                ours.execute(table.delete())  # of ``info``, what making the tables put there
                for rows in copying.batches(theirs, layout):
                    values = [dict(zip(layout.columns, row, strict=True)) for row in rows]
                    ours.execute(table.insert(), values)
                    progress.moved(copying.octets(layout, rows))
    except sa.exc.DBAPIError as error:
        raise StorageError(f"cannot restore into the database: {error.orig}") from error
    finally:
        source.dispose()
    return findings


def _refuse_filled(connection: Connection) -> None:
    for table in (schema.meters, schema.journal, schema.blocks):
        if connection.execute(sa.select(sa.literal(1)).select_from(table).limit(1)).first():
            raise StorageError(
                f"the database is not empty (table {table.name}): restore into an empty one"
            )


def _copy(file: Path, target: Path, moved: Callable[[int], None]) -> None:
    with file.open("rb") as source, target.open("r+b") as copy:
        while piece := source.read(_PIECE):
            copy.write(piece)
            moved(len(piece))


def _set_aside(data: Path, now: datetime) -> Path:
    """Give the database another name, with what belongs to it; the name."""
    current = database_path(data)
    # A database that cannot be opened keeps its log as it is.
    with suppress(StorageError, sa.exc.DBAPIError):
        close_writer(open_writer(Database(data)))
    kept = current.with_name(f"{current.stem}-{now:%Y%m%d-%H%M%S}{current.suffix}")
    number = 1
    while kept.exists():
        number += 1
        kept = kept.with_name(f"{current.stem}-{now:%Y%m%d-%H%M%S}-{number}{current.suffix}")
    for end in _BESIDE:
        beside = current.with_name(current.name + end)
        if beside.exists():
            shutil.move(beside, kept.with_name(kept.name + end))
    try:
        os.link(current, kept)  # so that there is a database under the usual name at any moment
    except OSError:
        current.rename(kept)
    return kept
