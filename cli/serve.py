"""``wattbus serve``: starts the parts as processes, restarts what dies, stops them in order."""

from __future__ import annotations

import argparse
import logging
import math
import os
import select
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass

from cli import config, processes
from cli.config import Config, ConfigError
from query.client import DEFAULT_ENDPOINT
from query.credentials import SUFFIX

log = logging.getLogger("serve")

# In the order of starting; stopping starts with who takes in from outside, so that the writer
# commits all that was received.
PARTS = ("writer", "receiver", "query", "http")
_STOP_ORDER = ("demo", "http", "receiver", "query", "writer")
_READY_WITHIN = 20.0
_STOP_WITHIN = 20.0
_SHORTEST_WAIT, _LONGEST_WAIT = 0.2, 10.0
_SOUND_AFTER = 30.0  # seconds of life after which a death starts the backoff anew
_DEMO_INTERVAL = 2
# A meter is a program of its own; the demo's are to end with the supervisor as the parts do.
_DEMO = "import sys; from cli import main, processes; processes.follow_supervisor(); "
_DEMO += "sys.exit(main.main())"


@dataclass
class Child:
    """One part as a child process, started again with a growing wait each time it dies."""

    name: str
    command: list[str]
    reports_ready: bool = True
    process: subprocess.Popen[bytes] | None = None
    ready_fd: int = -1
    started: float = 0.0
    wait: float = _SHORTEST_WAIT
    again_at: float = 0.0

    def start(self) -> None:
        """Start the process, in a session of its own: Ctrl-C is the supervisor's alone."""
        self.ready_fd, theirs = os.pipe()
        environment = os.environ | {processes.READY_FD: str(theirs)}
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            env=environment,
            pass_fds=[theirs],
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
    """Serve until Ctrl-C or SIGTERM; the exit code."""
    processes.set_up_logging()
    try:
        settings = config.load(arguments)
    except ConfigError as error:
        print(f"wattbus: {error}", file=sys.stderr)
        return 2
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    children = _children(arguments, settings)
    try:
        code = _start(children, stop)
        if code == 0 and not stop.is_set():
            _say_what_to_try(settings, arguments.demo)
            code = _supervise(children, stop)
    finally:
        log.info("stopping")
        for name in _STOP_ORDER:
            if name in children:
                children[name].stop()
    return code


def _children(arguments: argparse.Namespace, settings: Config) -> dict[str, Child]:
    flags = config.flags_of(arguments)
    wattbus = [sys.executable, "-m", "cli.main"]
    children = {name: Child(name, [*wattbus, name, *flags]) for name in PARTS}
    if arguments.demo:
        first = settings.listeners[0]
        host = config.reachable(first.address)
        state = settings.directory / "meters" / f"demo-{arguments.demo}.json"
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
    """Start the parts at once, wait until they are ready, then start the rest.

    The answer is an exit code, 0 when all are ready.
    """
    parts = [child for child in children.values() if child.reports_ready]
    for child in parts:
        child.start()
    for child in parts:
        if not child.wait_ready(stop) and not stop.is_set():
            log.error("%s did not start", child.name)
            return child.exit_code() or 1
    if not stop.is_set():
        for child in children.values():
            if not child.reports_ready:
                child.start()
    return 0


def _supervise(children: dict[str, Child], stop: threading.Event) -> int:
    """Restart what dies until told to stop; an exit code."""
    # Not stop.wait(): the signal's handler runs in this thread and could not take the lock.
    while not stop.is_set():
        time.sleep(0.1)
        now = time.monotonic()
        for child in children.values():
            code = child.poll()
            if code is not None:
                child.ended()
                log.error("%s ended (%s): starting it again", child.name, _how(code))
            elif child.process is None and now >= child.again_at:
                child.start()
    return 0


def _how(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"


def _say_what_to_try(settings: Config, demo: int) -> None:
    udp = settings.listeners[0]
    host, port = config.reachable(udp.address), udp.port
    there = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    query = settings.endpoint("query", to_connect=True)
    http = settings.endpoint("http", to_connect=True).removeprefix("tcp://")
    meter = "demo" if demo == 1 else f"demo-{'1'.zfill(len(str(demo)))}"
    asked = "" if query == DEFAULT_ENDPOINT else f" --query {query}"
    guarded = settings.query.guarded
    if guarded:
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
