"""``wattbus serve``: starts the parts as processes, restarts what dies, stops them in order.

It holds the UDP sockets and hands them down to the receiver, so that they outlive it.
"""

from __future__ import annotations

import argparse
import logging
import signal
import socket
import sys
import threading
import time

from cli import anew, config, processes, sockets
from cli.child import Child
from cli.config import Config, ConfigError
from cli.starting import StartError
from storage import key_file
from storage.errors import StorageError

log = logging.getLogger("serve")

MODULE = "cli"  # what Python runs as a part
PARTS = ("writer", "receiver", "query", "http")
# What is started, and what must be ready before the next.
_IN_TURN = (
    (("writer", "receiver"), ("receiver",)),
    (("query", "http"), ("writer", "query", "http")),
)
# The receiver and then the writer are the last, so that the writer commits all that was received,
# and what comes meanwhile waits in the sockets' buffers for a short time only.
_STOP_ORDER = ("demo", "http", "query", "receiver", "writer")
_DEMO_INTERVAL = 2
_LOOK_EVERY = 0.05  # seconds between looks at who has died
# A meter is a program of its own; the demo's are to end with the supervisor as the parts do.
_DEMO = "import sys; from cli import main, processes; processes.follow_supervisor(); "
_DEMO += "sys.exit(main.main())"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of ``serve``."""
    config.add_arguments(parser)
    parser.add_argument(
        "--demo", type=_meters, default=0, metavar="N", help="add N simulated meters (demo-1 …)"
    )


def _meters(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or not 0 < int(text) <= 100_000:
        raise argparse.ArgumentTypeError(f"{text!r}: 1 to 100000 meters")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM; the exit code. SIGHUP starts it anew (docs/upgrading.md)."""
    processes.set_up_logging()
    try:
        settings = config.load(arguments)
        key_file.check(settings.directory)
        held = sockets.open_all(settings.listeners)
    except (ConfigError, StartError, StorageError) as error:
        print(f"wattbus: {error}", file=sys.stderr)
        return 2
    log.info("holding %s", sockets.describe(held))
    signals = anew.Signals()
    children = _children(arguments, settings, held)
    try:
        code = _start(children, signals.stop)
        if code == 0 and not signals.stop.is_set():
            _say_what_to_try(settings, arguments.demo)
            held = _supervise(children, signals, arguments, held)
    finally:
        log.info("stopping")
        for name in _STOP_ORDER:
            if name in children:
                children[name].stop()
    if signals.again.is_set() and code == 0:
        log.info("keeping %s for who comes next", sockets.describe(held))
        anew.start(held, signals)
    return code


def _children(
    arguments: argparse.Namespace, settings: Config, held: list[socket.socket]
) -> dict[str, Child]:
    flags = config.flags_of(arguments)
    children = {name: Child(name, [sys.executable, "-m", MODULE, name, *flags]) for name in PARTS}
    children["receiver"].sockets = held
    if arguments.demo:
        first = settings.listeners[0]
        host = config.reachable(first.address)
        state = settings.directory / "meters" / f"demo-{arguments.demo}.db"
        demo = [
            sys.executable,
            "-c",
            _DEMO,
            "meter",
            "--id",
            "demo",
            "--meters",
            str(arguments.demo),
            "--quiet",
        ]
        demo += ["--interval", str(_DEMO_INTERVAL), "--seed", "1", "--state", str(state)]
        demo += ["--to", f"[{host}]:{first.port}" if ":" in host else f"{host}:{first.port}"]
        children["demo"] = Child("demo", demo, reports_ready=False)
    return children


def _start(children: dict[str, Child], stop: threading.Event) -> int:
    """Start the parts, wait until they are ready, then start the rest.

    The answer is an exit code, 0 when all are ready, or when told to stop.
    """
    # Meters come first: who asks does not take the processor from the receiver while it starts.
    code = 0
    for names, awaited in _IN_TURN:
        for name in names:
            children[name].start()
        for name in awaited:
            code = code or _wait_ready(children[name], stop)
        if code or stop.is_set():
            return code
    for child in children.values():
        if not child.reports_ready:
            child.start()
    return 0


def _wait_ready(child: Child, stop: threading.Event) -> int:
    """Wait for a part: one that was killed is started again, one that gave up would do it again."""
    while not child.wait_ready(stop) and not stop.is_set():
        code = child.exit_code()
        if code is None or code >= 0:
            log.error("%s did not start", child.name)
            return code or 1
        _ended(child, code)
        time.sleep(max(0.0, child.again_at - time.monotonic()))
        child.start()
    return 0


def _ended(child: Child, code: int) -> None:
    child.ended()
    log.error("%s ended (%s): starting it again", child.name, _how(code))


def _supervise(
    children: dict[str, Child],
    signals: anew.Signals,
    arguments: argparse.Namespace,
    held: list[socket.socket],
) -> list[socket.socket]:
    """Restart what dies until told to stop or to start anew; the sockets to keep for that."""
    # Not stop.wait(): the signal's handler runs in this thread and could not take the lock.
    while not signals.stop.is_set():
        time.sleep(_LOOK_EVERY)
        if signals.again.is_set():
            wanted = _wanted_anew(arguments, held)
            if wanted is not None:
                return wanted
            signals.again.clear()
        now = time.monotonic()
        for child in children.values():
            code = child.poll()
            if code is not None:
                _ended(child, code)
            elif child.process is None and now >= child.again_at:
                child.start()
    return held


def _wanted_anew(
    arguments: argparse.Namespace, held: list[socket.socket]
) -> list[socket.socket] | None:
    """The sockets for who comes next, as the configuration is now; None: go on as before.

    Nothing is stopped for a configuration, or for a version, that would not start.
    """
    try:
        settings = config.load(arguments)
        version = anew.installed()
        wanted = sockets.keep(settings.listeners, held)
    except (ConfigError, StartError) as error:
        log.error("SIGHUP: going on as before: %s", error)
        return None
    log.info("SIGHUP: starting anew as %s", version)
    return wanted


def _how(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"


def _say_what_to_try(settings: Config, demo: int) -> None:
    udp = settings.listeners[0]
    host, port = config.reachable(udp.address), udp.port
    there = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    query = settings.endpoint("query", to_connect=True)
    http = settings.endpoint("http", to_connect=True).removeprefix("tcp://")
    meter = "demo" if demo == 1 else f"demo-{'1'.zfill(len(str(demo)))}"
    asked = "" if query == Config().endpoint("query", to_connect=True) else f" --query {query}"
    guarded = settings.query.guarded
    if guarded:
        from query.credentials import SUFFIX  # slow to import: not before the parts are started

        asked += f" --key-file me{SUFFIX}"
    lines = [
        f"Wattbus is ready: meters send to udp port {port}, data is in {settings.directory}",
        "Try, in another terminal (.venv/bin/wattbus, if it is not on your PATH):",
        *([f"  wattbus keys add me --role admin --data {settings.directory}"] if guarded else []),
        f"  wattbus repl{asked}",
    ]
    if demo:
        lines += [
            f"  wattbus latest {meter}{asked}",
            f"  wattbus history {meter} --step 15m{asked}",
            f"  curl 'http://{http}/?id={meter}'",
        ]
    lines += [
        f"  wattbus meter --id kitchen --to {there}",
        """  echo '{"meter":"shed","registers":{"energy_import":1234}}' """
        f"| nc -u -w1 {host} {port}",
        "Ctrl-C stops it; nothing received is lost.",
    ]
    print("\n".join(lines), flush=True)
