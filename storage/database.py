"""Where the data stand, and what is said when they cannot be used."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa

from storage.errors import AnotherWriterError as AnotherWriterError
from storage.errors import HeldUpError as HeldUpError
from storage.errors import StorageError as StorageError
from storage.errors import UnavailableError as UnavailableError

# What a statement raises while the database refuses, but may not for ever. InternalError: a
# PostgreSQL server that has become a read-only standby.
REFUSALS = (
    sa.exc.OperationalError,
    sa.exc.InterfaceError,
    sa.exc.InternalError,
    UnavailableError,
)


@dataclass(frozen=True, slots=True)
class Database:
    """Where the data stand: on the PostgreSQL server of ``url``, else as SQLite in ``data``."""

    data: Path
    url: str | None = field(default=None, repr=False)  # it may hold a password


def reason(error: Exception) -> str:
    """What a database or the system said, in one line."""
    said = getattr(error, "orig", None) or error
    return " ".join(str(said).split())


# Begins a transaction of the writer's; raises one of REFUSALS where none can be.
Begin = Callable[[], AbstractContextManager[sa.Connection]]
