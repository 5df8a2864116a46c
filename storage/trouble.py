"""What is said of a database that refuses, in plain words and once."""

from __future__ import annotations

import logging
import sqlite3

from storage.database import reason

log = logging.getLogger("writer")

# By SQLite's primary result code: what it means here, and what is to be done.
_MEANINGS = {
    sqlite3.SQLITE_FULL: "the disk is full: make room",
    sqlite3.SQLITE_IOERR: "the disk takes no more, or fails: make room, or look at the disk",
    sqlite3.SQLITE_BUSY: "another program keeps the database locked: end it",
    sqlite3.SQLITE_READONLY: "the database may not be written to: give it back its permissions",
    sqlite3.SQLITE_CANTOPEN: "the database cannot be opened: is its directory still there?",
    sqlite3.SQLITE_CORRUPT: "the database is damaged: restore a backup",
    sqlite3.SQLITE_NOTADB: "the database is damaged, or none: restore a backup",
}


def plain(error: Exception) -> str:
    """What an error means and, in brackets, what the database said."""
    code = getattr(getattr(error, "orig", error), "sqlite_errorcode", None)
    meaning = None if code is None else _MEANINGS.get(code & 0xFF)
    return f"{meaning} ({reason(error)})" if meaning else reason(error)


class Trouble:
    """What keeps which work from being done; said when trouble begins and when all is over."""

    def __init__(self) -> None:
        self._by_work: dict[str, str] = {}

    @property
    def text(self) -> str | None:
        """What there is, for people; None when there is none."""
        return next(iter(self._by_work.values()), None)

    def met(self, work: str, what: str, error: Exception) -> None:
        """The work failed; one cause keeps several from being done, and is said once."""
        text = f"{what}: {plain(error)}"
        if not self._by_work:
            log.error("%s. It goes on by itself once it can", text)
        self._by_work[work] = text

    def over(self, work: str) -> None:
        """The work was done."""
        if self._by_work.pop(work, None) is not None and not self._by_work:
            log.info("%s again", work)
