"""The spool's segments: files of batches, added to by one writer, read by it or by the next."""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from storage.database import StorageError

_HEAD = struct.Struct("<4sIQQ")
# By the version of the batches' bodies (``storage.group``); the last is the one written.
_VERSIONS = {b"WBP1": 1, b"WBP2": 2}
_MAGIC = b"WBP2"
_BATCH = struct.Struct("<4sIQII")
_BATCH_MAGIC = b"WBPR"
_COUNT = struct.Struct("<I")  # how a body begins
_STRETCH = 1 << 20
HEADER = _HEAD.size


@dataclass(frozen=True, slots=True)
class Head:
    """What stands before a batch: where the body ends, and of how many readings it is."""

    number: int
    length: int
    checksum: int
    readings: int
    after: int


@dataclass(slots=True)
class Segment:
    """A file's batches, those that were cut off left out; ``last`` is first - 1 without any."""

    path: Path
    id: int
    version: int
    first: int
    last: int
    octets: int = HEADER
    readings: int = 0

    @property
    def empty(self) -> bool:
        """Whether there is no batch."""
        return self.last < self.first

    def head(self, at: int) -> Head:
        """What stands before the batch at an octet. Raises StorageError on damage."""
        with self._open() as file:
            found = _head(file, at, self.id)
        if found is None:
            raise _damaged(self.path, at)
        return found

    def read(self, at: int) -> tuple[int, bytes]:
        """Number and body of the batch at an octet. Raises StorageError on damage."""
        with self._open() as file:
            found = _head(file, at, self.id)
            body = _body(file, at, found)
        if found is None or body is None:
            raise _damaged(self.path, at)
        return found.number, body

    def _open(self) -> BinaryIO:
        try:
            return self.path.open("rb")
        except OSError as error:
            raise StorageError(f"cannot read {self.path}: {error.strerror}") from None


class Writing:
    """A new segment that takes batches; each is durable when ``append`` returns."""

    def __init__(self, directory: Path, id: int, first: int) -> None:
        """Make the file, whose name the caller makes durable. Raises OSError."""
        path = directory / f"{first:016x}.spool"
        rest = struct.pack("<QQ", id, first)
        self._file = path.open("wb", buffering=0)
        self.segment = Segment(path, id, _VERSIONS[_MAGIC], first, first - 1)
        self._write(_HEAD.pack(_MAGIC, zlib.crc32(rest), id, first))

    def append(self, number: int, body: bytes, readings: int) -> None:
        """Add a batch. Raises OSError; the segment must be left then."""
        rest = struct.pack("<QII", number, len(body), zlib.crc32(body))
        head = struct.pack("<4sI", _BATCH_MAGIC, _checksum(self.segment.id, rest)) + rest
        self._write(head + body)
        os.fdatasync(self._file.fileno())
        self.segment.last = number
        self.segment.octets += len(head) + len(body)
        self.segment.readings += readings

    def _write(self, octets: bytes) -> None:
        left = memoryview(octets)
        while left:
            left = left[self._file.write(left) :]

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def scan(path: Path, id: int) -> Segment:
    """The segment of a file, every batch checked. Raises OSError, and StorageError on damage."""
    with path.open("rb") as file:
        octets = file.read(HEADER)
        found = _beginning(octets, id)
        if found is None:
            if _follows(file, 0, id, 0):
                raise _damaged(path, 0)
            return Segment(path, id, 0, 0, -1, 0)
        version, first = found
        segment = Segment(path, id, version, first, first - 1)
        while (head := _head(file, segment.octets, id)) is not None:
            if head.number != segment.last + 1 or _body(file, segment.octets, head) is None:
                break
            segment.last, segment.octets = head.number, head.after
            segment.readings += head.readings
        if _follows(file, segment.octets, id, segment.last + 1):
            raise _damaged(path, segment.octets)
    return segment


def _beginning(octets: bytes, id: int) -> tuple[int, int] | None:
    """Version and first number; None where the header does not check."""
    if len(octets) < HEADER:
        return None
    magic, checksum, found, first = _HEAD.unpack(octets)
    if magic not in _VERSIONS or (checksum, found) != (zlib.crc32(octets[8:]), id):
        return None
    return _VERSIONS[magic], int(first)


def _head(file: BinaryIO, at: int, id: int) -> Head | None:
    """What stands before the batch at an octet; None if it does not check."""
    file.seek(at)
    octets = file.read(_BATCH.size + _COUNT.size)
    if len(octets) < _BATCH.size + _COUNT.size:
        return None
    magic, checksum, number, length, of_body = _BATCH.unpack_from(octets)
    if magic != _BATCH_MAGIC or checksum != _checksum(id, octets[8 : _BATCH.size]):
        return None
    (readings,) = _COUNT.unpack_from(octets, _BATCH.size)
    return Head(number, length, of_body, readings, at + _BATCH.size + length)


def _body(file: BinaryIO, at: int, head: Head | None) -> bytes | None:
    if head is None:
        return None
    file.seek(at + _BATCH.size)
    body = file.read(head.length)
    return body if len(body) == head.length and zlib.crc32(body) == head.checksum else None


def _follows(file: BinaryIO, at: int, id: int, number: int) -> bool:
    """Whether a batch later than ``number`` begins somewhere from an octet on."""
    overlap = len(_BATCH_MAGIC) - 1
    while True:
        file.seek(at)
        stretch = file.read(_STRETCH)
        place = stretch.find(_BATCH_MAGIC)
        if place >= 0:
            found = _head(file, at + place, id)
            if found is not None and found.number > number:
                return True
            at += place + 1
        elif len(stretch) < _STRETCH:
            return False
        else:
            at += len(stretch) - overlap


def _checksum(id: int, rest: bytes) -> int:
    return zlib.crc32(struct.pack("<Q", id) + rest)


def _damaged(path: Path, at: int) -> StorageError:
    return StorageError(
        f"{path} is damaged at octet {at}: restore the file, or move it away and lose its batches"
    )
