"""The parts of the collector, each a process of its own: receiver, writer, query service, HTTP."""

from __future__ import annotations

import argparse
import logging
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from cli import config
from cli.config import Config, ConfigError
from cli.starting import StartError, importing, in_use
from storage.errors import StorageError

if TYPE_CHECKING:
    from query.credentials import Credentials

# Set by ``serve`` for its children: where to say that they are ready.
READY_FD = "WATTBUS_READY_FD"
READY, SLOW = b"1", b"s"

log = logging.getLogger("wattbus")
_EXIT_WRONG_INPUT = 2
_CALM = 2.0  # seconds in which others start beside the writer, on the same cores
Part = TypeVar("Part")


def version() -> str:
    """The version of the package."""
    from importlib.metadata import version  # slow to import; only the query service tells it

    return version("wattbus")


def stop_event() -> threading.Event:
    """Set by SIGTERM, by Ctrl-C, and when the supervising process is gone."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    follow_supervisor()
    return stop


def follow_supervisor() -> None:
    """Send this process SIGTERM when the process that supervises it, if one does, is gone."""
    if READY_FD in os.environ:
        # The supervisor holds the other end of standard input; its end is the supervisor's.
        threading.Thread(target=_watch_supervisor, daemon=True).start()


def _watch_supervisor() -> None:
    while os.read(0, 64):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def say_ready() -> None:
    """Tell the supervisor, if there is one, that the process does its work now."""
    _say(READY)


def say_slow() -> None:
    """Tell the supervisor, if there is one, that being ready will take what time it takes."""
    _say(SLOW)


def _say(what: bytes) -> None:
    fd = os.environ.get(READY_FD)
    if fd is not None:
        with suppress(BrokenPipeError):  # it was killed, and so this process ends as well
            os.write(int(fd), what)


def set_up_logging() -> None:
    """Readable lines on standard error: time, part, message."""
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(name)-8s %(message)s",
        datefmt="%H:%M:%S",
        stream=sys.stderr,
    )


def run(part: Callable[[Config, threading.Event], None], arguments: argparse.Namespace) -> int:
    """Run one part as this process until it is told to stop; the exit code."""
    set_up_logging()
    _allow_connections()
    try:
        settings = config.load(arguments)
        part(settings, stop_event())
    except Exception as error:
        complaint = _complaint(error)
        if complaint is None:
            raise  # our mistake
        print(f"wattbus: {complaint}", file=sys.stderr)
        return _EXIT_WRONG_INPUT
    return 0


def _complaint(error: Exception) -> str | None:
    """What to say of an error that is not our mistake."""
    if isinstance(error, (ConfigError, StartError)):
        return str(error)
    # Slow to import, and not needed by parts that know no database.
    from sqlalchemy.exc import DatabaseError, IntegrityError, ProgrammingError

    from storage.trouble import plain

    if isinstance(error, StorageError):
        return str(error)
    ours = not isinstance(error, DatabaseError)
    return None if ours or isinstance(error, (IntegrityError, ProgrammingError)) else plain(error)


def _allow_connections() -> None:
    """Open files as many as the system lets us: silent connections must not use up the few."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # as many as there are, then
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def receiver(settings: Config, stop: threading.Event) -> None:
    """Take in datagrams and hand their readings to the writer."""
    with importing(stays=True):
        from cli.receiving import take_in

    take_in(settings, stop, say_ready)


def writer(settings: Config, stop: threading.Event) -> None:
    """Commit readings, raise alerts, publish live, change the registry."""
    with importing(stays=True):
        from query.gate import Gate
        from query.publisher import Publisher
        from storage import key_file
        from storage.engine import pending, place
        from storage.lock import only_writer
        from storage.writer import Writer

    key_file.check(settings.directory)
    with only_writer(settings.directory):
        if pending(settings.database):
            say_slow()
        gate = Gate(settings.directory) if settings.live.guarded else None
        publisher = _bound(lambda: Publisher(settings.endpoint("live"), gate), settings, "live")
        part = Writer(
            settings.database,
            settings.writer_endpoint,
            settings.defaults,
            publisher,
            settings.retention.policy,
        )
        logging.getLogger("writer").info(
            "writing to %s, publishing on %s", place(settings.database), publisher.endpoint
        )
        say_ready()
        part.run(stop, _CALM)
        publisher.close()
        if gate is not None:
            gate.close()


def query(settings: Config, stop: threading.Event) -> None:
    """Answer the query bus."""
    with importing(stays=True):
        from query.gate import Gate
        from query.service import Service

    gate = Gate(settings.directory) if settings.query.guarded else None
    service = _bound(
        lambda: Service(
            settings.database,
            settings.endpoint("query"),
            settings.writer_endpoint,
            settings.defaults,
            version(),
            settings.retention.policy,
            gate,
        ),
        settings,
        "query",
    )
    logging.getLogger("query").info("answering on %s", service.endpoint)
    say_ready()
    service.run(stop)
    if gate is not None:
        gate.close()


def http(settings: Config, stop: threading.Event) -> None:
    """Answer the old HTTP clients; the server minds the signals itself."""
    with importing(stays=True):
        from query.http.server import serve

    host, port = settings.where("http")

    def ready(url: str) -> None:
        logging.getLogger("http").info("answering on %s", url)
        say_ready()
        if stop.is_set():  # told before the server minded the signals
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        me = _credentials(settings) if settings.query.guarded else None
        serve(host, port, settings.endpoint("query", to_connect=True), ready, me)
    except OSError as error:
        raise in_use("http", host, port, "--http-port", error) from None


def _credentials(settings: Config) -> Credentials:
    """Who the HTTP shim is to the query service of the same data directory."""
    from query.credentials import Credentials
    from storage import bus_keys

    public, secret = bus_keys.http(settings.directory)
    server = bus_keys.server(settings.directory).public
    return Credentials(name="http", role="reader", server=server, public=public, secret=secret)


def _bound(make: Callable[[], Part], settings: Config, service: str) -> Part:
    import zmq  # who binds has it already, and what serves does without

    try:
        return make()
    except zmq.ZMQError as error:
        host, port = settings.where(service)
        reason = OSError(error.errno, str(error))
        raise in_use("tcp", host, port, f"--{service}-port", reason) from None
