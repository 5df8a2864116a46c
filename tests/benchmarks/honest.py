"""A small collector that does what docs/delivery.md says, one process, in SQLite; and its faults.

``python honest.py PORT FILE FAULT``: FAULT is ``none``, ``early`` (acknowledges before it commits),
``twice`` (stores some of them again) or ``wrong`` (now and then stores another value).
"""

from __future__ import annotations

import select
import socket
import sqlite3
import sys
import time

from telemetry import meter_id
from telemetry.formats import ack, native

EVERY = 0.05  # seconds between commits
LATE = 0.2  # of the fault: so long after the acknowledgement


def answer(numbers: set[int]) -> tuple[int, int]:
    """``next`` and the bitmap."""
    following = 0
    while following in numbers:
        following += 1
    return following, sum(1 << bit for bit in range(ack.WINDOW) if following + 1 + bit in numbers)


def main(port: int, file: str, fault: str) -> None:
    """Collect until killed."""
    database = sqlite3.connect(file)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.execute("CREATE TABLE IF NOT EXISTS r (meter TEXT, number INT, time INT, value INT)")
    windows: dict[bytes, set[int]] = {}
    for meter, number in database.execute("SELECT meter, number FROM r"):
        windows.setdefault(meter_id.to_octets(meter), set()).add(number)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        sock.bind(("127.0.0.1", port))
        sock.setblocking(False)
        waiting: list[tuple[str, int, int, int]] = []
        answers: dict[bytes, tuple[str, int]] = {}
        due = time.monotonic() + EVERY
        while True:
            select.select([sock], [], [], 0.01)
            while True:
                try:
                    octets, where = sock.recvfrom(2048)
                except BlockingIOError:
                    break
                datagram = native.decode(octets, int(time.time() * 1000))
                answers[datagram.octets] = where
                numbers = windows.setdefault(datagram.octets, set())
                if datagram.sequence not in numbers:
                    value = datagram.records[0].value
                    value += fault == "wrong" and datagram.sequence % 97 == 0
                    name = meter_id.to_name(datagram.octets)
                    row = name, datagram.sequence, datagram.records[0].time, value
                    again = fault == "twice" and datagram.sequence % 7 == 0
                    waiting += [row, row] if again else [row]
                numbers.add(datagram.sequence)
            if fault != "early" and time.monotonic() >= due:
                commit(database, waiting)
            if fault == "early" or time.monotonic() >= due:
                for meter_octets, where in answers.items():
                    said = ack.Ack(meter_octets, 1, *answer(windows[meter_octets]))
                    sock.sendto(ack.encode(said), where)
                answers.clear()
            if time.monotonic() >= due:
                if fault == "early":
                    time.sleep(LATE)
                    commit(database, waiting)
                due = time.monotonic() + EVERY


def commit(database: sqlite3.Connection, waiting: list[tuple[str, int, int, int]]) -> None:
    """Make it durable."""
    database.executemany("INSERT INTO r VALUES (?, ?, ?, ?)", waiting)
    database.commit()
    waiting.clear()


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
