"""InfluxDB 1.x, asked in InfluxQL."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.datagrams import MEASUREMENT, Chunk, line_text
from benchmarks.peers.http import Http
from benchmarks.peers.peer import (
    DAY,
    MONTH,
    PRICE,
    Asker,
    Server,
    month_start,
    octets,
    unchanged,
)
from benchmarks.ports import free_port

_DATABASE = "bench"
_COMPACTS_WITHIN = 900.0  # seconds
_CONFIG = """\
reporting-disabled = true
bind-address = "127.0.0.1:{rpc}"
[meta]
dir = "{directory}/meta"
[data]
dir = "{directory}/data"
wal-dir = "{directory}/wal"
query-log-enabled = false
max-series-per-database = 0
max-values-per-tag = 0
cache-max-memory-size = 0
cache-snapshot-write-cold-duration = "5s"
compact-full-write-cold-duration = "10s"
[coordinator]
write-timeout = "10m"
[monitor]
store-enabled = false
[http]
bind-address = "127.0.0.1:{http}"
log-enabled = false
max-body-size = 0
[logging]
level = "error"
[[udp]]
enabled = true
bind-address = "127.0.0.1:{udp}"
database = "{database}"
batch-pending = 100
read-buffer = 33554432
"""


class InfluxDB(Server):
    """As the package has it, without its limits on series, logs and statistics of its own."""

    name, title = "influxdb", "InfluxDB"
    program, package = "influxd", "influxdb"
    stops_within = 4.0  # stopped after a load over UDP, it waits for itself until 30 s are over
    setup = (
        "no limits of series, values, cache and the time of a write, no logs, no statistics of its "
        "own; UDP with a read buffer of 32 MiB and 100 pending batches; what is cold compacted "
        "after 10 s, so that it settles within a run"
    )

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._port = free_port()
        self.udp = "127.0.0.1", free_port()
        config = directory / "influxdb.conf"
        ports = {"http": self._port, "udp": self.udp[1], "rpc": free_port()}
        config.write_text(_CONFIG.format(directory=directory, database=_DATABASE, **ports))
        self._start(["-config", str(config)])
        self._http = Http(self._port)
        self._http.post("/query", q=f"CREATE DATABASE {_DATABASE}")

    def asker(self) -> Callable[[], Asker]:
        """Clients that ask over HTTP."""
        return functools.partial(_Asker, self._port)

    def load(self, chunk: Chunk) -> None:
        """Line protocol, in one body."""
        self._http.post("/write", line_text(chunk), db=_DATABASE, precision="ns")

    def stored(self, start_ms: int, end_ms: int) -> int:
        """Asked for, not its own counters."""
        where = f"time >= {start_ms}ms AND time <= {end_ms}ms"
        rows = _ask(self._http, f"SELECT count(energy_import) FROM {MEASUREMENT} WHERE {where}")
        return int(rows[0][1]) if rows else 0

    def settle(self, quiet: float) -> float:
        """Wait until it has compacted everything."""
        before = self.cpu()
        size = functools.partial(octets, self.directory / "data", self.directory / "wal")
        unchanged(size, quiet, _COMPACTS_WITHIN)
        used = self.cpu() - before
        self.stop()
        return used

    def octets(self) -> dict[str, int]:
        """All files: the index is made in memory at each start."""
        found = octets(*(self.directory / name for name in ("data", "wal", "meta")))
        return {"readings": found, "all": found}


class _Asker:
    def __init__(self, port: int) -> None:
        self._http = Http(port)

    def ask(self, question: str, meter: str, newest_ms: int) -> float:
        """See ``Asker``."""
        return _QUESTIONS[question](self._http, f"meter = '{meter}'", -(-newest_ms // 1000))

    def close(self) -> None:
        """See ``Asker``."""
        self._http.close()


def _ask(http: Http, query: str) -> list[list[Any]]:
    """The rows of all series of an answer."""
    body: Any = http.json("/query", db=_DATABASE, epoch="ms", q=query)
    if "error" in (result := body["results"][0]):
        raise RuntimeError(f"{result['error']}: {query}")
    return [row for one in result.get("series", []) for row in one["values"]]


def _sum(rows: list[list[Any]]) -> float:
    return float(sum(row[1] for row in rows if row[1] is not None))


def _last_of(http: Http, meter: str, _at: int) -> float:
    query = f"SELECT last(energy_import), last(power_import) FROM {MEASUREMENT} WHERE {meter}"
    rows = _ask(http, query)
    # Amid a write a point may be there without all of its fields.
    return float(rows[0][1]) if rows and rows[0][1] is not None else float("nan")


def _raw(http: Http, meter: str, at: int) -> float:
    query = (
        f"SELECT energy_import FROM {MEASUREMENT} WHERE {meter} AND time >= {at - DAY}s "
        f"AND time <= {at}s"
    )
    rows = _ask(http, query)
    return float(rows[-1][1] - rows[0][1])


def _slots(http: Http, meter: str, at: int, step: int) -> float:
    query = (
        f"SELECT difference(last(energy_import)) FROM {MEASUREMENT} WHERE {meter} "
        f"AND time >= {at - MONTH}s AND time <= {at}s GROUP BY time({step}s)"
    )
    return _sum(_ask(http, query))


def _fleet(http: Http, _meter: str, at: int) -> float:
    query = (
        f"SELECT sum(wh) FROM (SELECT difference(last(energy_import)) AS wh FROM {MEASUREMENT} "
        f"WHERE time >= {at - MONTH}s AND time <= {at}s GROUP BY time(1d), meter) "
        f"WHERE time >= {at - MONTH}s AND time <= {at}s GROUP BY time(1d)"
    )
    return _sum(_ask(http, query))


def _top(http: Http, _meter: str, at: int) -> float:
    query = (
        f"SELECT top(wh, meter, 10) FROM (SELECT spread(energy_import) AS wh FROM {MEASUREMENT} "
        f"WHERE time >= {at - MONTH}s AND time <= {at}s GROUP BY meter)"
    )
    return _sum(_ask(http, query))


def _bill(http: Http, meter: str, at: int) -> float:
    start = month_start(at * 1000)
    query = (
        f"SELECT spread(energy_import) FROM {MEASUREMENT} WHERE {meter} "
        f"AND time >= {start}ms AND time <= {at}s"
    )
    return PRICE * _sum(_ask(http, query))


_QUESTIONS: dict[str, Callable[[Http, str, int], float]] = {
    "alive": lambda http, _meter, _at: float(bool(http.get("/query", q="SHOW DATABASES"))),
    "latest": _last_of,
    "one day raw": _raw,
    "month by hour": lambda http, meter, at: _slots(http, meter, at, 3600),
    "month by day": lambda http, meter, at: _slots(http, meter, at, DAY),
    "fleet by day": _fleet,
    "top ten": _top,
    "bill": _bill,
}
