"""Sends Speedwire datagrams as a device does: at the pace of their tickers.

``python -m tests.speedwire_replay HOST PORT`` sends the captured stream, over and over, with
tickers and counters that go on; to a multicast address through the interface ``--from ADDRESS``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import socket
import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_address
from pathlib import Path

CAPTURED = Path(__file__).parent / "vectors" / "speedwire" / "captured.json"
_TICKER = slice(24, 28)
_ENERGY = slice(40, 48)  # of entry 1.8, the second of all that are captured


def captured() -> list[bytes]:
    """The seven captured datagrams of one meter that are a second apart."""
    vectors = json.loads(CAPTURED.read_text("utf-8"))
    return [bytes.fromhex(vector["hex"]) for vector in vectors[1:]]


def ticker_of(datagram: bytes) -> int:
    """Milliseconds since the device started."""
    return int.from_bytes(datagram[_TICKER])


def energy_of(datagram: bytes) -> int:
    """The imported energy, Ws."""
    return int.from_bytes(datagram[_ENERGY])


def changed(datagram: bytes, ticker: int, energy: int) -> bytes:
    """The same with another ticker and another imported energy."""
    octets = bytearray(datagram)
    octets[_TICKER] = struct.pack(">I", ticker % 2**32)
    octets[_ENERGY] = struct.pack(">Q", energy)
    return bytes(octets)


def going_on(every_ms: int = 1000, first: int = 3_000_000_000, wh: int = 2) -> Iterator[bytes]:
    """The captured datagrams over and over, each a step later and worth ``wh`` more."""
    for number, datagram in enumerate(itertools.cycle(captured())):
        yield changed(datagram, first + number * every_ms, 3600 * (1000 + wh * number))


def started_again(datagrams: Iterable[bytes], ticker: int = 4321) -> list[bytes]:
    """The same after the device started again: the tickers count from anew, the energy goes on."""
    rest = list(datagrams)
    first = ticker_of(rest[0])
    return [changed(one, ticker + ticker_of(one) - first, energy_of(one)) for one in rest]


def troubled(datagrams: Sequence[bytes]) -> list[bytes]:
    """Each fifth is sent twice, each seventh after the next."""
    found = list(datagrams)
    for at in range(3, len(found) - 1, 7):
        found[at], found[at + 1] = found[at + 1], found[at]
    return [one for at, one in enumerate(found) for _ in range(1 if at % 5 else 2)]


def replay(
    datagrams: Iterable[bytes], to: tuple[str, int], by: str = "127.0.0.1", pause: float = 0.5
) -> int:
    """Send them at the pace of their tickers; how many were.

    One that is not later than the newest leaves at once; ``pause`` is the seconds that a device
    takes to start again. A multicast address is sent to through the interface ``by``.
    """
    sent, newest = 0, None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        if ip_address(to[0]).is_multicast:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(by))
        due = time.monotonic()
        for datagram in datagrams:
            ticker = ticker_of(datagram)
            later = 0 if newest is None else ticker - newest
            if later < -10_000:
                due += pause
                newest = ticker
            elif later > 0 or newest is None:
                due += later / 1000
                newest = ticker
            time.sleep(max(0.0, due - time.monotonic()))
            sock.sendto(datagram, to)
            sent += 1
    return sent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--from", dest="by", default="127.0.0.1", metavar="ADDRESS")
    parser.add_argument("--count", type=int, help="so many, then end")
    given = parser.parse_args()
    stream = itertools.islice(going_on(), given.count)
    print(replay(stream, (given.host, given.port), given.by))


if __name__ == "__main__":
    main()
