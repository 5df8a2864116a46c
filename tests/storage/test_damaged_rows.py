"""Damaged rows of the journal: kept and counted, never in the way; taken in again once whole."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from storage import damaged_rows, schema, sealing
from storage.engine import Database, UnavailableError, close_writer, open_writer
from storage.queries import Reader
from telemetry.registers import BY_CODE, ENERGY_IMPORT
from tests.storage.conftest import MakeDatabase
from tests.storage.test_sealing import NOON, Store, small_slices
from tests.storage.test_writer import NOW, Running, make_running, readings

__all__ = ["make_running", "small_slices"]  # fixtures
HOUR = 3_600_000
_TABLE = schema.journal


def body(engine: sa.Engine, row: int) -> bytes:
    with engine.connect() as connection:
        found = sa.select(_TABLE.c.body).where(_TABLE.c.id == row)
        return bytes(connection.execute(found).scalar_one())


def put(engine: sa.Engine, row: int, octets: bytes) -> None:
    with engine.begin() as connection:
        own = _TABLE.c.id == row
        assert connection.execute(_TABLE.update().where(own).values(body=octets)).rowcount == 1


def spoil(engine: sa.Engine, row: int) -> bytes:
    """Change an octet of a row; the body that it had."""
    whole = body(engine, row)
    put(engine, row, whole[:-1] + bytes([whole[-1] ^ 1]))
    return whole


def rows(engine: sa.Engine) -> list[int]:
    with engine.connect() as connection:
        return list(connection.execute(sa.select(_TABLE.c.id).order_by(_TABLE.c.id)).scalars())


def another_writer(store: Store) -> None:
    with store.engine.begin() as connection:
        damaged_rows.put_right(connection)
    store.rows = max([store.rows, *rows(store.engine)])
    store.sealer = store.new_sealer()


def damaged(reader: Reader) -> int:
    with reader.snapshot():
        return reader.damaged


def accept(store: Store, values: list[tuple[int, int, int, int]]) -> None:
    for meter, register, instant, value in values:
        store.accepted.setdefault((meter, register), []).append((instant, value))


def part(first: int) -> list[tuple[int, int, int, int]]:
    """Values of six meters for an hour."""
    return [(meter, ENERGY_IMPORT, NOON + first * HOUR, 10 * first) for meter in range(1, 7)]


@pytest.mark.parametrize("where", [{1}, {3}, {5}, {1, 2, 4}, {1, 2, 3, 4, 5}])
def test_what_is_around_damaged_rows_is_sealed(tmp_path: Path, where: set[int]) -> None:
    store = Store(tmp_path, 6)
    for row in range(1, 6):
        store.commit(part(row))
    whole = {row: spoil(store.engine, row) for row in where}
    store.accepted.clear()
    for row in set(range(1, 6)) - where:
        accept(store, part(row))
    store.sealer.seal_all()
    store.check()
    assert rows(store.engine) == sorted(where)
    other = Reader(Database(tmp_path))
    assert damaged(store.reader) == damaged(other) == len(where)
    store.commit(part(6))
    another_writer(store)  # they are still damaged
    store.check()
    for row, octets in sorted(whole.items()):
        put(store.engine, row, octets)
        accept(store, part(row))
    another_writer(store)
    store.check()
    store.sealer.seal_all()
    store.check()
    assert rows(store.engine) == []
    assert damaged(store.reader) == damaged(other) == 0
    with other.snapshot():
        assert other.readings() == 36
    other.close()
    store.close()


@pytest.mark.usefixtures("small_slices")
@pytest.mark.parametrize("row", [1, 2, 3])
@pytest.mark.parametrize("more", [0, 1])
def test_a_row_that_is_damaged_amid_its_pass(tmp_path: Path, row: int, more: int) -> None:
    """Sealed for some meters only: it waits, and once it is whole nothing of it is missing.

    What those meters had of it may repeat, which no sum shows.
    """
    store = Store(tmp_path, 6)
    for number in range(1, 4):
        store.commit(part(number))
    store.sealer.begin()
    store.sealer.step(0)
    assert store.sealer._watermark.passing
    whole = spoil(store.engine, row)
    for _ in range(more):  # damage is found by the pass itself, not before it
        store.sealer = store.new_sealer()
        with pytest.raises(UnavailableError, match=f"row {row} of the journal is damaged"):
            store.sealer.begin()
    another_writer(store)
    store.sealer.seal_all()
    assert rows(store.engine) == [4]
    assert damaged(Reader(Database(tmp_path))) == 1
    put(store.engine, 4, whole)
    another_writer(store)
    store.reader.close()
    store.reader = Reader(Database(tmp_path))
    store.sealer.seal_all()
    assert rows(store.engine) == []
    with store.reader.snapshot():
        store.check_days()
        for (number, code), accepted in store.accepted.items():
            series = store.reader.series(store.reader.by_number(number), BY_CODE[code])
            read = zip(series.time.tolist(), series.value.tolist(), strict=True)
            assert list(dict.fromkeys(read)) == accepted
    store.close()


def test_a_writer_goes_on_around_a_damaged_row(
    make_running: Callable[..., Running],
    make_database: MakeDatabase,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    running = make_running()
    for number in range(5):
        running.send(readings([("a", NOW + number, number)]))
    running.stop()
    engine = open_writer(running.database)
    whole = spoil(engine, 3)
    close_writer(engine)
    monkeypatch.setattr(sealing, "_DUE_AGE", 0)

    def again(left: int, damaged: int) -> None:
        running.start()
        running.send(readings([("a", NOW + 10 + damaged, 1)]))
        deadline = time.monotonic() + 60
        count = sa.select(sa.func.count()).select_from(_TABLE)
        while running.reader.connection.execute(count).scalar_one() != left:
            assert time.monotonic() < deadline
            assert running.failure is None
        assert running.reader.damaged == damaged
        assert running.reader.readings() == 5 + 1 - damaged + (1 - damaged)
        running.stop()

    again(1, 1)
    engine = open_writer(running.database)
    put(engine, 3, whole)
    close_writer(engine)
    again(0, 0)
    assert sorted(running.stored("a"))[:5] == [(NOW + number, number) for number in range(5)]
