"""The live channel (docs/bus-protocol.md): committed readings and alerts, as they happen.

Nothing is built that nobody has subscribed to; a subscriber that does not keep up loses messages.
"""

from __future__ import annotations

import time
from contextlib import suppress
from decimal import Decimal

import msgspec
import numpy as np
import zmq

from query.gate import Gate
from query.sockets import listen
from storage import bare
from storage.limit_watch import LimitAlert
from telemetry import meter_id
from telemetry.readings import Readings, UInt64s
from telemetry.registers import BY_CODE

# Topics end with a zero octet, so that no id's is the beginning of another's.
METER, BATCH, ALERT, END = b"meter/", b"batch\0", b"alert/", b"\0"
_ENCODE = msgspec.msgpack.Encoder().encode
_MOST_SUBSCRIPTIONS = 10_000
_LONGEST_TOPIC = 1024  # octets of a subscription
_CLOSES_WITHIN = 5.0  # seconds in which the address is free again
_SUBSCRIBE, _CANCEL = b"\1", b"\0"
_SPREAD = np.uint64(0x9E3779B97F4A7C15)


class LiveReading(msgspec.Struct, frozen=True):
    """A reading as subscribers of a meter get it; its value is raw × 10^scaler in ``unit``."""

    obis: str
    unit: str
    raw: int
    scaler: int
    time_ms: int

    @property
    def value(self) -> Decimal:
        """The value in ``unit``, exact."""
        return Decimal(self.raw).scaleb(self.scaler)


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

    def __init__(self, address: str, gate: Gate | None = None) -> None:
        """Bind ``address`` (``tcp://host:port``); raises zmq.ZMQError when it cannot be had.

        Without a gate whoever reaches it may listen.
        """
        self._gate, self._removals = gate, 0 if gate is None else gate.removals
        self._socket, self.endpoint = listen(
            zmq.XPUB, address, _LONGEST_TOPIC, linger=0, guard=gate
        )
        self._all = False
        self._wanted: dict[bytes, tuple[int, int]] = {}  # topic: the halves of its meter's octets
        self._marks: UInt64s | None = None  # of the meters wanted; others may share one

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def heard(self) -> bool:
        """Whether anybody wants readings now."""
        self._let_out()
        self._hear_subscriptions()
        return self._all or bool(self._wanted)

    def readings(self, readings: Readings) -> None:
        """Publish readings that have just become durable."""
        if self._all:
            self._socket.send_multipart([BATCH, bare.pack(readings)])
        if not self._wanted:
            return
        if self._marks is None:
            wanted = np.array(list(self._wanted.values()), np.uint64)
            self._marks = _mark(wanted[:, 0], wanted[:, 1])
        marked = np.isin(_mark(readings.key_high, readings.key_low), self._marks)
        found = by_meter(readings.take(np.flatnonzero(marked)))
        for topic, halves in self._wanted.items():
            if halves in found:
                live = LiveReadings(id=_name(topic), readings=found[halves])
                self._socket.send_multipart([topic, _ENCODE(live)])

    def alert(self, alert: LimitAlert) -> None:
        """Publish an alert that has just been stored."""
        self._let_out()
        live = LiveAlert(
            id=alert.meter.id,
            kind="limit",
            time_ms=alert.time_ms,
            energy_wh=alert.energy_wh,
            limit_wh=alert.limit_wh,
            late=alert.late,
        )
        self._socket.send_multipart([ALERT + alert.meter.id.encode() + END, _ENCODE(live)])

    def _let_out(self) -> None:
        """Close all connections once a key was removed: who still counts comes back by itself.

        ZeroMQ cannot close a single one, and a subscriber never asks again.
        """
        if self._gate is None or self._removals == self._gate.removals:
            return
        self._removals = self._gate.removals
        self._socket.close()
        self._all, self._marks = False, None
        self._wanted.clear()
        deadline = time.monotonic() + _CLOSES_WITHIN
        while True:  # ZeroMQ's thread closes the listening socket a moment later
            try:
                self._socket, _ = listen(
                    zmq.XPUB, self.endpoint, _LONGEST_TOPIC, linger=0, guard=self._gate
                )
            except zmq.ZMQError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.001)
            else:
                return

    def _hear_subscriptions(self) -> None:
        while True:
            try:
                said = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            wants, topic = said[:1], said[1:]
            if wants not in (_SUBSCRIBE, _CANCEL):
                continue  # a message, not a subscription
            if topic == BATCH:
                self._all = wants == _SUBSCRIBE
            elif topic.startswith(METER) and topic.endswith(END):
                self._change_wish(topic, wants == _SUBSCRIBE)

    def _change_wish(self, topic: bytes, wanted: bool) -> None:
        if not wanted:
            self._wanted.pop(topic, None)
        elif len(self._wanted) < _MOST_SUBSCRIPTIONS:
            with suppress(ValueError):  # no meter can have this id
                self._wanted[topic] = meter_id.halves(meter_id.to_octets(_name(topic)))
        self._marks = None


def by_meter(readings: Readings) -> dict[tuple[int, int], list[LiveReading]]:
    """Readings in their order, by the halves of their meters' octets."""
    found: dict[tuple[int, int], list[LiveReading]] = {}
    names = ("key_high", "key_low", "register", "value", "time")
    columns = (getattr(readings, name).tolist() for name in names)
    for high, low, code, raw, time_ms in zip(*columns, strict=True):
        register = BY_CODE[code]
        live = LiveReading(register.obis, register.unit, raw, register.scaler, time_ms)
        found.setdefault((high, low), []).append(live)
    return found


def _mark(high: UInt64s, low: UInt64s) -> UInt64s:
    """One number of both halves, so that many readings are looked through at once."""
    return high ^ (low * _SPREAD)


def _name(topic: bytes) -> str:
    return topic[len(METER) :].removesuffix(END).decode("utf-8", "replace")
