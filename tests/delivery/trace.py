"""System calls as ``strace -f -ttt -yy -o FILE`` writes them down: on what, with what octets.

Their order is exact: strace stops a thread where it enters a call and where it leaves it, and
writes a line, or its beginning or its end, before the thread goes on.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Self

FILES = "openat,creat,write,pwrite64,writev,pwritev,pwritev2,lseek,truncate,ftruncate,fallocate"
FILES += ",fsync,fdatasync,unlink,unlinkat,rename,renameat,renameat2,mkdir,mkdirat,link,linkat"
SOCKETS = "sendto,sendmsg,sendmmsg,recvfrom,recvmsg,recvmmsg"
_LONGEST = 1 << 26  # octets of a buffer: all of it
_STOP_WITHIN = 60.0

_LINE = re.compile(r"(\d+) +(\d+\.\d+) (.*)", re.DOTALL)
_NAME = re.compile(r"(\w+)\((.*)", re.DOTALL)
_RESUMED = re.compile(r"<\.\.\. (\w+) resumed>(.*)", re.DOTALL)
_UNFINISHED = " <unfinished ...>"
_RESULT = re.compile(r"(.*)\)\s+= (-?\d+|\?)(.*)", re.DOTALL)
_DESCRIPTOR = re.compile(r"(?:\d+|AT_FDCWD)<((?:->|[^<>])*)>")
_OPENED = re.compile(r"<((?:->|[^<>])*)>")
_NAMED = re.compile(r'(?:(?:\d+|AT_FDCWD)<([^<>]*)>, )?"([^"]*)"')
_STRING = re.compile(r'"([^"\\]*(?:\\.[^"\\]*)*)"(\.\.\.)?', re.DOTALL)
_BUFFER = re.compile(r'iov_base="([^"\\]*(?:\\.[^"\\]*)*)"(\.\.\.)?', re.DOTALL)
_MESSAGE = re.compile(r"\{msg_hdr=\{")


@dataclass(frozen=True, slots=True)
class Call:
    """One system call: where in the trace it was entered and left, and what it did.

    ``result`` is None where it never came back. ``target`` is what its descriptor stands for: a
    path, or a socket as strace writes it.
    """

    thread: int
    name: str
    entered: int
    left: int
    arguments: str
    result: int | None
    after: str  # what stands behind the result

    @property
    def target(self) -> str:
        """What the first argument's descriptor stands for; nothing where it is none."""
        found = _DESCRIPTOR.match(self.arguments)
        return "" if found is None else found[1]

    @property
    def deleted(self) -> bool:
        """Whether the first argument's file had lost its name."""
        found = _DESCRIPTOR.match(self.arguments)
        return found is not None and self.arguments[found.end() :].startswith("(deleted)")

    @property
    def opened(self) -> str:
        """What the descriptor that it gave stands for."""
        found = _OPENED.match(self.after)
        return "" if found is None else found[1]

    @property
    def named(self) -> list[str]:
        """The paths among the arguments, in their order, those relative to a descriptor whole."""
        return [
            f"{at}/{text}" if at and not text.startswith("/") else text
            for at, text in _NAMED.findall(self.arguments)
        ]

    @property
    def numbers(self) -> list[int]:
        """The arguments at the end that are plain numbers."""
        _, _, rest = self.arguments.rpartition('"')
        return [int(word) for word in rest.split(",") if word.strip().lstrip("-").isdigit()]

    @property
    def start(self) -> bytes:
        """The first octets of what was written or read, as many as the trace has."""
        return b"".join(unescaped(text) for text, _ in self._buffers)

    @property
    def octets(self) -> bytes:
        """What was written or read, of one message or of plain octets."""
        if any(cut for _, cut in self._buffers):
            raise ValueError(f"the trace has only the first octets of {self.name}: use a longer -s")
        return self.start

    @property
    def _buffers(self) -> list[tuple[str, str]]:
        descriptor = _DESCRIPTOR.match(self.arguments)  # which may hold text too
        rest = self.arguments[descriptor.end() if descriptor else 0 :]
        if "iov_base=" in rest:
            return list(_BUFFER.findall(rest))
        found = _STRING.search(rest)
        return [] if found is None else [(found[1], found[2] or "")]

    @property
    def messages(self) -> list[bytes]:
        """The messages of a call that takes several, as many as the kernel took or gave."""
        starts = [found.start() for found in _MESSAGE.finditer(self.arguments)]
        parts = [
            self.arguments[start:end]
            for start, end in zip(starts, [*starts[1:], len(self.arguments)], strict=True)
        ]
        taken = parts[: max(0, self.result or 0)]
        return [b"".join(unescaped(text) for text, _ in _BUFFER.findall(part)) for part in taken]


def unescaped(text: str) -> bytes:
    """The octets of a string as strace writes it."""
    return text.encode("latin-1").decode("unicode_escape").encode("latin-1")


def parse(lines: Iterable[str]) -> list[Call]:
    """The calls of a trace, in the order in which they were entered."""
    calls: list[Call] = []
    begun: dict[int, tuple[int, str]] = {}
    for number, line in enumerate(lines):
        found = _LINE.match(line.rstrip("\n"))
        if found is None:
            raise ValueError(f"line {number + 1} is none of strace's: {line[:80]!r}")
        thread, text = int(found[1]), found[3]
        # "???": a thread was killed before it was known which call it was about to make.
        if text.startswith(("---", "+++", "???(")):
            continue
        if text.endswith(_UNFINISHED):
            begun[thread] = number, text.removesuffix(_UNFINISHED)
            continue
        entered = number
        resumed = _RESUMED.match(text)
        if resumed is not None:
            if thread not in begun:
                continue  # entered before strace came
            entered, head = begun.pop(thread)
            text = head + resumed[2]
        calls.append(_call(thread, entered, number, text))
    for thread, (entered, text) in begun.items():  # cut off amid it
        calls.append(_call(thread, entered, number + 1, text))
    calls.sort(key=lambda call: call.entered)
    return calls


def read(*files: Path) -> list[Call]:
    """The calls of traces, one after another."""
    # Not splitlines(): only line feeds end strace's lines.
    with ExitStack() as stack:
        opened = (
            stack.enter_context(file.open(encoding="latin-1", newline="\n")) for file in files
        )
        return parse(chain.from_iterable(opened))


def _call(thread: int, entered: int, left: int, text: str) -> Call:
    named = _NAME.match(text)
    if named is None:
        raise ValueError(f"line {left + 1} holds no call: {text[:80]!r}")
    ended = _RESULT.fullmatch(named[2])
    if ended is None:
        return Call(thread, named[1], entered, left, named[2], None, "")
    result = None if ended[2] == "?" else int(ended[2])
    return Call(thread, named[1], entered, left, ended[1], result, ended[3])


class Traced:
    """A program under strace, which writes its calls into a file."""

    def __init__(self, command: list[str], file: Path, calls: str, **options: object) -> None:
        """Start it; ``calls`` are those to write down, ``options`` those of Popen."""
        strace = shutil.which("strace")
        assert strace is not None, "strace is missing: install it (README, prerequisites)"
        self.file = file
        flags = ["-f", "--seccomp-bpf", "-ttt", "-yy", "-s", str(_LONGEST), "-e", "signal=none"]
        self.process: subprocess.Popen[str] = subprocess.Popen(  # type: ignore[call-overload]
            [strace, *flags, "-e", f"trace={calls}", "-o", str(file), *command],
            stdout=subprocess.PIPE,
            text=True,
            **options,
        )

    def first_line(self) -> str:
        """What it says when it is ready."""
        assert self.process.stdout is not None
        return str(self.process.stdout.readline())

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Have the program, not strace, end, and wait; its exit code."""
        if self.process.poll() is None:
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
            for child in children.read_text().split():
                os.kill(int(child), how)
        code = int(self.process.wait(_STOP_WITHIN))
        if self.process.stdout is not None:
            self.process.stdout.close()
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
