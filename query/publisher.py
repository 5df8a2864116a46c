"""The live channel (docs/bus-protocol.md): committed readings and alerts, as they happen.

Nothing is built that nobody has subscribed to; a subscriber that does not keep up loses messages.
"""

from __future__ import annotations

import msgspec
import numpy as np
import zmq

from storage import handover
from storage.limit_watch import LimitAlert
from telemetry import meter_id
from telemetry.readings import Readings
from telemetry.registers import BY_CODE

# Topics end with a zero octet, so that no id's is the beginning of another's.
METER, BATCH, ALERT, END = b"meter/", b"batch\0", b"alert/", b"\0"
_ENCODE = msgspec.msgpack.Encoder().encode
_MOST_SUBSCRIPTIONS = 10_000


class LiveReading(msgspec.Struct, frozen=True):
    """A reading as subscribers of a meter get it; its value is raw × 10^scaler in ``unit``."""

    obis: str
    unit: str
    raw: int
    scaler: int
    time_ms: int


class LiveReadings(msgspec.Struct, frozen=True):
    """What a meter sent, in the order of arrival."""

    id: str
    readings: list[LiveReading]


class LiveAlert(msgspec.Struct, frozen=True):
    """An alert as it is stored."""

    id: str
    kind: str
    time_ms: int
    energy_wh: int
    limit_wh: int
    late: bool


class Publisher:
    """The writer's XPUB socket; it knows who wants what. Belongs to the writer's thread."""

    def __init__(self, address: str) -> None:
        """Bind ``address`` (``tcp://host:port``); raises zmq.ZMQError when it cannot be had."""
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.XPUB)
        for option, value in (
            (zmq.LINGER, 0),
            (zmq.SNDHWM, 1000),
            (zmq.MAXMSGSIZE, 1024),
            (zmq.HANDSHAKE_IVL, 5000),
            (zmq.HEARTBEAT_IVL, 10_000),
            (zmq.HEARTBEAT_TIMEOUT, 30_000),
            (zmq.IPV6, int("[" in address)),
        ):
            self._socket.setsockopt(option, value)
        try:
            self._socket.bind(address)
        except zmq.ZMQError:
            self._socket.close()
            raise
        self.endpoint: str = self._socket.getsockopt(zmq.LAST_ENDPOINT).rstrip(b"\0").decode()
        self._all = False
        self._wanted: dict[bytes, tuple[str, int, int]] = {}  # topic: id and its octets' halves

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def readings(self, readings: Readings) -> None:
        """Publish readings that have just become durable."""
        self._hear_subscriptions()
        if self._all:
            self._socket.send_multipart([BATCH, handover.pack(readings)])
        for topic, (name, high, low) in self._wanted.items():
            rows = np.flatnonzero((readings.key_high == high) & (readings.key_low == low))
            if len(rows):
                live = LiveReadings(id=name, readings=_live(readings.take(rows)))
                self._socket.send_multipart([topic, _ENCODE(live)])

    def alert(self, alert: LimitAlert) -> None:
        """Publish an alert that has just been stored."""
        live = LiveAlert(
            id=alert.meter.id,
            kind="limit",
            time_ms=alert.time_ms,
            energy_wh=alert.energy_wh,
            limit_wh=alert.limit_wh,
            late=alert.late,
        )
        self._socket.send_multipart([ALERT + alert.meter.id.encode() + END, _ENCODE(live)])

    def _hear_subscriptions(self) -> None:
        while True:
            try:
                said = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            wants, topic = said[:1] == b"\1", said[1:]
            if topic == BATCH:
                self._all = wants
            elif not wants:
                self._wanted.pop(topic, None)
            elif (
                topic.startswith(METER)
                and topic.endswith(END)
                and len(self._wanted) < _MOST_SUBSCRIPTIONS
            ):
                self._want(topic)

    def _want(self, topic: bytes) -> None:
        name = topic[len(METER) :].removesuffix(END).decode("utf-8", "replace")
        try:
            self._wanted[topic] = name, *meter_id.halves(meter_id.to_octets(name))
        except ValueError:
            return  # no meter can have this id


def _live(readings: Readings) -> list[LiveReading]:
    columns = (readings.register.tolist(), readings.value.tolist(), readings.time.tolist())
    return [
        LiveReading(BY_CODE[code].obis, BY_CODE[code].unit, raw, BY_CODE[code].scaler, time_ms)
        for code, raw, time_ms in zip(*columns, strict=True)
    ]
