"""Who is measured side by side: one module each, one small interface (``peer.Peer``)."""

from __future__ import annotations

from benchmarks.peers.influxdb import InfluxDB
from benchmarks.peers.peer import Peer, Server
from benchmarks.peers.victoria import VictoriaMetrics
from benchmarks.peers.wattbus import Wattbus

__all__ = ["PEERS", "SERVERS", "InfluxDB", "Peer", "VictoriaMetrics", "Wattbus"]

SERVERS: tuple[type[Server], ...] = (VictoriaMetrics, InfluxDB)
_ALL: tuple[type[Peer], ...] = (Wattbus, *SERVERS)
PEERS = {one.name: one for one in _ALL}
