"""A disk as a power cut may leave it, from the system calls of the programs that wrote to it.

The model is that of Pillai et al., *All File Systems Are Not Created Equal* (OSDI 2014), at its
strictest: what a finished fsync or fdatasync covers is there, of a directory its names. Of
everything else any sector may be there or not, whatever was written before or after it; a file may
have become longer without its octets. Names come and go on their own.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.delivery.trace import Call

SECTORS = (512, 4096)
_MAPPED = "-shm"  # SQLite's index of its log: mapped memory, not seen here and made anew by SQLite


def entered(call: Call) -> int:
    """The moment at which a call is entered; a cut there comes amid it."""
    return 2 * call.entered


def left(call: Call) -> int:
    """The moment at which a call has come back."""
    return 2 * call.left + 1


@dataclass(frozen=True, slots=True)
class Change:
    """What a call does to a file's octets: ``octets`` at ``offset``, or its size."""

    left: int
    offset: int
    octets: bytes | None = None
    size: int = 0


@dataclass(eq=False)
class File:
    """A file or, with ``names``, a directory."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[Change] = field(default_factory=list)
    size: int = 0  # as programs see it
    directory: bool = False


@dataclass(frozen=True, slots=True)
class Naming:
    """A change of names in one directory: one that goes, one that comes, or both at once."""

    left: int
    gone: str | None
    come: str | None
    file: File | None


class Disk:
    """The files below ``root``, an absolute path that is durable itself and empty at first."""

    def __init__(self, calls: Sequence[Call], root: Path) -> None:
        self._root = str(root)
        self._names: dict[str, File] = {"": File(directory=True)}  # as programs see them
        self._durable: dict[str, File] = {}
        self._namings: dict[str, list[Naming]] = {}
        self._offsets: dict[str, int] = {}
        succeeded = [call for call in calls if call.result is None or call.result >= 0]
        self._events = sorted(
            [(entered(call), call) for call in succeeded if call.name in _ENTERED]
            + [(left(call), call) for call in succeeded if call.name in _LEFT],
            key=lambda event: event[0],
        )
        self._next = 0

    def advance(self, moment: int) -> None:
        """Let everything happen that happened up to a moment; moments only rise."""
        while self._next < len(self._events) and self._events[self._next][0] <= moment:
            _, call = self._events[self._next]
            self._next += 1
            (_ENTERED | _LEFT)[call.name](self, call)

    def image(self, chance: random.Random | None) -> dict[str, bytes | None]:
        """What a cut now leaves: octets by path, None for directories.

        Without ``chance`` it is only what was synced.
        """
        kept = 0.0 if chance is None else chance.choice([0.0, 0.1, 0.5, 0.9, 1.0])
        sector = SECTORS[0] if chance is None else chance.choice(SECTORS)
        names = dict(self._durable)
        for namings in self._namings.values():
            for naming in namings:
                if chance is not None and chance.random() < kept:
                    _rename(names, naming)
        found: dict[str, bytes | None] = {}
        for path in sorted(names):
            parent = path.rpartition("/")[0]
            if (parent and parent not in found) or path.endswith(_MAPPED):
                continue
            file = names[path]
            found[path] = None if file.directory else _octets(file, chance, kept, sector)
        return found

    # What calls do

    def _path(self, path: str) -> str | None:
        if not path.startswith("/"):
            raise ValueError(f"{path!r} is relative: its place is not known")
        if path == self._root:
            return ""
        inside = path.startswith(self._root + "/")
        return path[len(self._root) + 1 :] if inside else None

    def _of(self, call: Call) -> tuple[str, File] | None:
        """The file that a call's descriptor stands for, if it is ours and has a name."""
        if not call.target.startswith("/") or call.deleted:
            return None
        path = self._path(call.target)
        file = None if path is None else self._names.get(path)
        return None if path is None or file is None else (path, file)

    def _open(self, call: Call) -> None:
        path = self._path(call.opened) if call.opened.startswith("/") else None
        if path is None or call.result is None:
            return
        self._offsets[path] = 0
        if path not in self._names:
            self._name(Naming(left(call), None, path, File()))
        elif "O_TRUNC" in call.arguments:
            self._resize(self._names[path], Change(left(call), 0, size=0))

    def _write(self, call: Call) -> None:
        """Into the file at its offset, where the call names none at where it stands."""
        found = self._of(call)
        if found is None:
            return
        path, file = found
        octets = call.octets[: call.result]
        if call.name.startswith("pwrite"):
            offset = call.numbers[-1]
        else:
            offset = self._offsets.get(path, 0)
            self._offsets[path] = offset + len(octets)
        file.pending.append(Change(left(call), offset, octets))
        file.size = max(file.size, offset + len(octets))

    def _seek(self, call: Call) -> None:
        found = self._of(call)
        if found is not None and call.result is not None:
            self._offsets[found[0]] = call.result

    def _truncate(self, call: Call) -> None:
        found = self._of(call)
        if found is not None:
            size = int(call.arguments.rpartition(",")[2])
            self._resize(found[1], Change(left(call), 0, size=size))

    def _resize(self, file: File, change: Change) -> None:
        file.pending.append(change)
        file.size = change.size

    def _unlink(self, call: Call) -> None:
        path = self._path(call.named[0])
        if path is not None:
            self._name(Naming(left(call), path, None, None))

    def _rename(self, call: Call) -> None:
        old, new = (self._path(path) for path in call.named)
        if old is not None and new is not None:
            self._name(Naming(left(call), old, new, self._names[old]))

    def _mkdir(self, call: Call) -> None:
        path = self._path(call.named[0])
        if path:
            self._name(Naming(left(call), None, path, File(directory=True)))

    def _name(self, naming: Naming) -> None:
        """In one directory: what is moved between two would have to be durable in both."""
        parents = {name.rpartition("/")[0] for name in (naming.gone, naming.come) if name}
        (parent,) = parents
        self._namings.setdefault(parent, []).append(naming)
        _rename(self._names, naming)

    def _sync(self, call: Call) -> None:
        found = self._of(call)
        if found is None or call.result != 0:
            return
        path, file = found
        since = entered(call)
        if file.directory:
            namings = self._namings.get(path, [])
            for naming in namings:
                if naming.left < since:
                    _rename(self._durable, naming)
            self._namings[path] = [naming for naming in namings if naming.left >= since]
        for change in file.pending:
            if change.left < since:
                _apply(file.durable, change)
        file.pending = [change for change in file.pending if change.left >= since]

    def _refuse(self, call: Call) -> None:
        found = self._of(call)
        if found is not None:
            raise ValueError(f"{call.name} of {call.target}: the model does not know it")


_ENTERED = {
    "write": Disk._write,
    "pwrite64": Disk._write,
    "writev": Disk._write,
    "pwritev": Disk._refuse,
    "pwritev2": Disk._refuse,
    "fallocate": Disk._refuse,
    "ftruncate": Disk._truncate,
    "unlink": Disk._unlink,
    "unlinkat": Disk._unlink,
    "rename": Disk._rename,
    "renameat": Disk._rename,
    "renameat2": Disk._rename,
    "mkdir": Disk._mkdir,
    "mkdirat": Disk._mkdir,
}
_LEFT = {
    "openat": Disk._open,
    "creat": Disk._open,
    "lseek": Disk._seek,
    "fsync": Disk._sync,
    "fdatasync": Disk._sync,
}


def _rename(names: dict[str, File], naming: Naming) -> None:
    if naming.gone is not None:
        names.pop(naming.gone, None)
    if naming.come is not None and naming.file is not None:
        names[naming.come] = naming.file


def _apply(octets: bytearray, change: Change) -> None:
    if change.octets is None:
        del octets[change.size :]
        octets.extend(bytes(change.size - len(octets)))
    else:
        octets.extend(bytes(max(0, change.offset - len(octets))))
        octets[change.offset : change.offset + len(change.octets)] = change.octets


def _octets(file: File, chance: random.Random | None, kept: float, sector: int) -> bytes:
    octets = bytearray(file.durable)
    if chance is None:
        return bytes(octets)
    for change in file.pending:
        for piece in _pieces(change, sector):
            if chance.random() < kept:
                _apply(octets, piece)
    if len(octets) < file.size and chance.random() < kept:
        missing = file.size - len(octets)  # it has its length, but not what was written there
        octets += bytes(missing) if chance.random() < 0.5 else chance.randbytes(missing)
    return bytes(octets)


def _pieces(change: Change, sector: int) -> Iterator[Change]:
    """A write by sectors of the disk."""
    if change.octets is None:
        yield change
        return
    start = 0
    while start < len(change.octets):
        end = start + sector - (change.offset + start) % sector
        yield Change(change.left, change.offset + start, change.octets[start:end])
        start = end


def put(image: dict[str, bytes | None], directory: Path) -> None:
    """Lay an image out below a directory, which is made."""
    directory.mkdir(parents=True)
    for path, octets in image.items():
        if octets is None:
            (directory / path).mkdir()
        else:
            (directory / path).write_bytes(octets)
