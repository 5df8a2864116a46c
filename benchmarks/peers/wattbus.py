"""Wattbus itself: a whole ``serve``, asked over its bus."""

from __future__ import annotations

import functools
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path

import psutil

from benchmarks.collector import Collector
from benchmarks.datagrams import Chunk, line_rows, native_rows
from benchmarks.filling import Filler
from benchmarks.peers.peer import DAY, LINE, MONTH, NATIVE, Asker, Peer, octets
from query.client import Client
from query.messages import ENERGY
from query.transport import BusError
from storage.defaults import Defaults
from storage.engine import Database
from telemetry.bulk_udp import BulkSender

_UNDER_WAY, _BURST = 100_000, 2_000  # readings sent and not yet durable; datagrams at once
_GIVE_UP = 60.0  # seconds without progress
_CONFIG = '[[listeners]]\nformat = "line"\n'


class Wattbus(Peer):
    """The collector that is installed here."""

    name, title = "wattbus", "Wattbus"
    setup = "wattbus serve, on SQLite, every commit synced to disk"

    def __init__(self, directory: Path, format: str = NATIVE) -> None:
        """``format`` is what its one listener takes."""
        self.directory, self.format = directory, format
        self._collector = Collector(directory, config=_CONFIG if format == LINE else "", quiet=True)
        self.udp = self._collector.udp
        self._client = self._collector.client()
        self._stopped = False
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.connect(self.udp)
        self._sender, self._loaded = BulkSender(self._socket), 0

    @classmethod
    def version(cls) -> str | None:
        """Always there: it is what runs this."""
        with suppress(PackageNotFoundError):
            return installed("wattbus")
        return "of this checkout"

    def processes(self) -> dict[str, psutil.Process]:
        """Those of ``serve``, and itself."""
        return self._collector.processes

    def asker(self) -> Callable[[], Asker]:
        """Clients that ask over the bus."""
        return functools.partial(_Asker, self._collector.query)

    def load(self, chunk: Chunk) -> None:
        """Datagrams of its format, no more at once than it holds; only before any other load."""
        rows = line_rows(chunk) if self.format == LINE else native_rows(chunk)
        each = chunk.readings // len(rows)
        for first in range(0, len(rows), _BURST):
            burst = rows[first : first + _BURST]
            self._wait_taken(max(0, self._loaded - _UNDER_WAY))
            self._loaded += each * self._sender.send(burst)

    def loaded(self) -> None:
        """Wait until all is durable."""
        self._wait_taken(self._loaded)

    def _wait_taken(self, readings: int) -> None:
        last, since = -1, time.monotonic()
        while (now := self._taken()) < readings:
            if now != last:
                last, since = now, time.monotonic()
            if time.monotonic() - since > _GIVE_UP:
                raise RuntimeError(f"{readings - now:,} readings did not arrive")
            time.sleep(0.01)

    def _taken(self) -> int:
        writer = self._client.status().writer
        return writer.readings // 2 if writer else 0

    def stored(self, start_ms: int, end_ms: int) -> int:
        """Of all instants: nothing else is in it."""
        return self._client.status().readings // 2

    def settle(self, quiet: float) -> float:
        """Seal and merge as it would a quarter of an hour later."""
        before = self.cpu()
        self.rest()
        used = self.cpu() - before
        self.stop()
        filler = Filler(Database(self.directory), Defaults())
        try:
            filler.seal_all()
        finally:
            filler.close()
        return used + filler.costs.rest.cpu["process"]

    def stop(self) -> None:
        """The collector, and what is connected to it."""
        if not self._stopped:
            self._stopped = True
            self._socket.close()
            self._client.close()
            self._collector.__exit__()

    def octets(self) -> dict[str, int]:
        """All its files."""
        found = octets(self.directory)
        return {"readings": found, "all": found}


class _Asker:
    def __init__(self, endpoint: str) -> None:
        self._client = Client(endpoint, timeout=60)

    def ask(self, question: str, meter: str, newest_ms: int) -> float:
        """See ``Asker``."""
        return _QUESTIONS[question](self._client, meter, newest_ms)

    def close(self) -> None:
        """See ``Asker``."""
        self._client.close()


def _slots(client: Client, meter: str, newest_ms: int, step: str, seconds: int) -> float:
    # The newest reading ends the last slot.
    found = client.history(
        meter, step, start_ms=newest_ms - 1000 * seconds, end_ms=newest_ms, most=10_000
    )
    return float(sum(found.wh))


def _days(newest_ms: int) -> tuple[str, str]:
    last = datetime.fromtimestamp(newest_ms / 1000, UTC).date()
    first: date = last - timedelta(days=29)
    return str(first), str(last)


def _latest(client: Client, meter: str, _newest_ms: int) -> float:
    try:
        registers = client.latest(meter).registers
    except BusError as error:  # not heard of yet
        if error.code != "unknown_meter":
            raise
        return float("nan")
    return float(next(one.raw for one in registers if one.obis == ENERGY))


def _fleet(client: Client, _meter: str, newest_ms: int) -> float:
    first, last = _days(newest_ms)
    return float(sum(client.fleet(first=first, last=last).wh))


def _top(client: Client, _meter: str, newest_ms: int) -> float:
    first, last = _days(newest_ms)
    return float(sum(one.wh for one in client.top(10, first=first, last=last).top))


_QUESTIONS: dict[str, Callable[[Client, str, int], float]] = {
    "alive": lambda client, _meter, _at: float(client.status().readings),
    "latest": _latest,
    "one day raw": lambda client, meter, at: _slots(client, meter, at, "raw", DAY),
    "month by hour": lambda client, meter, at: _slots(client, meter, at, "hour", MONTH),
    "month by day": lambda client, meter, at: _slots(client, meter, at, "day", MONTH),
    "fleet by day": _fleet,
    "top ten": _top,
    "bill": lambda client, meter, _at: float(client.bill(meter).amount),
}
