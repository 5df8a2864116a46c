"""One part of the collector as a child process: started, watched, started again, stopped."""

from __future__ import annotations

import fcntl
import logging
import math
import os
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from cli import processes
from cli.hand_down import FIRST, launcher

log = logging.getLogger("serve")

_READY_WITHIN = 20.0
_STOP_WITHIN = 20.0
# From the second death on that comes soon after a start it waits, longer each time.
_SHORTEST_WAIT, _LONGEST_WAIT = 0.05, 10.0
_SOUND_AFTER = 2.0  # seconds of life, some of them for starting


@dataclass
class Child:
    """One part as a child process, started again with a growing wait each time it dies."""

    name: str
    command: list[str]
    sockets: Sequence[socket.socket] = ()  # handed down, and held here for the next one
    reports_ready: bool = True
    process: subprocess.Popen[bytes] | None = None
    ready_fd: int = -1
    started: float = 0.0
    wait: float = _SHORTEST_WAIT
    again_at: float = 0.0

    def start(self) -> None:
        """Start the process, in a session of its own: Ctrl-C is the supervisor's alone."""
        handed = [sock.fileno() for sock in self.sockets]
        self.ready_fd, write_end = os.pipe()
        # Not where the sockets are to be.
        theirs = fcntl.fcntl(write_end, fcntl.F_DUPFD_CLOEXEC, FIRST + len(handed))
        os.close(write_end)
        self.process = subprocess.Popen(
            launcher(self.command, handed) if handed else self.command,
            stdin=subprocess.PIPE,
            env=os.environ | {processes.READY_FD: str(theirs)},
            pass_fds=[theirs, *handed],
            start_new_session=True,
        )
        os.close(theirs)
        self.started, self.again_at = time.monotonic(), 0.0

    def wait_ready(self, stop: threading.Event) -> bool:
        """Whether it said in time that it is ready; False also when it died or we stop.

        A writer that migrates the database first says so, and is given the time that it takes.
        """
        deadline = time.monotonic() + _READY_WITHIN
        while not stop.is_set() and time.monotonic() < deadline:
            readable, _, _ = select.select([self.ready_fd], [], [], 0.1)
            if readable:
                said = os.read(self.ready_fd, 1)
                if said != processes.SLOW:
                    return said == processes.READY
                deadline = math.inf
        return False

    def exit_code(self) -> int | None:
        """The exit code of a process that is ending; None when it does not end."""
        with suppress(subprocess.TimeoutExpired):
            return None if self.process is None else self.process.wait(1)
        return None

    def poll(self) -> int | None:
        """The exit code of a process that has ended, else None."""
        return None if self.process is None else self.process.poll()

    def ended(self) -> None:
        """Forget the dead process and plan the next start."""
        self._close()
        if time.monotonic() - self.started > _SOUND_AFTER:
            self.wait = _SHORTEST_WAIT
        self.again_at = time.monotonic() + self.wait
        self.wait = min(_LONGEST_WAIT, self.wait * 2)

    def stop(self) -> None:
        """Have the process end cleanly, and kill it if it does not."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(_STOP_WITHIN)
        except subprocess.TimeoutExpired:
            log.error("%s does not stop: killing it", self.name)
            self.process.kill()
            self.process.wait()
        self._close()

    def _close(self) -> None:
        assert self.process is not None
        if self.process.stdin is not None:
            self.process.stdin.close()
        os.close(self.ready_fd)
        self.process = None
