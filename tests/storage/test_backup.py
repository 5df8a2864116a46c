"""Copies of a database that changes meanwhile."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from storage import schema
from storage.backup import Progress, backup
from storage.engine import Database, open_reader, open_writer

BLOCK = {"shift": 0, "grp": 0, "first_ms": 0, "last_ms": 1, "readings": 1, "lasting": False}


def blocks(ids: range, size: int = 20_000) -> list[dict[str, Any]]:
    return [BLOCK | {"id": number, "body": os.urandom(size)} for number in ids]


def contents(engine: sa.Engine) -> dict[str, list[tuple[Any, ...]]]:
    with engine.connect() as connection:
        return {
            table.name: sorted(tuple(row) for row in connection.execute(sa.select(table)))
            for table in schema.metadata.sorted_tables
        }


def contents_of(file: Path) -> dict[str, list[tuple[Any, ...]]]:
    engine = sa.create_engine(f"sqlite:///{file}")
    try:
        return contents(engine)
    finally:
        engine.dispose()


def fill(engine: sa.Engine) -> None:
    """A row or more of everything, none of it decodable."""
    with engine.begin() as connection:
        connection.execute(schema.blocks.insert(), blocks(range(1, 1001)))
        connection.execute(
            schema.meters.insert(),
            [
                {"number": n, "octets": bytes([n]) * 16, "id": f"m-{n}", "created_ms": 1}
                for n in range(1, 4)
            ],
        )
        connection.execute(
            schema.daily.insert(),
            [
                {"day": day, "meter": n, "wh": day * n, "covered_ms": 1, "flags": 0}
                for day in range(20250101, 20250101 + 3000)
                for n in (1, 2, 3)
            ],
        )
        connection.execute(
            schema.alerts.insert().values(
                number=1,
                meter=2,
                kind="limit",
                period_start_ms=0,
                time_ms=5,
                energy_wh=6,
                limit_wh=7,
                late=True,
                raised_ms=8,
            )
        )


def test_what_changes_while_it_is_copied(tmp_path: Path) -> None:
    """Rows that were copied vanish, change and come, before the last snapshot."""
    writer = open_writer(Database(tmp_path))
    fill(writer)
    seen: list[int] = []
    table = schema.blocks

    def meddle(progress: Progress) -> None:
        seen.append(progress.octets)
        if len(seen) not in (3, 5):
            return
        first = 1 if len(seen) == 3 else 30
        with writer.begin() as connection:
            connection.execute(table.delete().where(table.c.id.between(first, first + 9)))
            smaller = {"readings": 0, "body": b"less"}
            connection.execute(table.update().where(table.c.id == first + 10).values(**smaller))
            new = 2000 + len(seen) * 100
            connection.execute(table.insert(), blocks(range(new, new + 20)))
            late = schema.daily.update().where(schema.daily.c.day == 20250101)
            connection.execute(late.values(wh=new))

    reader = open_reader(Database(tmp_path))
    file = tmp_path / "backup"
    findings = backup(reader, file, progress=Progress(meddle))
    assert len(seen) > 5
    assert findings.rows["blocks"] == 1000 - 20 + 40
    assert contents_of(file) == contents(writer)
    reader.dispose()
    writer.dispose()


def test_the_log_is_folded_in_while_it_is_copied(tmp_path: Path) -> None:
    """No snapshot lasts longer than a batch: between two the log can be begun anew."""
    writer = open_writer(Database(tmp_path))
    with writer.begin() as connection:
        connection.execute(schema.blocks.insert(), blocks(range(1, 2001)))
    emptied = []

    def fold(progress: Progress) -> None:
        if progress.stage == "copying":
            with closing(writer.raw_connection().cursor()) as cursor:
                emptied.append(cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone())

    reader = open_reader(Database(tmp_path))
    backup(reader, tmp_path / "backup", progress=Progress(fold))
    assert len(emptied) > 5
    assert set(emptied) == {(0, 0, 0)}
    reader.dispose()
    writer.dispose()
