"""The SQLite file itself: its backup, its size on disk, and writing it anew so that it can shrink.

Connections are the driver's own, in autocommit mode and outside of a transaction.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

Connection = sqlite3.Connection
DatabaseError = sqlite3.Error
Copied = Callable[[int, int], None]  # pages: done, of

_PAGES_A_STEP = 2048
_SPARE = 16 << 20  # octets to leave free on a disk
_INSTRUCTIONS = 1000  # of SQLite between two looks at the signals: some MiB of blocks


def quietly(_done: int, _of: int) -> None:
    """Show nobody how much is done."""


def place_of(connection: Connection) -> Path:
    """The database's file."""
    names = {name: file for _, name, file in connection.execute("PRAGMA database_list")}
    return Path(names["main"])


def back_up(connection: Connection, target: Path, copied: Copied = quietly) -> None:
    """Copy the database as it is, durably; ``target`` is whole or not there, an older one replaced.

    Raises OSError (also when there is no room) and DatabaseError.
    """
    _look_for_room({target.parent: _size(connection)})
    partial = target.with_name(f"{target.name}.partial")
    journal = partial.with_name(f"{partial.name}-journal")
    journal.unlink(missing_ok=True)
    partial.unlink(missing_ok=True)
    try:
        partial.touch(0o600)
        shutil.copymode(place_of(connection), partial)
        with closing(sqlite3.connect(partial)) as copy:
            connection.backup(
                copy, pages=_PAGES_A_STEP, progress=lambda _, left, of: copied(of - left, of)
            )
        _sync(partial)
        partial.replace(target)
        _sync(target.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        journal.unlink(missing_ok=True)
        raise


def shrinks(connection: Connection) -> bool:
    """Whether free pages can be given back without writing the whole file anew."""
    (mode,) = connection.execute("PRAGMA auto_vacuum").fetchone()
    return bool(mode)


def lacking_room(connection: Connection) -> str:
    """What disks lack to write the file anew; nothing where there is room.

    SQLite writes a copy into its directory of temporary files, and from there into the log.
    """
    size = _size(connection)
    try:
        _look_for_room({place_of(connection).parent: size, _temporary(): size})
    except OSError as error:
        return str(error)
    return ""


def rewrite(connection: Connection) -> str:
    """Write the file anew, so that it shrinks from now on; why not, if it could not be done."""
    # Python looks at its signals when this is called: without it, Ctrl-C waits for the end.
    connection.set_progress_handler(lambda: 0, _INSTRUCTIONS)
    try:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorname == "SQLITE_INTERRUPT":
            raise KeyboardInterrupt from None
        return str(error)
    finally:
        connection.set_progress_handler(None, 0)
    return ""


def _size(connection: Connection) -> int:
    (octets,) = connection.execute(
        "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
    ).fetchone()
    return int(octets)


def _look_for_room(wanted: dict[Path, int]) -> None:
    """Raise OSError where a disk has not the octets free that its directories want together."""
    by_disk: dict[int, int] = {}
    for directory, octets in wanted.items():
        disk = directory.stat().st_dev
        by_disk[disk] = by_disk.get(disk, 0) + octets
        free = shutil.disk_usage(directory).free
        if free < by_disk[disk] + _SPARE:
            missing = (by_disk[disk] + _SPARE - free) / 2**20
            raise OSError(f"the disk of {directory} has {missing:.0f} MiB too little free")


def _temporary() -> Path:
    """Where SQLite writes its temporary files (https://sqlite.org/tempfiles.html, section 5)."""
    named = (os.environ.get(name) for name in ("SQLITE_TMPDIR", "TMPDIR"))
    for name in (*named, "/var/tmp", "/usr/tmp", "/tmp"):
        if name and os.path.isdir(name) and os.access(name, os.W_OK | os.X_OK):
            return Path(name)
    return Path()


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
