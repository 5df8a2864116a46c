"""What the answers about one meter hang on, in numbers that are cheap to compare.

They hang on the meter's row, its readings and, by day, on the days that are kept. Readings come
with rows of the journal; they go from there into blocks, and are thinned and deleted there. Each
slice of sealing moves the watermark's rows on, and all else that takes readings away lowers its
count: so where all of it is the same, blocks and days hold what they held. Only a change of the
registry has a meter's days made again without that, and is counted for it: days that are made
again of thinned readings may say less than before, though the meter's row is as it was.
"""

from __future__ import annotations

from typing import NamedTuple

import sqlalchemy as sa

from storage import schema
from storage.info import keep_number, kept_number
from storage.meters import Meter
from storage.prepared import Prepared
from storage.watermark import Watermark

_KEY = "days_made_again"
_MADE_AGAIN = Prepared(sa.select(schema.info.c.value).where(schema.info.c.key == _KEY))


class Standing(NamedTuple):
    """What an answer was made from: the meter's journal is what it has up to ``row``."""

    meter: Meter
    watermark: Watermark
    made_again: int
    row: int


def made_again(connection: sa.Connection) -> int:
    """How often changes of the registry have had days made again."""
    found = _MADE_AGAIN.row(connection)
    return 0 if found is None else int(found[0])


def count(connection: sa.Connection) -> None:
    """Count that a change has days made again, in its transaction."""
    keep_number(connection, _KEY, kept_number(connection, _KEY) + 1)
