"""The newest reading of each register of a meter: of the sealed ones, and of the journal's."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import sqlalchemy as sa

from storage import schema
from storage.blocks import Stored
from storage.prepared import Prepared

_LATEST = Prepared(
    sa.select(
        *(schema.latest.c[name] for name in ("register", "time_ms", "value", "status"))
    ).where(schema.latest.c.meter == sa.bindparam("meter"))
)
_SEALED = Prepared(
    sa.select(schema.latest.c.time_ms, schema.latest.c.settled).where(
        schema.latest.c.meter == sa.bindparam("meter"),
        schema.latest.c.register == sa.bindparam("register"),
    )
)


class Tip(NamedTuple):
    """A register's newest sealed reading: its instant, and of energy whether it surely counts."""

    time_ms: int
    settled: bool


def tip(connection: sa.Connection, meter: int, register: int) -> Tip | None:
    """A register's newest sealed reading; None where none is sealed."""
    row = _SEALED.row(connection, meter=meter, register=register)
    return None if row is None else Tip(int(row[0]), bool(row[1]))


def of_registers(
    connection: sa.Connection, meter: int, unsealed: Stored
) -> list[tuple[int, int, int, int]]:
    """Code, time, raw value and status of each register's newest, ``unsealed`` ones among them."""
    newest = {code: (code, *rest) for code, *rest in _LATEST.rows(connection, meter=meter)}
    # By register, then time, then acceptance: the last of each register is its newest.
    order = np.lexsort((unsealed.time, unsealed.register))
    register = unsealed.register[order]
    last = order[np.append(register[1:] != register[:-1], True)] if len(order) else order
    columns = (unsealed.register, unsealed.time, unsealed.value, unsealed.status)
    for row in zip(*(column[last].tolist() for column in columns), strict=True):
        if row[0] not in newest or row[1] >= newest[row[0]][1]:
            newest[row[0]] = row
    return sorted(newest.values())
