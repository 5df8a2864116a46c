"""Waiting on a terminal: signals and lines that a person types end the wait or are passed on."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Self

_STOPPING = (signal.SIGINT, signal.SIGTERM)


class Terminal:
    """Waiting, with an ear for signals and, on a terminal, for lines that a person types."""

    def __init__(self) -> None:
        self._stopped = False
        self._heard: Callable[[str], None] | None = None
        self._woken, self._waker = socket.socketpair()
        self._waker.setblocking(False)

    def __enter__(self) -> Self:
        self._old_wakeup = signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        self._old = {name: signal.signal(name, self._signal) for name in _STOPPING}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for name, handler in self._old.items():
            signal.signal(name, handler)
        signal.set_wakeup_fd(self._old_wakeup)
        self._woken.close()
        self._waker.close()

    def stop(self) -> None:
        """Let the next wait answer False."""
        self._stopped = True

    def listen(self, heard: Callable[[str], None]) -> bool:
        """Have the lines typed from now on passed to ``heard``; False if this is no terminal."""
        if sys.stdin is None or not sys.stdin.isatty():
            return False
        self._heard = heard
        return True

    def wait(self, seconds: float) -> bool:
        """Sleep; False, at once, when it is time to stop."""
        deadline = time.monotonic() + seconds
        while not self._stopped:
            left = deadline - time.monotonic()
            sources = [self._woken.fileno(), *([0] if self._heard else [])]
            ready, _, _ = select.select(sources, [], [], max(0.0, left))
            if self._woken.fileno() in ready:
                self._woken.recv(64)
            if 0 in ready:
                self._read_lines()
            if left <= 0:
                break
        return not self._stopped

    def _read_lines(self) -> None:
        typed = os.read(0, 4096).decode(errors="replace")
        if not typed or self._heard is None:  # Ctrl-D, or the terminal has gone
            self._heard = None
            return
        for line in typed.splitlines():
            self._heard(line.strip())

    def _signal(self, _signal: int, _frame: FrameType | None) -> None:
        self.stop()
