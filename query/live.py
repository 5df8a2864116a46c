"""A subscriber of the live channel (docs/bus-protocol.md): what a meter sends, once it is durable.

>>> with Live("tcp://127.0.0.1:5003", "kitchen") as live:
...     for message in live.listen():
...         print(message)
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import msgspec
import zmq

from query import credentials
from query.handshakes import Handshakes
from query.publisher import ALERT, BATCH, END, METER, LiveAlert, LiveReadings, by_meter
from query.sockets import Socket, connect, prepare
from query.transport import BusError
from storage import bare
from telemetry import meter_id

DEFAULT_ENDPOINT = "tcp://127.0.0.1:5003"
Message = LiveReadings | LiveAlert

_READINGS = msgspec.msgpack.Decoder(LiveReadings)
_ALERT = msgspec.msgpack.Decoder(LiveAlert)


class Live:
    """Hears one meter, or with None all of them. Not to be shared between threads.

    It connects by itself, and again whenever the service comes back; what was sent in between is
    not sent again, and a subscriber that does not keep up loses messages: what is durable can be
    asked of the query service.
    """

    def __init__(
        self,
        endpoint: str = DEFAULT_ENDPOINT,
        id: str | None = None,
        *,
        key_file: str | Path | None = None,
    ) -> None:
        """Raises BusError for what is no endpoint and for what no meter can be called.

        ``key_file`` is what ``wattbus keys add`` made, for a service that wants one.
        """
        me = credentials.read(key_file) if key_file else None
        topics = [BATCH, ALERT] if id is None else _topics(id)
        self.endpoint = endpoint
        self._socket: Socket = zmq.Context.instance().socket(zmq.SUB)
        prepare(self._socket, endpoint, me)
        # Who only listens would not notice otherwise that the service vanished without a word.
        self._socket.setsockopt(zmq.HEARTBEAT_IVL, 5000)
        self._socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 10_000)
        for topic in topics:
            self._socket.setsockopt(zmq.SUBSCRIBE, topic)
        self._handshakes = Handshakes(self._socket, endpoint, me)
        try:
            connect(self._socket, endpoint, DEFAULT_ENDPOINT)
        except BusError:
            self._handshakes.monitor.close()
            raise
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._handshakes.monitor, zmq.POLLIN)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._handshakes.close()
        self._socket.close()

    @property
    def connected(self) -> bool:
        """Whether the service is there now. Raises BusError if it does not let us in."""
        self._handshakes.hear()
        return self._handshakes.connected

    def listen(self, timeout: float | None = None) -> Iterator[Message]:
        """Messages as they come, until none has come for ``timeout`` seconds; None: for ever.

        Raises BusError for a message that cannot be read, and if the service does not let us in.
        """
        while self._wait(timeout):
            yield from _decode(self._socket.recv_multipart())

    def _wait(self, timeout: float | None) -> bool:
        """Whether a message came in time."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready = dict(self._poller.poll(None if left is None else int(left * 1000)))
            if self._socket in ready:
                return True
            if left == 0.0:
                return False
            self._handshakes.hear()


def _topics(id: str) -> list[bytes]:
    try:
        octets = meter_id.to_octets(id)
    except ValueError as error:
        raise BusError("bad_request", str(error)) from None
    # Alerts come under the id that the registry shows, which of a UUID is the lower-case text.
    shown = {id, meter_id.to_name(octets)}
    return [METER + id.encode() + END, *(ALERT + name.encode() + END for name in sorted(shown))]


def _decode(frames: list[bytes]) -> list[Message]:
    try:
        topic, body = frames
        if topic.startswith(METER):
            return [_READINGS.decode(body)]
        if topic.startswith(ALERT):
            return [_ALERT.decode(body)]
        return [
            LiveReadings(meter_id.to_name(meter_id.from_halves(*halves)), readings)
            for halves, readings in by_meter(bare.unpack(body)).items()
        ]
    except (msgspec.MsgspecError, struct.error, ValueError, KeyError) as error:
        raise BusError("bad_reply", f"a live message cannot be read: {error}") from None
