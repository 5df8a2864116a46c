"""Backups of PostgreSQL, and from one kind of database to the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from storage import schema
from storage.backup import Progress, backup
from storage.engine import Database, StorageError, open_reader, open_writer
from storage.restore import restore_into
from tests.storage.test_backup import contents, contents_of, fill


@pytest.fixture
def there(postgresql: Any) -> Iterator[sa.Engine]:
    """An empty database on a server."""
    name = postgresql.create()
    engine = sa.create_engine(postgresql.url(name))
    yield engine
    engine.dispose()
    postgresql.drop(name)


def test_from_one_kind_of_database_to_the_other_and_back(tmp_path: Path, there: sa.Engine) -> None:
    writer = open_writer(Database(tmp_path))
    fill(writer)
    here = contents(writer)
    reader = open_reader(Database(tmp_path))
    backup(reader, tmp_path / "first")
    restore_into(there, tmp_path / "first")
    assert contents(there) == here
    with pytest.raises(StorageError, match="the database is not empty"):
        restore_into(there, tmp_path / "first")
    backup(there, tmp_path / "second")
    assert contents_of(tmp_path / "second") == here
    for engine in (writer, reader):
        engine.dispose()


def test_a_copy_of_postgresql_is_of_one_instant(tmp_path: Path, there: sa.Engine) -> None:
    schema.metadata.create_all(there)
    with there.begin() as connection:
        connection.execute(schema.info.insert().values(key="schema", value=str(schema.VERSION)))
    fill(there)
    before = contents(there)
    done: list[bool] = []

    def meddle(progress: Progress) -> None:
        if progress.octets and not done:
            done.append(True)
            with there.begin() as connection:
                for table in (schema.blocks, schema.daily, schema.meters, schema.alerts):
                    connection.execute(table.delete())

    backup(there, tmp_path / "backup", progress=Progress(meddle))
    assert done
    assert contents_of(tmp_path / "backup") == before
    assert contents(there) != before
