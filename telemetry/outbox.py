"""What a simulated meter or fleet must not lose: registers, numbers, datagrams that wait.

One SQLite file. A tick is one transaction, synced before any of its datagrams is sent: the
registers, the next numbers and the datagrams themselves, as they will be sent and sent again
(docs/delivery.md). A lock beside the file keeps a second process from sending as the same meter.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final, Self

import msgspec
import numpy as np

from telemetry.delivery import Numbers
from telemetry.readings import Int64s
from telemetry.simulator import HIGHEST_REGISTER_MWH

MOST_OCTETS: Final = 1 << 30
LEAST_OCTETS: Final = 1 << 20
_NUMBERS = 2**32  # of an epoch
_PAGE = 4096
_SQLITE = b"SQLite format 3\0"
_APPLICATION = 0x57415454  # "WATT"
_VERSION = 1
_TABLES = """
CREATE TABLE meters (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, register_mwh INTEGER NOT NULL,
    epoch INTEGER NOT NULL, next INTEGER NOT NULL
);
CREATE TABLE waiting (
    meter INTEGER, epoch INTEGER, sequence INTEGER, octets BLOB NOT NULL,
    PRIMARY KEY (meter, epoch, sequence)
) WITHOUT ROWID;
"""
_NEW_METER = "INSERT INTO meters (id, register_mwh, epoch, next) VALUES (?, ?, ?, 0)"


class StateError(Exception):
    """The state cannot be read, written or had for oneself; the text says what to do."""


class _OldState(msgspec.Struct, forbid_unknown_fields=True):
    """The JSON file that came before this one."""

    epoch: Annotated[int, msgspec.Meta(ge=0, le=2**32 - 2)] = 0
    registers_mwh: dict[str, Annotated[int, msgspec.Meta(ge=0, le=HIGHEST_REGISTER_MWH)]] = {}


class Outbox:
    """An outbox held by this process, from opening it to ``close``.

    ``registers`` are in mWh by id as they were on disk; ``epoch`` and ``next`` are of each meter's
    next datagram, in the order of the ids. A meter that is new begins an epoch: ``now_s``, in
    seconds of Unix time. Every method raises StateError.
    """

    epoch: Int64s
    next: Int64s

    def __init__(self, path: Path, ids: Sequence[str], now_s: int, most_octets: int = MOST_OCTETS):
        self.path = path
        self._lock = self._take_lock()
        try:
            with self._guarded():
                if path.suffix == ".db" and not path.exists():
                    self._adopt(path.with_suffix(".json"))
                if not _is_database(path):
                    self._create(now_s)
                self._connection = _connect(path)
                self._check()
                self._connection.execute(f"PRAGMA max_page_count = {most_octets // _PAGE}")
                self._load(ids, now_s)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let another process have it."""
        if hasattr(self, "_connection"):
            self._connection.close()
        os.close(self._lock)

    def waiting(self) -> list[tuple[Numbers, Int64s]]:
        """What waits, an entry an epoch, the oldest first: each meter's first number and its end.

        Between the two there are no gaps.
        """
        with self._guarded():
            rows = self._connection.execute(
                "SELECT epoch, meter, min(sequence), max(sequence) + 1 FROM waiting"
                " GROUP BY meter, epoch ORDER BY epoch, meter"
            ).fetchall()
        place = {number: index for index, number in enumerate(self._numbers)}
        rows = [(epoch, place[meter], *span) for epoch, meter, *span in rows if meter in place]
        epochs = np.array(rows, np.int64).reshape(len(rows), 4)
        groups = np.split(epochs, np.flatnonzero(np.diff(epochs[:, 0])) + 1) if rows else []
        return [(Numbers(part[:, 1], part[:, 0], part[:, 2]), part[:, 3]) for part in groups]

    def waiting_of_others(self) -> int:
        """How many datagrams wait whose meters are not of this fleet."""
        with self._guarded():
            rows = self._connection.execute("SELECT meter, count(*) FROM waiting GROUP BY meter")
            return sum(count for meter, count in rows if meter not in set(self._numbers))

    def append(self, registers: Mapping[str, int], datagrams: Sequence[bytes] | None) -> bool:
        """Keep the registers, and a datagram a meter with its next number; synced on return.

        Without datagrams the numbers are only used up. False says that there is no room: then
        nothing is kept but, if they can be, the registers, and the numbers are still free.
        """
        last = self.next == _NUMBERS - 1
        epoch: Int64s = self.epoch + last
        after: Int64s = (self.next + 1) * ~last
        rows = zip(
            self._numbers, self.epoch.tolist(), self.next.tolist(), datagrams or (), strict=False
        )
        with self._guarded():
            kept = self._save(registers, epoch, after, rows)
            if kept:
                self.epoch, self.next = epoch, after
            else:
                self._save(registers, self.epoch, self.next, ())
        return kept

    def octets(self, numbers: Numbers) -> list[bytes]:
        """The datagrams of these numbers, which wait, as they were appended."""
        keys = zip(
            self._of(numbers), numbers.epoch.tolist(), numbers.sequence.tolist(), strict=True
        )
        ask = "SELECT octets FROM waiting WHERE meter = ? AND epoch = ? AND sequence = ?"
        with self._guarded():
            return [self._connection.execute(ask, key).fetchone()[0] for key in keys]

    def remove(self, below: Numbers) -> None:
        """Remove, of each meter and epoch named, all below the sequence; durable on return."""
        keys = zip(self._of(below), below.epoch.tolist(), below.sequence.tolist(), strict=True)
        with self._guarded(), self._transaction():
            self._connection.executemany(
                "DELETE FROM waiting WHERE meter = ? AND epoch = ? AND sequence < ?", keys
            )

    def _of(self, numbers: Numbers) -> list[int]:
        return [self._numbers[meter] for meter in numbers.meter.tolist()]

    def _save(
        self,
        registers: Mapping[str, int],
        epoch: Int64s,
        after: Int64s,
        rows: Iterator[tuple[int, int, int, bytes]] | tuple[()],
    ) -> bool:
        states = zip(
            (registers[name] for name in self._ids),
            epoch.tolist(),
            after.tolist(),
            self._numbers,
            strict=True,
        )
        try:
            with self._transaction():
                self._connection.executemany(
                    "UPDATE meters SET register_mwh = ?, epoch = ?, next = ? WHERE number = ?",
                    states,
                )
                self._connection.executemany("INSERT INTO waiting VALUES (?, ?, ?, ?)", rows)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_FULL:
                raise
            return False
        return True

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """What goes wrong is said in words for a person."""
        try:
            yield
        except OSError as error:
            raise _unusable(self.path, error.strerror or str(error)) from None
        except sqlite3.OperationalError as error:
            raise _unusable(self.path, str(error)) from None
        except sqlite3.DatabaseError as error:
            raise StateError(
                f"the state file {self.path} is damaged ({error}): put its medium right and move "
                "it away; the meter then starts from zero in a new epoch"
            ) from None

    def _take_lock(self) -> int:
        try:
            _make(self.path.absolute().parent)
            lock = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise _unusable(self.path, error.strerror or str(error)) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise StateError(
                f"another process is this meter already (it holds {self.path}): "
                "stop it, or give another --id or --state"
            ) from None
        return lock

    def _adopt(self, old: Path) -> None:
        if old.exists():
            old.rename(self.path)

    def _create(self, now_s: int) -> None:
        """A new file, with what an old JSON file there says: whole, or not at all."""
        old = _OldState()
        if self.path.exists():
            try:
                old = msgspec.json.decode(self.path.read_bytes(), type=_OldState)
            except msgspec.MsgspecError as error:
                raise StateError(
                    f"{self.path} is not the state of a meter ({error}): "
                    "mend it, or move it away to start from zero"
                ) from None
        new = Path(f"{self.path}.new")
        new.unlink(missing_ok=True)
        connection = _connect(new, create=True)
        for statement in _TABLES.split(";"):
            connection.execute(statement)
        epoch = max(now_s, old.epoch + 1)
        rows = ((name, register, epoch) for name, register in old.registers_mwh.items())
        connection.executemany(_NEW_METER, rows)
        connection.execute(f"PRAGMA application_id = {_APPLICATION}")
        connection.execute(f"PRAGMA user_version = {_VERSION}")
        connection.close()
        new.replace(self.path)
        _sync(self.path.parent)

    def _check(self) -> None:
        (application,) = self._connection.execute("PRAGMA application_id").fetchone()
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if (application, version) != (_APPLICATION, _VERSION):
            raise StateError(
                f"{self.path} is not the state of a meter, or of another version of Wattbus: "
                "give another place with --state"
            )

    def _load(self, ids: Sequence[str], now_s: int) -> None:
        known = {name for (name,) in self._connection.execute("SELECT id FROM meters")}
        with self._transaction():
            new = ((name, 0, now_s) for name in ids if name not in known)
            self._connection.executemany(_NEW_METER, new)
        rows = {
            name: state
            for name, *state in self._connection.execute(
                "SELECT id, number, register_mwh, epoch, next FROM meters"
            )
        }
        self._ids = tuple(ids)
        self._numbers: list[int] = [rows[name][0] for name in ids]
        self.registers: dict[str, int] = {name: rows[name][1] for name in ids}
        self.epoch = np.array([rows[name][2] for name in ids], np.int64)
        self.next = np.array([rows[name][3] for name in ids], np.int64)


def _make(directory: Path) -> None:
    """A directory and those above it, durably: a power cut must not take them."""
    if not directory.is_dir():
        _make(directory.parent)
        directory.mkdir(exist_ok=True)
        _sync(directory.parent)


def _sync(directory: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_database(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_SQLITE)) == _SQLITE
    except FileNotFoundError:
        return False


def _connect(path: Path, *, create: bool = False) -> sqlite3.Connection:
    mode = "rwc" if create else "rw"
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None
    )
    # FULL: a commit is on disk when it returns. WAL: one sync a commit instead of three.
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def _unusable(path: Path, why: str) -> StateError:
    return StateError(f"cannot use the state file {path}: {why}: give another place with --state")
