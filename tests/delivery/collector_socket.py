"""The honest collector on a real UDP socket, behind a bad network in both directions."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from telemetry import security
from telemetry.formats import ack, native
from telemetry.registers import ENERGY_IMPORT
from telemetry.udp_socket import ask_for_buffer
from tests.delivery.honest_collector import BadNetwork, HonestCollector

_FLAGS, _KEY_ID, _METER = 2, 3, slice(4, 20)


class SocketCollector:
    """Answers ``wattbus meter`` as docs/delivery.md says; in a thread of its own.

    What it stores by (meter, epoch, sequence) are the octets, which must never change. ``keys`` are
    by meter octets; a meter that has one must sign. ``silent`` takes and stores, answers nothing.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        collector: HonestCollector | None = None,
        keys: dict[bytes, bytes] | None = None,
        seed: int = 0,
        loss: float = 0.0,
        repeats: float = 0.0,
        jitter: float = 0.0,
        silent: bool = False,
    ):
        self.collector = HonestCollector() if collector is None else collector
        self.came: Counter[bytes] = Counter()
        self.refused = 0
        self._keys, self._silent = keys or {}, silent
        there, back = (
            BadNetwork[tuple[bytes, tuple[str, int]]](
                seed + way, loss=loss, repeats=repeats, delay=0.0, jitter=jitter
            )
            for way in range(2)
        )
        self._there, self._back = there, back
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        ask_for_buffer(self._socket, 1 << 24)
        self._socket.bind(("127.0.0.1", port))
        self.port: int = self._socket.getsockname()[1]
        self.to = f"127.0.0.1:{self.port}"
        self._stopping = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> SocketCollector:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        self._thread.join(10)
        self._socket.close()
        if self._error is not None:
            raise self._error

    def heal(self) -> None:
        """From now on nothing is lost, in either direction."""
        self._there.heal()
        self._back.heal()

    @property
    def stored(self) -> int:
        return len(self.collector.stored)

    def energies(self, meter: bytes) -> list[int]:
        """A meter's energy by its numbers; of unsigned datagrams or those only signed."""
        found = sorted(
            (epoch, sequence, content)
            for (name, epoch, sequence), content in self.collector.stored.items()
            if name == meter
        )
        energies = []
        for _, _, content in found:
            assert isinstance(content, bytes)
            octets = content[:_KEY_ID] + b"\0" + content[_KEY_ID + 1 :]
            octets = octets[: native.HEADER.itemsize + 16 * octets[36]]
            records = native.decode(octets, time.time_ns() // 1_000_000).records
            energies += [each.value for each in records if each.register == ENERGY_IMPORT]
        return energies

    def wait_until_stored(self, count: int, within: float = 60.0) -> None:
        deadline = time.monotonic() + within
        while self.stored < count:
            assert time.monotonic() < deadline, f"{self.stored} of {count} came"
            time.sleep(0.01)

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._receive()
                self._answer()
        except BaseException as error:
            self._error = error

    def _receive(self) -> None:
        self._socket.settimeout(0.005)
        try:
            while True:
                datagram, sender = self._socket.recvfrom(2048)
                self.came[datagram] += 1
                self._there.put(time.monotonic(), (datagram, sender))
                self._socket.setblocking(False)
        except (BlockingIOError, TimeoutError, ConnectionRefusedError):
            pass

    def _answer(self) -> None:
        answers: dict[bytes, tuple[int, tuple[str, int]]] = {}
        for datagram, sender in self._there.out(time.monotonic()):
            meter, key_id = datagram[_METER], datagram[_KEY_ID]
            if not self._genuine(datagram, meter, key_id):
                self.refused += 1
                continue
            epoch = int.from_bytes(datagram[20:24], "little")
            sequence = int.from_bytes(datagram[24:28], "little")
            asks = datagram[_FLAGS] & native.FLAG_ACKNOWLEDGE
            if self.collector.take(meter, epoch, sequence, datagram) and asks:
                answers[meter] = key_id, sender
        if self._silent:
            return
        for meter, (key_id, sender) in answers.items():
            said = ack.Ack(meter, *self.collector.windows[meter].acknowledgement())
            key = self._keys.get(meter)
            octets = ack.encode(said, key_id, key and security.acknowledgement_key(key))
            self._back.put(time.monotonic(), (octets, sender))
        for octets, sender in self._back.out(time.monotonic()):
            self._socket.sendto(octets, sender)

    def _genuine(self, datagram: bytes, meter: bytes, key_id: int) -> bool:
        key = self._keys.get(meter)
        if key is None or not key_id:
            return key is None and not key_id
        return security.unseal(datagram, AESGCM(key)) is not None
