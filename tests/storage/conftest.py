"""What the storage tests share: a fresh database of each kind for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from storage.engine import Database
from tests.postgresql import PostgresServer

MakeDatabase = Callable[[], Database]

# For what is about SQLite's own ways.
only_sqlite = pytest.mark.parametrize("make_database", ["sqlite"], indirect=True)


@pytest.fixture
def make_postgresql(postgresql: PostgresServer, tmp_path: Path) -> Iterator[MakeDatabase]:
    """Makes fresh databases on a PostgreSQL server."""
    made: list[str] = []

    def make() -> Database:
        made.append(postgresql.create())
        return Database(tmp_path / f"data-{len(made)}", postgresql.url(made[-1]))

    yield make
    for name in made:
        postgresql.drop(name)


@pytest.fixture
def make_sqlite(tmp_path: Path) -> MakeDatabase:
    """Makes fresh databases as files."""
    made: list[Database] = []

    def make() -> Database:
        made.append(Database(tmp_path / f"data-{len(made) + 1}"))
        return made[-1]

    return make


@pytest.fixture(params=["sqlite", "postgresql"])
def make_database(request: pytest.FixtureRequest) -> MakeDatabase:
    """Makes fresh databases of each kind, one kind a run of the test."""
    make: MakeDatabase = request.getfixturevalue(f"make_{request.param}")
    return make


@pytest.fixture
def database(make_database: MakeDatabase) -> Database:
    """A fresh database of each kind."""
    return make_database()
