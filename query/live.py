"""A subscriber of the live channel (docs/bus-protocol.md): what a meter sends, once it is durable.

>>> with Live("tcp://127.0.0.1:5003", "kitchen") as live:
...     for message in live.listen():
...         print(message)
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Self

import msgspec
import zmq
from zmq.utils.monitor import recv_monitor_message

from query.publisher import ALERT, BATCH, END, METER, LiveAlert, LiveReadings, by_meter
from query.transport import LONGEST_MESSAGE, BusError
from storage import bare
from telemetry import meter_id

DEFAULT_ENDPOINT = "tcp://127.0.0.1:5003"
Message = LiveReadings | LiveAlert

_READINGS = msgspec.msgpack.Decoder(LiveReadings)
_ALERT = msgspec.msgpack.Decoder(LiveAlert)
_EVENTS = zmq.Event.HANDSHAKE_SUCCEEDED | zmq.Event.DISCONNECTED


class Live:
    """Hears one meter, or with None all of them. Not to be shared between threads.

    It connects by itself, and again whenever the service comes back; what was sent in between is
    not sent again, and a subscriber that does not keep up loses messages: what is durable can be
    asked of the query service.
    """

    def __init__(self, endpoint: str = DEFAULT_ENDPOINT, id: str | None = None) -> None:
        """Raises BusError for what is no endpoint and for what no meter can be called."""
        topics = [BATCH, ALERT] if id is None else _topics(id)
        self.endpoint = endpoint
        self._connected = False
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.SUB)
        for option, value in (
            (zmq.LINGER, 0),
            (zmq.MAXMSGSIZE, LONGEST_MESSAGE),
            (zmq.RECONNECT_IVL_MAX, 1000),
            (zmq.HEARTBEAT_IVL, 5000),  # a service that vanished without a word is noticed
            (zmq.HEARTBEAT_TIMEOUT, 10_000),
            (zmq.IPV6, int("[" in endpoint)),
        ):
            self._socket.setsockopt(option, value)
        for topic in topics:
            self._socket.setsockopt(zmq.SUBSCRIBE, topic)
        self._monitor: zmq.Socket[bytes] = self._socket.get_monitor_socket(_EVENTS)
        try:
            self._socket.connect(endpoint)
        except zmq.ZMQError as error:
            self.close()
            raise BusError(
                "bad_endpoint", f"{endpoint!r} is no address such as tcp://127.0.0.1:5003: {error}"
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._socket.disable_monitor()
        self._monitor.close()
        self._socket.close()

    @property
    def connected(self) -> bool:
        """Whether the service is there now."""
        while self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)["event"]
            self._connected = event == zmq.Event.HANDSHAKE_SUCCEEDED
        return self._connected

    def listen(self, timeout: float | None = None) -> Iterator[Message]:
        """Messages as they come, until none has come for ``timeout`` seconds; None: for ever.

        Raises BusError for a message that cannot be read.
        """
        while self._socket.poll(None if timeout is None else int(timeout * 1000)):
            yield from _decode(self._socket.recv_multipart())


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
