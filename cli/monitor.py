"""Watches the service in the background: is it there, and how many datagrams come in?"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from cli.status import received
from query import messages as m
from query.client import Client
from query.transport import BusError

_EVERY = 1.0  # seconds
_PATIENCE = 2.0
_WINDOW_MS = 10_000


class Rate:
    """Datagrams a second over the receivers' latest reports: meters send in bursts."""

    def __init__(self) -> None:
        self._reports: deque[tuple[int, int]] = deque()  # datagrams so far, and when, ms
        self.value: float | None = None

    def update(self, status: m.Status) -> None:
        """Take the counters of a status; the value stays until the receivers report again."""
        receivers = status.writer.receivers if status.writer else []
        if not receivers:
            self._reports.clear()
            self.value = None
            return
        count = received(status)
        time_ms = max(receiver.reported_ms for receiver in receivers)
        reports = self._reports
        if reports and count < reports[-1][0]:  # other receivers than before
            reports.clear()
        if reports and time_ms <= reports[-1][1]:
            return
        reports.append((count, time_ms))
        while time_ms - reports[0][1] > _WINDOW_MS:
            reports.popleft()
        first_count, first_ms = reports[0]
        if time_ms > first_ms:
            self.value = (count - first_count) * 1000 / (time_ms - first_ms)


class Monitor(threading.Thread):
    """Asks for the status again and again, with a client of its own.

    ``tell`` is called from this thread with a sentence when the service goes away or comes back.
    """

    def __init__(self, endpoint: str, key_file: str | None, tell: Callable[[str], None]) -> None:
        super().__init__(name="monitor", daemon=True)
        self._endpoint, self._key_file, self._tell = endpoint, key_file, tell
        self._stopped = threading.Event()
        self._away: bool | None = None  # None: not known yet
        self._rate = Rate()

    def stop(self) -> None:
        """Ask no more."""
        self._stopped.set()

    @property
    def text(self) -> str:
        """The connection in a line."""
        if self._away is None:
            return f"connecting to {self._endpoint}"
        if self._away:
            return f"AWAY: no answer from {self._endpoint}"
        rate = self._rate.value
        shown = "-" if rate is None else f"{rate:,.1f}"
        return f"connected, {shown} datagrams/s, {self._endpoint}"

    def run(self) -> None:
        """Ask until stopped."""
        who = self._key_file
        with Client(self._endpoint, timeout=_PATIENCE, tries=1, key_file=who) as client:
            while not self._stopped.is_set():
                self._ask(client)
                self._stopped.wait(_EVERY)

    def _ask(self, client: Client) -> None:
        was_away = self._away
        try:
            self._rate.update(client.status())
            self._away = False
        except BusError as error:
            self._rate = Rate()
            self._away = error.code == "away"
        if self._stopped.is_set():
            return
        if self._away and not was_away:
            self._tell(
                f"The service at {self._endpoint} is away. Is `wattbus serve` running? "
                "I keep trying."
            )
        elif was_away and not self._away:
            self._tell(f"The service at {self._endpoint} is back.")
