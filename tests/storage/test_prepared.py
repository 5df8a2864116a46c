"""Prepared questions answer what SQLAlchemy's own execution does, in its transaction."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from storage import meters, schema
from storage.engine import Database, close_writer, open_reader, open_writer
from storage.prepared import Prepared, together

_OF = schema.meters.c
TWICE = sa.select(_OF.number, _OF.id).where(
    _OF.number >= sa.bindparam("low"),
    _OF.number < sa.bindparam("high"),
    sa.or_(_OF.number != 3, sa.bindparam("low") == 3),  # one in two places, and a constant
)


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sa.Connection]:
    writer, octets = open_writer(Database(tmp_path)), [f"m{n}".ljust(16, "\0") for n in range(9)]
    with writer.begin() as opened:
        meters.add_all(opened, 0, [text.encode() for text in octets], 1)
        yield opened
    close_writer(writer)


@pytest.mark.parametrize(("low", "high"), [(0, 9), (2, 5), (3, 5), (5, 5)])
@pytest.mark.parametrize("statement", [TWICE, sa.union_all(TWICE, TWICE)])
def test_the_same_rows(
    connection: sa.Connection, statement: sa.Select[Any], low: int, high: int
) -> None:
    expected = [tuple(row) for row in connection.execute(statement, {"low": low, "high": high})]
    prepared = Prepared(statement)
    for _ in range(2):
        assert prepared.rows(connection, low=low, high=high) == expected
    assert prepared.row(connection, low=low, high=high) == (expected[0] if expected else None)


def test_it_sees_what_its_transaction_has_done(tmp_path: Path, connection: sa.Connection) -> None:
    found = meters.find(connection, "m4")
    assert found is not None
    assert found.number == 4
    other = open_reader(Database(tmp_path))
    with other.connect() as outside:
        assert meters.find(outside, "m4") is None
    other.dispose()


def test_parameters_of_a_driver_that_names_them() -> None:
    dialect: Any = postgresql.psycopg.dialect
    made = Prepared(TWICE)._compile(dialect())
    assert made.order is None
    assert set(re.findall(r"%\((\w+)\)s", made.text)) == {"low", "high", *made.constants}
    assert 3 in made.constants.values()


def test_an_error_is_one_of_sqlalchemy(connection: sa.Connection) -> None:
    nowhere = Prepared(
        sa.select(sa.Table("nowhere", sa.MetaData(), sa.Column("x", sa.Integer)).c.x)
    )
    with pytest.raises(sa.exc.OperationalError, match="no such table: nowhere"):
        nowhere.rows(connection)
    assert meters.count(connection) == 9


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 200])
def test_rows_are_written_together(connection: sa.Connection, count: int) -> None:
    rows = np.arange(5 * count).reshape(count, 5)
    statement = "INSERT INTO daily (day, meter, wh, covered_ms, flags) VALUES {rows}"
    together(connection, statement, "(?, ?, ?, ?, ?)", rows)
    found = connection.execute(sa.select(schema.daily).order_by(schema.daily.c.day))
    assert [tuple(row) for row in found] == [tuple(row) for row in rows.tolist()]
