"""Hands open sockets to a program in the form of sd_listen_fds(3), and becomes that program.

The sockets are the descriptors from 3 on, ``LISTEN_FDS`` says how many, and ``LISTEN_PID`` for
whom. Who starts a child cannot know its number before; so the child starts as this module, which
knows its own, and keeps it when it becomes the program. It imports next to nothing, since a
receiver is waited for while it starts::

    python hand_down.py 7,9 python -m cli.main receiver …
"""

from __future__ import annotations

import fcntl
import os
import sys
from typing import NoReturn

FIRST = 3  # SD_LISTEN_FDS_START
PID, COUNT, NAMES = "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"


def become(command: list[str], descriptors: list[int]) -> NoReturn:
    """Run the command in place of this process, with these sockets handed over to it.

    What else is open at these numbers is closed. Raises OSError when it cannot be run.
    """
    # Through copies out of the way: a source may be where another one belongs.
    clear = FIRST + len(descriptors)
    copies = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, clear) for fd in descriptors]
    for fd in descriptors:
        os.set_inheritable(fd, False)
    for number, copy in enumerate(copies, FIRST):
        os.dup2(copy, number)
    handed = {
        PID: str(os.getpid()),
        COUNT: str(len(copies)),
        NAMES: ":".join(["udp"] * len(copies)),
    }
    os.execve(command[0], command, os.environ | handed)


def launcher(command: list[str], descriptors: list[int]) -> list[str]:
    """The command of a child process that is to become ``command`` with these sockets."""
    numbers = ",".join(map(str, descriptors))
    # Isolated and without site-packages: it needs neither, and starts in half the time.
    return [sys.executable, "-IS", __file__, numbers, *command]


if __name__ == "__main__":
    become(sys.argv[2:], [int(number) for number in sys.argv[1].split(",")])
