"""How far the journal is sealed: one row of ``info``, read and written with what it speaks of."""

from __future__ import annotations

from dataclasses import astuple, dataclass

import sqlalchemy as sa

from storage import info, schema
from storage.prepared import Prepared

_KEY = "sealed"
_ROW = Prepared(sa.select(schema.info.c.value).where(schema.info.c.key == _KEY))


@dataclass(frozen=True, slots=True)
class Watermark:
    """What is in blocks, and no longer counts in the journal."""

    sealed: int = 0  # all rows of the journal up to this id
    passing: int = 0  # the rows up to this id too, of meters numbered
    below: int = 0  # below this
    shifts: int = 0  # bit s is set where there may be blocks of that shift
    values: int = 0  # values in all blocks

    def up_to(self, meter: int) -> int:
        """The last row of the journal that is in blocks as far as the meter is concerned."""
        return self.passing if meter < self.below else self.sealed

    @property
    def shift_list(self) -> tuple[int, ...]:
        """The shifts that blocks may have."""
        return tuple(shift for shift in range(self.shifts.bit_length()) if self.shifts >> shift & 1)


def read(connection: sa.Connection) -> Watermark:
    """The watermark as the connection sees it."""
    found = _ROW.row(connection)
    return Watermark() if found is None else Watermark(*map(int, found[0].split()))


def write(connection: sa.Connection, watermark: Watermark) -> None:
    """Keep the watermark; in the transaction of what it speaks of."""
    info.keep(connection, _KEY, " ".join(str(number) for number in astuple(watermark)))
