"""Batches on local disk while the database's server is away (docs/spool-format.md)."""

from __future__ import annotations

import hashlib
import secrets
import shutil
from collections import deque
from pathlib import Path

from storage.database import StorageError, UnavailableError
from storage.spool_segment import HEADER, Segment, Writing, scan
from storage.spool_state import State, replace, sync_directory

__all__ = ["Spool", "SpoolFullError"]

MOST = 4 << 30  # octets
_LEAVE_FREE = 64 << 20
_SEGMENT = 64 << 20
_GENERATION_BITS = 40


class SpoolFullError(UnavailableError):
    """A batch cannot be kept on local disk."""


class Spool:
    """The spool of a data directory. Belongs to its one writer, and to one thread."""

    def __init__(self, data: Path, place: str, most: int = MOST) -> None:
        """Open it, or make it; ``place`` names the database. Raises StorageError on damage."""
        self.directory = data / "spool"
        self._most = most
        self._database = int.from_bytes(hashlib.sha256(place.encode()).digest()[:8], "little")
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            sync_directory(data)  # else a power cut may take the whole spool
            state = State.read(self.directory)
            if state is None:
                if any(self.directory.glob("*.spool")):
                    raise StorageError(
                        f"{self.directory} holds batches but no state: restore the file `state`, "
                        "or move the directory away and lose the batches"
                    )
                state = State(secrets.randbits(63), 0, 0)
            self._state = state.next_generation()
            replace(self.directory, self._state)
            self._segments = self._find()
        except OSError as error:
            raise StorageError(f"cannot use {self.directory}: {error.strerror}") from None
        self._last = self._state.generation << _GENERATION_BITS
        self._drained = 0
        self._writing: Writing | None = None
        self._at = HEADER  # the octet of the first segment from which on it is not drained
        self.waiting = sum(segment.readings for segment in self._segments)

    def _find(self) -> deque[Segment]:
        found: deque[Segment] = deque()
        for path in sorted(self.directory.glob("*.spool")):
            segment = scan(path, self._state.id)
            if (
                found
                and _same_generation(found[-1], segment)
                and segment.first > found[-1].last + 1
            ):
                raise StorageError(
                    f"{found[-1].path} is damaged, or a file behind it is gone: batches up to "
                    f"{segment.first} are missing. Restore it, or move the file away and lose them"
                )
            if segment.empty:
                path.unlink()  # cut off before its first batch
            else:
                found.append(segment)
        return found

    @property
    def key(self) -> str:
        """Under which the database keeps the number of the last batch that it has."""
        return f"spool-{self._state.id:016x}"

    @property
    def known(self) -> bool:
        """Whether this database was opened before."""
        return self._state.database == self._database

    def opened(self, number: int) -> None:
        """The database was opened, and has all batches up to this number."""
        if not self.known:
            self._state = self._state.of_database(self._database)
            replace(self.directory, self._state)
        self.drained(number)

    @property
    def empty(self) -> bool:
        """Whether the database has all batches."""
        return not self._segments

    @property
    def version(self) -> int:
        """Of the body of the oldest batch (``storage.group``)."""
        return self._segments[0].version

    @property
    def octets(self) -> int:
        """What the spool takes on disk."""
        return sum(segment.octets for segment in self._segments)

    def number(self) -> int:
        """The number of the next batch, spooled or not."""
        self._last += 1
        return self._last

    def has(self, number: int) -> bool:
        """Whether the database is known to have this batch."""
        return number <= self._drained

    def append(self, number: int, body: bytes, readings: int) -> None:
        """Make a batch durable; SpoolFullError where that cannot be done."""
        free = shutil.disk_usage(self.directory).free - _LEAVE_FREE
        if len(body) > min(self._most - self.octets, free):
            raise SpoolFullError(
                f"the spool in {self.directory} is full: it has {self.octets >> 20} MiB, "
                f"and {max(0, free) >> 20} MiB of the disk may be used"
            )
        try:
            if self._writing is None:
                self._writing = Writing(self.directory, self._state.id, number)
                self._segments.append(self._writing.segment)
                sync_directory(self.directory)
            self._writing.append(number, body, readings)
        except OSError as error:
            self._abandon()
            raise SpoolFullError(f"cannot write to {self.directory}: {error.strerror}") from None
        self.waiting += readings
        if self._writing.segment.octets > _SEGMENT:
            self._finish()

    def _abandon(self) -> None:
        """Leave a segment whose last batch may be cut off."""
        if self._writing is not None:
            segment = self._writing.segment
            self._finish()
            if segment.empty:
                self._segments.remove(segment)
                segment.path.unlink(missing_ok=True)

    def _finish(self) -> None:
        if self._writing is not None:
            self._writing.close()
            self._writing = None

    def first(self) -> tuple[int, bytes] | None:
        """Number and body of the oldest batch that the database has not, None if there is none."""
        return self._segments[0].read(self._at) if self._segments else None

    def drained(self, number: int) -> None:
        """The database has all batches up to this number."""
        self._drained = max(self._drained, number)
        while self._segments and self._segments[0].last <= self._drained:
            self._remove_first()
        while self._segments:
            head = self._segments[0].head(self._at)
            if head.number > self._drained:
                break
            self._at = head.after
            self.waiting -= head.readings

    def _remove_first(self) -> None:
        if self._writing is not None and self._writing.segment is self._segments[0]:
            self._finish()
        segment = self._segments.popleft()
        while self._at < segment.octets:
            head = segment.head(self._at)
            self._at = head.after
            self.waiting -= head.readings
        self._at = HEADER
        segment.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close its file."""
        self._finish()


def _same_generation(one: Segment, other: Segment) -> bool:
    return one.first >> _GENERATION_BITS == other.first >> _GENERATION_BITS
