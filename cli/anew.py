"""``serve`` starts itself anew on SIGHUP: what is installed now takes over, the sockets stay.

The process keeps its number, so that a service manager sees no change.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence

from cli.hand_down import become
from cli.starting import StartError

_OURS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_SAYS_VERSION_WITHIN = 30.0


class Signals:
    """What ``serve`` was told: to ``stop``, or to start ``again``.

    SIGHUP also says that the terminal is gone: who started ``serve`` there and closes it means to
    stop it. Under ``nohup`` SIGHUP stays ignored.
    """

    def __init__(self) -> None:
        self.stop, self.again = threading.Event(), threading.Event()
        had_terminal = _has_terminal()

        def hang_up(*_: object) -> None:
            (self.stop if had_terminal and not _has_terminal() else self.again).set()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.stop.set())
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, hang_up)
        # They were held back while one program became the next, and are heard now.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _OURS)


def installed() -> str:
    """What the installed program says it is; StartError when it does not start as far as that."""
    asked = sys.orig_argv[1 : sys.orig_argv.index("serve")]
    try:
        done = subprocess.run(
            [sys.executable, *asked, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SAYS_VERSION_WITHIN,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StartError(f"what is installed does not start: {error}") from None
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise StartError(f"what is installed does not start: {last}")
    return done.stdout.strip()


def start(sockets: Sequence[socket.socket], signals: Signals) -> None:
    """Become the same command again, with the sockets; returns only when told to stop meanwhile."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _OURS)
    if not signals.stop.is_set():
        command = [sys.executable, *sys.orig_argv[1:]]
        become(command, [sock.fileno() for sock in sockets])


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
