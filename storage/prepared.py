"""What is asked and written all the time, past SQLAlchemy's execution: the driver's own cursor.

A question is compiled once for each dialect. A lookup then costs what the database needs, some
microseconds, where executing it through SQLAlchemy costs thirty more; a written row that it has to
compile costs a hundred and fifty.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import sqlalchemy as sa

from telemetry.readings import Int64s

_TOGETHER = 64  # rows of a statement: more save nothing


@dataclass(frozen=True, slots=True)
class _Compiled:
    text: str
    order: tuple[str, ...] | None  # of parameters that go by their place, else None
    constants: dict[str, Any]


class Prepared:
    """A SELECT of plain columns (text, integers, octets) with bound parameters of these types."""

    def __init__(self, statement: sa.Select[Any] | sa.CompoundSelect[Any]) -> None:
        self._statement = statement
        self._compiled: dict[str, _Compiled] = {}  # by the dialect's name

    def rows(self, connection: sa.Connection, **values: object) -> list[Any]:
        """All rows, as tuples, in the connection's transaction. Raises OperationalError."""
        dialect = connection.dialect
        made = self._compiled.get(dialect.name) or self._compile(dialect)
        given: Any = made.constants | values
        if made.order is not None:
            given = [given[name] for name in made.order]
        driver: Any = connection.connection.driver_connection
        try:
            found: list[Any] = driver.execute(made.text, given).fetchall()
        except dialect.loaded_dbapi.Error as error:
            if dialect.is_disconnect(error, driver, None):
                connection.invalidate(error)
            raise sa.exc.OperationalError(made.text, values, error) from None
        return found

    def row(self, connection: sa.Connection, **values: object) -> Any:
        """The one row there is, as a tuple, or None."""
        found = self.rows(connection, **values)
        return found[0] if found else None

    def _compile(self, dialect: sa.Dialect) -> _Compiled:
        compiled: Any = self._statement.compile(dialect=dialect)
        constants = {name: value for name, value in compiled.params.items() if value is not None}
        order = tuple(compiled.positiontup) if compiled.positional else None
        made = self._compiled[dialect.name] = _Compiled(str(compiled), order, constants)
        return made


def many(connection: sa.Connection, statement: str, rows: list[tuple[Any, ...]]) -> None:
    """Execute a statement with ``?`` for its values once for each row, of which there may be none.

    Bulk: straight to the driver, which takes a fraction of the time.
    """
    if not rows:
        return
    dialect = connection.dialect
    if dialect.name == "postgresql":
        statement = statement.replace("?", "%s")
    if not connection.in_transaction():
        connection.begin()
    driver: Any = connection.connection.driver_connection
    try:
        if len(rows) == 1:
            driver.execute(statement, rows[0])
        else:
            driver.cursor().executemany(statement, rows)
    except dialect.loaded_dbapi.Error as error:
        cut_off = dialect.is_disconnect(error, driver, None)
        if cut_off:
            connection.invalidate(error)
        raise sa.exc.DBAPIError.instance(
            statement,
            rows,
            error,
            dialect.loaded_dbapi.Error,
            connection_invalidated=cut_off,
            dialect=dialect,
            ismulti=True,
        ) from error


def together(connection: sa.Connection, statement: str, row: str, values: Int64s) -> None:
    """Execute a statement for rows of whole numbers, of shape (rows, columns), many at once.

    ``statement`` has ``{rows}`` where they are listed, each as ``row``, with ``?`` for its values.
    No two rows may be for one key. Takes half the time that a row at a time does.
    """
    whole = len(values) // _TOGETHER * _TOGETHER
    for count, part in ((_TOGETHER, values[:whole]), (len(values) - whole, values[whole:])):
        if len(part):
            rows = part.reshape(len(part) // count, -1).tolist()
            listed = statement.format(rows=", ".join([row] * count))
            many(connection, listed, [tuple(given) for given in rows])


def integers(connection: sa.Connection, query: sa.Select[Any], **values: int) -> Int64s:
    """The rows of a query for whole numbers and booleans only, of shape (rows, columns).

    Bulk: as the driver gives them, which takes a fraction of the time.
    """
    width = len(query.selected_columns)
    rows = connection.execute(query, values).cursor.fetchall()
    return np.fromiter(chain.from_iterable(rows), np.int64, len(rows) * width).reshape(-1, width)
