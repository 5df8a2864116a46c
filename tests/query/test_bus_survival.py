"""Honest clients among strangers and over restarts: short forms of ``python -m benchmarks bus``."""

from __future__ import annotations

import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import psutil
import pytest

from benchmarks.bus import Guarded, restarts, strangers
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def guarded() -> Iterator[Guarded]:
    """A collector that wants keys, started with room for few files, as systems do."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        made = Guarded()
        with made:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            yield made
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_strangers_do_not_get_in_and_disturb_little(guarded: Guarded) -> None:
    quiet, loud, counts = strangers(guarded, 4, idle=500, rate=100)
    assert counts["refused"] > 0.8 * counts["strangers"] > 200, counts
    assert "let in" not in counts
    assert counts["garbage"] > 200
    # Other tests run beside this one: what is held here is that no question waits for strangers.
    assert np.percentile(loud, 99) < 2 * np.percentile(quiet, 99) + 0.05


def test_silent_connections_do_not_use_up_the_files(guarded: Guarded) -> None:
    """A thousand, where the system at first allows 256: a new client is still let in."""
    query = guarded.collector.processes["query"]
    before = query.num_fds()
    port = int(guarded.collector.query.rpartition(":")[2])
    with silent(port, 1200) as replace_closed:

        def thousand() -> bool:
            replace_closed()  # the service closes a silent one after 5 s
            return query.num_fds() >= before + 1000

        wait_until(thousand)
        with guarded.client() as client:
            assert client.ping()
    wait_until(lambda: query.num_fds() <= before + 10)


@contextmanager
def silent(port: int, count: int) -> Iterator[Callable[[], None]]:
    """So many connections that say nothing; what is given opens those again that were closed."""
    open_: list[socket.socket] = []

    def replace_closed() -> None:
        closed = [sock for sock in open_ if _ended(sock)]
        for sock in closed:
            open_.remove(sock)
            sock.close()
        while len(open_) < count:
            sock = socket.socket()
            sock.setblocking(False)  # not one after the other: that would take longer than 5 s
            sock.connect_ex(("127.0.0.1", port))
            open_.append(sock)

    try:
        yield replace_closed
    finally:
        for sock in open_:
            sock.close()


def _ended(sock: socket.socket) -> bool:
    try:
        while sock.recv(1024):
            pass
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def test_no_answer_goes_to_another_question(guarded: Guarded) -> None:
    asked = restarts(guarded, 3000, 2)
    assert asked.answers.value >= 3000
    assert asked.unanswered.value > 0  # there were late answers that could have been taken
    assert asked.wrong.value == 0


def test_it_is_correlation_that_tells_them_apart(guarded: Guarded) -> None:
    """The negative control: a client that takes what comes gets answers to other questions."""
    asked = restarts(guarded, 1000, 2, ("uncorrelated", "uncorrelated"))
    assert asked.wrong.value > 0


def test_the_service_was_the_same_all_along(guarded: Guarded) -> None:
    for process in guarded.collector.processes.values():
        assert process.is_running()
        assert process.status() != psutil.STATUS_ZOMBIE
