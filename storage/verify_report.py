"""What a verification finds and says while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass

import sqlalchemy as sa

# A transaction that sees the database at one instant.
Snapshot = Callable[[], AbstractContextManager[sa.Connection]]


@dataclass(frozen=True, slots=True)
class Difference:
    """Something stored that is not what the readings say."""

    what: str  # a table's column, mostly
    where: str
    stored: str
    computed: str

    def __str__(self) -> str:
        return f"{self.what}, {self.where}: stored {self.stored}, computed {self.computed}"


@dataclass(slots=True)
class Totals:
    """How much was looked at, and how many differences were found."""

    blocks: int = 0
    rows: int = 0  # of the journal
    meters: int = 0
    values: int = 0  # in these blocks and rows
    days: int = 0
    differences: int = 0

    def as_dict(self) -> dict[str, int]:
        """The numbers by their names."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Report:
    """Whom to tell: ``found`` of each difference at once, ``reached(what, done, of)`` now and then.

    What ``reached`` raises ends the work.
    """

    found: Callable[[Difference], None]
    reached: Callable[[str, int, int], None] = lambda _what, _done, _of: None


def differing(where: str, pairs: dict[str, tuple[object, object]]) -> Iterator[Difference]:
    """The differences among pairs of what is stored and what was computed, by what they are."""
    for what, (stored, computed) in pairs.items():
        if stored != computed:
            yield Difference(what, where, str(stored), str(computed))
