"""VictoriaMetrics, asked in MetricsQL."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.datagrams import Chunk, line_text
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

_ENERGY = "meter_energy_import"
_MERGES_WITHIN = 900.0  # seconds


class VictoriaMetrics(Server):
    """A single node."""

    name, title = "victoria", "VictoriaMetrics"
    program, package = "victoria-metrics", "victoria-metrics"
    setup = "-retentionPeriod=100y -search.maxUniqueTimeseries=10000000 -search.latencyOffset=0s"

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._port = free_port()
        self.udp = "127.0.0.1", free_port()
        self._start(
            [
                f"-storageDataPath={directory}",
                f"-httpListenAddr=127.0.0.1:{self._port}",
                f"-influxListenAddr=127.0.0.1:{self.udp[1]}",
                "-loggerLevel=ERROR",
                *self.setup.split(),
            ]
        )
        self._http = Http(self._port)

    def asker(self) -> Callable[[], Asker]:
        """Clients that ask over HTTP."""
        return functools.partial(_Asker, self._port)

    def load(self, chunk: Chunk) -> None:
        """Line protocol, in one body."""
        self._http.post("/write", line_text(chunk), precision="ns")

    def loaded(self) -> None:
        """Have it searchable at once."""
        self._http.get("/internal/force_flush")

    def stored(self, start_ms: int, end_ms: int) -> int:
        """Asked for, not its own counters."""
        self.loaded()
        seconds = (end_ms - start_ms) // 1000 + 1
        query = f"sum(count_over_time({_ENERGY}[{seconds}s]))"
        body = self._http.json(
            "/api/v1/query", query=query, time=f"{end_ms / 1000:.3f}", nocache="1"
        )
        return int(_sum(body))

    def settle(self, quiet: float) -> float:
        """Flush and merge everything."""
        before = self.cpu()
        self._http.get("/internal/force_flush")
        self._http.get("/internal/force_merge")
        unchanged(lambda: octets(self.directory / "data"), quiet, _MERGES_WITHIN)
        used = self.cpu() - before
        self.stop()
        return used

    def octets(self) -> dict[str, int]:
        """Its data, and with the index."""
        data, index = (octets(self.directory / name) for name in ("data", "indexdb"))
        return {"readings": data, "all": data + index}


class _Asker:
    def __init__(self, port: int) -> None:
        self._http = Http(port)

    def ask(self, question: str, meter: str, newest_ms: int) -> float:
        """See ``Asker``."""
        return _QUESTIONS[question](
            self._http, f'{_ENERGY}{{meter="{meter}"}}', -(-newest_ms // 1000)
        )

    def close(self) -> None:
        """See ``Asker``."""
        self._http.close()


def _instant(http: Http, query: str, at: int) -> float:
    return _sum(http.json("/api/v1/query", query=query, time=str(at)))


def _range(http: Http, query: str, at: int, step: int) -> float:
    start = str(at - MONTH + step)
    body = http.json("/api/v1/query_range", query=query, start=start, end=str(at), step=f"{step}s")
    return _sum(body)


def _latest(http: Http, series: str, at: int) -> float:
    # Both registers, as Wattbus's answer has them; the figure is the energy.
    both = series.removeprefix(_ENERGY)
    query = f"last_over_time({both}[1d]) keep_metric_names"
    body: Any = http.json("/api/v1/query", query=query, time=str(at))
    found = {one["metric"].get("__name__"): one["value"][1] for one in body["data"]["result"]}
    return float(found.get(_ENERGY, "nan"))


def _raw(http: Http, series: str, at: int) -> float:
    # From the newest one on is included, the one just before the day is not.
    body: Any = http.json("/api/v1/query", query=f"{series}[{DAY + 1}s]", time=str(at))
    values = [float(value) for _, value in body["data"]["result"][0]["values"]]
    return values[-1] - values[0]


def _bill(http: Http, series: str, at: int) -> float:
    seconds = at - month_start(at * 1000) // 1000
    return PRICE * _instant(http, f"increase({series}[{max(1, seconds)}s])", at)


def _sum(body: Any) -> float:
    """Of all values, those at one instant or those of a range."""
    total = 0.0
    for one in body["data"]["result"]:
        values = one["values"] if "values" in one else [one["value"]]
        total += sum(float(value) for _, value in values)
    return total


_QUESTIONS: dict[str, Callable[[Http, str, int], float]] = {
    "alive": lambda http, _series, _at: float(bool(http.get("/api/v1/query", query="1"))),
    "latest": _latest,
    "one day raw": _raw,
    "month by hour": lambda http, series, at: _range(http, f"increase({series}[1h])", at, 3600),
    "month by day": lambda http, series, at: _range(http, f"increase({series}[1d])", at, DAY),
    "fleet by day": lambda http, _series, at: _range(
        http, f"sum(increase({_ENERGY}[1d]))", at, DAY
    ),
    "top ten": lambda http, _series, at: _instant(http, f"topk(10, increase({_ENERGY}[30d]))", at),
    "bill": _bill,
}
