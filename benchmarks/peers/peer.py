"""What suites need of whoever is measured, and what all that are servers of their own share."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar, Protocol, Self

import psutil

from benchmarks.datagrams import Chunk

NATIVE, LINE = "native", "line"
_STARTS_WITHIN = 120.0  # seconds
_IDLE, _LOOK = 0.06, 0.25  # a share of one core; seconds
GATHERS = 1.5  # seconds: servers gather what comes for up to one, and do nothing meanwhile
_BLOCK = 512  # octets, what st_blocks counts


class Asker(Protocol):
    """A client with one connection, kept open."""

    def ask(self, question: str, meter: str, newest_ms: int) -> float:
        """Ask; of the answer one figure, by which answers can be compared.

        ``newest_ms`` is the instant of the newest reading; months and days end there.
        """

    def close(self) -> None:
        """Close the connection."""


# What everybody is asked, and what the figure of the answer is.
QUESTIONS = {
    "latest": "Wh that the meter shows",
    "one day raw": "Wh of the day",
    "month by hour": "Wh of the month",
    "month by day": "Wh of the month",
    "fleet by day": "Wh of the month, all meters",
    "top ten": "Wh of the month, ten meters",
    "bill": "of the month so far",
}
ALIVE = "alive"  # anything that only a server which is ready answers
PRICE = 0.0005  # a Wh, Wattbus's own default
DAY, MONTH = 86_400, 30 * 86_400  # seconds


class Peer(ABC):
    """A server on a directory of its own, started on creation and stopped on leaving."""

    name: ClassVar[str]
    title: ClassVar[str]
    setup: ClassVar[str]  # how it is started, for the document
    format: str = LINE  # of what it is sent over UDP
    udp: tuple[str, int]
    directory: Path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @classmethod
    @abstractmethod
    def version(cls) -> str | None:
        """The version that is installed here; None: none."""

    @abstractmethod
    def processes(self) -> dict[str, psutil.Process]:
        """All its processes, by name."""

    @abstractmethod
    def load(self, chunk: Chunk) -> None:
        """Take in readings the quickest way it has that loses nothing."""

    def loaded(self) -> None:
        """Wait until all that was loaded can be asked for, where that is not at once."""
        return

    @abstractmethod
    def stored(self, start_ms: int, end_ms: int) -> int:
        """How many readings of energy with instants in [start, end] can be asked for."""

    @abstractmethod
    def asker(self) -> Callable[[], Asker]:
        """What makes a client, also in another process."""

    @abstractmethod
    def settle(self, quiet: float) -> float:
        """Have it do all it would do in time, and stop it; the seconds of CPU that this took.

        Where nothing tells when it is through: once it did not change for ``quiet`` seconds.
        """

    @abstractmethod
    def stop(self) -> None:
        """End it; again is no harm."""

    @abstractmethod
    def octets(self) -> dict[str, int]:
        """The files of a stopped one: ``readings``, and ``all`` with the index."""

    def cpu(self) -> float:
        """Seconds of CPU, user and system, that all its processes used so far."""
        used = 0.0
        for process in self.processes().values():
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                used += times.user + times.system
        return used

    def memory(self) -> dict[str, float]:
        """Resident MiB of each process."""
        return {name: one.memory_info().rss / 2**20 for name, one in self.processes().items()}

    def rest(self, quiet: float = GATHERS, within: float = 60.0) -> None:
        """Wait until it did nothing for ``quiet`` seconds, at most ``within`` seconds."""
        deadline, before, since = time.monotonic() + within, self.cpu(), time.monotonic()
        while time.monotonic() < deadline and time.monotonic() - since < quiet:
            time.sleep(_LOOK)
            now = self.cpu()
            if now - before > _IDLE * _LOOK:
                since = time.monotonic()
            before = now


class Server(Peer):
    """One program of one process that answers over HTTP."""

    program: ClassVar[str]
    package: ClassVar[str]  # of Debian and Ubuntu
    stops_within = 120.0  # seconds

    @classmethod
    def version(cls) -> str | None:
        """As the package says, where it is from one."""
        if shutil.which(cls.program) is None:
            return None
        if shutil.which("dpkg-query") is None:
            return "of unknown version"
        command = ["dpkg-query", "--show", "--showformat=${Version}", cls.package]
        said = subprocess.run(command, capture_output=True, text=True, timeout=30)
        return said.stdout.strip() or "not from the package"

    def _start(self, arguments: Sequence[str]) -> None:
        binary = shutil.which(self.program)
        if binary is None:
            raise RuntimeError(f"{self.program} is not installed")
        with tempfile.TemporaryFile() as said:
            self._process = subprocess.Popen(
                [binary, *arguments],
                stdout=said,
                stderr=said,
                start_new_session=True,  # Ctrl-C is for the benchmark, which then stops it
            )
            try:
                self._found = psutil.Process(self._process.pid)
                if not self._started():
                    said.seek(0)
                    last = said.read().decode(errors="replace").splitlines()[-3:]
                    raise RuntimeError("\n".join([f"{self.program} did not start", *last]))
            except BaseException:
                self.stop()
                raise

    def _started(self) -> bool:
        """Wait until it answers; whether it does in time."""
        deadline = time.monotonic() + _STARTS_WITHIN
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                asker = self.asker()()
                try:
                    asker.ask(ALIVE, "", 0)
                finally:
                    asker.close()
                return True
            except Exception:  # whatever a server that is starting up may say
                time.sleep(0.005)
        return False

    def processes(self) -> dict[str, psutil.Process]:
        """Its one process."""
        return {self.program: self._found}

    def stop(self) -> None:
        """End it cleanly, and by force where that takes too long."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(self.stops_within)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


def octets(*paths: Path) -> int:
    """What all files take of the disk; some go away while they are looked at."""
    total = 0
    for path in paths:
        for one in path.rglob("*"):
            with suppress(FileNotFoundError):
                total += one.stat().st_blocks * _BLOCK if one.is_file() else 0
    return total


def unchanged(size: Callable[[], int], quiet: float, within: float) -> None:
    """Wait until a size has stayed the same for some seconds."""
    deadline, last, since = time.monotonic() + within, -1, time.monotonic()
    while time.monotonic() < deadline and time.monotonic() - since < quiet:
        if (now := size()) != last:
            last, since = now, time.monotonic()
        time.sleep(0.5)


def month_start(at_ms: int) -> int:
    """The first instant of the month of UTC that a reading belongs to, ms.

    One at the very start of a month closes the month before.
    """
    moment = datetime.fromtimestamp((at_ms - 1) / 1000, UTC)
    first = moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return int(first.timestamp()) * 1000
