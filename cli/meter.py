"""``wattbus meter``: a simulated home, a fleet of them, or a file of real consumption, over UDP."""

from __future__ import annotations

import argparse
import math
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self, TypeVar
from urllib.parse import quote

import platformdirs
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from telemetry import meter_id, replay
from telemetry.formats.native import MOST_UNSIGNED
from telemetry.meter_state import StateError, StateFile
from telemetry.registers import ALERT_LIMIT, BY_CODE
from telemetry.sender import (
    Address,
    LiveSender,
    NobodyListensError,
    ReplaySender,
    connect,
    run_fleet,
)
from telemetry.simulator import HIGHEST_MULTIPLIER, LONGEST_STEP_MS, Fleet, Measured

_DEFAULT_LIMIT_WH = 500_000
_SHORTEST_INTERVAL = 0.01
_LONGEST_INTERVAL = LONGEST_STEP_MS / 1000
_MOST_METERS = 100_000
_LOWEST_SPEED, _HIGHEST_SPEED = 0.001, 1e9
_T = TypeVar("_T")
_STOPPING = (signal.SIGINT, signal.SIGTERM)

_EXAMPLES = """\
examples:
  wattbus meter                                 a home as "meter-1", every 10 seconds
  wattbus meter --id kitchen --multiplier 2.5   one that consumes two and a half times as much
  wattbus meter --id demo --meters 100          a fleet: demo-001 to demo-100
  wattbus meter --id home --replay home.csv.gz  a year of real consumption in seconds

On a terminal, type a number and Enter to change the multiplier while it runs, q to quit.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser the options, the description and the examples of ``wattbus meter``."""
    parser.description = "Send a simulated home's readings, or replay a file of consumption."
    parser.epilog = _EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--id", type=_id, default="meter-1", help="the meter's id (default: %(default)s)")
    add(
        "--to",
        type=_address,
        default="127.0.0.1:5001",
        metavar="HOST:PORT",
        help="where the collector listens (default: %(default)s)",
    )
    add(
        "--alert-limit",
        "--limite-alerta",
        type=_limit_wh,
        metavar="KWH",
        dest="alert_limit_wh",
        help="the limit that the meter asks the collector to watch (default: 500; "
        "a replay sends one only if it is given)",
    )
    add("--quiet", action="store_true", help="say only what goes wrong")

    live = parser.add_argument_group("a simulated home")
    live.add_argument(
        "--multiplier",
        "--multiplicador",
        type=_multiplier,
        metavar="X",
        help="scale the consumption (default: 1.0)",
    )
    live.add_argument(
        "--interval", type=_interval, metavar="SECONDS", help="between readings (default: 10)"
    )
    live.add_argument(
        "--count", type=_count, metavar="N", help="stop after N datagrams a meter (default: never)"
    )
    live.add_argument(
        "--meters", type=_meters, metavar="N", help="a fleet of N: ID-1 to ID-N (default: 1)"
    )
    live.add_argument(
        "--seed", type=_seed, metavar="N", help="another seed, other homes (default: 0)"
    )
    live.add_argument(
        "--state",
        type=Path,
        metavar="FILE",
        help="where the registers are kept (default: one file an id in "
        f"{str(_state_directory()).replace('%', '%%')})",
    )

    replayed = parser.add_argument_group("a file of consumption")
    replayed.add_argument(
        "--replay",
        type=Path,
        metavar="FILE",
        help="CSV, plain or .gz, with the columns start (ISO 8601) and value (kWh)",
    )
    replayed.add_argument(
        "--speed",
        type=_speed,
        metavar="X",
        help="X times real time (default: as fast as the collector takes it)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Do what the arguments say, and answer the exit code.

    0: done or asked to stop. 1: something failed on the way, or a replay was cut short. 2: the
    arguments or the file are wrong.
    """
    try:
        _refuse_combinations(arguments)
        with _Terminal() as terminal:
            if arguments.replay is not None:
                return _replay(arguments, terminal)
            return _live(arguments, terminal)
    except _UsageError as error:
        _complain(f"error: {error}")
        return 2
    except BrokenPipeError:
        # Whoever read the lines has gone; the interpreter's last flush must not fail on it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (StateError, NobodyListensError) as error:
        _complain(str(error))
        return 1
    except OSError as error:
        _complain(f"cannot send to {arguments.to} ({error.strerror or error}): check --to")
        return 1


class _UsageError(Exception):
    """Arguments that cannot be meant; the text says what to do."""


class _Terminal:
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


class _Screen:
    """What a person sees of a live fleet and can change about it."""

    def __init__(self, name: str, meters: int, multiplier: float, terminal: _Terminal):
        self._name = name if meters == 1 else f"{name} x {meters}"
        self._terminal = terminal
        self.multiplier = multiplier

    def show(self, measured: Measured) -> None:
        """One line a tick."""
        print(
            f"{time.strftime('%H:%M:%S')}  {self._name}  "
            f"{measured.power_import.sum() / 10:,.1f} W  {_kwh(measured)} kWh  "
            f"multiplier {self.multiplier:g}",
            flush=True,
        )

    def typed(self, line: str) -> None:
        """A multiplier, or the wish to quit."""
        if line in ("q", "quit"):
            self._terminal.stop()
        elif line:
            try:
                self.multiplier = _multiplier(line)
            except argparse.ArgumentTypeError as error:
                _complain(f"{error}; or q to quit")
            else:
                print(f"multiplier {self.multiplier:g} from the next reading on", flush=True)


def _live(arguments: argparse.Namespace, terminal: _Terminal) -> int:
    ids = _fleet_ids(arguments.id, _or(arguments.meters, 1))
    path = arguments.state or _state_directory() / f"{quote(arguments.id, safe='')}.json"
    screen = _Screen(arguments.id, len(ids), _or(arguments.multiplier, 1.0), terminal)
    with connect(arguments.to) as sock, StateFile(path) as state:
        fleet = Fleet(ids, _or(arguments.seed, 0), state.registers)
        if terminal.listen(screen.typed) and not arguments.quiet:
            print("Type a number and Enter to change the multiplier, q to quit.", flush=True)
        sender = LiveSender(sock, arguments.to, _complain)
        run_fleet(
            fleet,
            state,
            sender,
            terminal.wait,
            interval=_or(arguments.interval, 10.0),
            count=arguments.count,
            alert_limit_wh=_or(arguments.alert_limit_wh, _DEFAULT_LIMIT_WH),
            multiplier=lambda: screen.multiplier,
            show=None if arguments.quiet else screen.show,
        )
        if not arguments.quiet:
            total = sum(fleet.registers().values()) / 1e6
            print(
                f"{arguments.id}: sent {sender.sent} datagrams to {arguments.to} in epoch "
                f"{state.epoch}; {total:,.3f} kWh on the register{'s' if len(ids) > 1 else ''}",
                flush=True,
            )
    return 0


def _replay(arguments: argparse.Namespace, terminal: _Terminal) -> int:
    path: Path = arguments.replay
    try:
        found = replay.read(path.read_bytes(), time.time_ns() // 1_000_000)
    except OSError as error:
        raise _UsageError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise _UsageError(f"{path}: {error}") from None
    speed: float | None = arguments.speed
    packed = replay.pack(
        meter_id.to_octets(arguments.id),
        found,
        most=1 if speed else MOST_UNSIGNED,
        alert_limit_wh=arguments.alert_limit_wh,
    )
    leaves = (packed.time - found.time[0]) / (1000 * speed) if speed else None
    total = len(packed.datagrams)
    columns = TextColumn(arguments.id), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    bar = Progress(*columns, console=console, disable=arguments.quiet or not console.is_terminal)
    with connect(arguments.to) as sock, bar:
        task = bar.add_task("", total=total)
        sender = ReplaySender(sock, arguments.to, terminal.wait)
        done = sender.send(packed.datagrams, lambda done: bar.update(task, completed=done), leaves)
    if done < total:
        _complain(f"stopped after {done} of {total} datagrams: replay again to send the rest")
        return 1
    if not arguments.quiet:
        print(
            f"{path.name}: {found.rows} rows ({found.repeated} repeated, {found.conflicts} "
            f"contradicted by a later one), {found.intervals} intervals of "
            f"{found.interval_ms / 60_000:g} minutes, {found.gaps} gaps, {found.kwh:f} kWh: "
            f"sent as {arguments.id} in {total} datagrams to {arguments.to}",
            flush=True,
        )
    return 0


def _refuse_combinations(arguments: argparse.Namespace) -> None:
    if arguments.replay is None:
        if arguments.speed is not None:
            raise _UsageError("--speed needs --replay FILE: a simulated home has --interval")
        return
    for option in ("multiplier", "interval", "count", "meters", "seed", "state"):
        if getattr(arguments, option) is not None:
            raise _UsageError(f"--{option} has no meaning with --replay: leave it out")


def _state_directory() -> Path:
    return Path(platformdirs.user_state_dir("wattbus")) / "meters"


def _fleet_ids(name: str, meters: int) -> list[str]:
    """The name itself for one meter, else numbered names of equal length."""
    if meters == 1:
        return [name]
    width = len(str(meters))
    ids = [f"{name}-{number:0{width}}" for number in range(1, meters + 1)]
    try:
        meter_id.to_octets(ids[0])
    except ValueError as error:
        raise _UsageError(f"{error}: shorten --id for a fleet") from None
    return ids


def _kwh(measured: Measured) -> str:
    return f"{measured.energy_import.sum() / 1000:,.3f}"


def _or(value: _T | None, default: _T) -> _T:
    return default if value is None else value


def _complain(text: str) -> None:
    print(f"wattbus meter: {text}", file=sys.stderr, flush=True)


def _id(text: str) -> str:
    try:
        meter_id.to_octets(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _address(text: str) -> Address:
    try:
        return Address.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _limit_wh(text: str) -> int:
    register = BY_CODE[ALERT_LIMIT]
    highest = register.maximum // 1000
    try:
        kwh = Decimal(text)
    except InvalidOperation:
        kwh = Decimal("NaN")
    if not (kwh.is_finite() and 0 <= kwh <= highest):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no limit: give a number of kWh from 0 to {highest}, such as 500"
        )
    return register.raw(kwh * 1000)


def _number(text: str, what: str, low: float, high: float, example: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not low <= number <= high:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no {what}: give a number from {low:,g} to {high:,.0f}, such as {example}"
        )
    return number


def _multiplier(text: str) -> float:
    return _number(text, "multiplier", 0, HIGHEST_MULTIPLIER, "1.5")


def _interval(text: str) -> float:
    return _number(text, "interval in seconds", _SHORTEST_INTERVAL, _LONGEST_INTERVAL, "10")


def _speed(text: str) -> float:
    return _number(text, "speed", _LOWEST_SPEED, _HIGHEST_SPEED, "3600")


def _whole(text: str, what: str, low: int, high: int) -> int:
    if not (text.isascii() and text.isdigit() and low <= int(text[:20]) <= high):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no {what}: give a whole number from {low} to {high}"
        )
    return int(text)


def _count(text: str) -> int:
    return _whole(text, "count of datagrams", 1, 2**32)


def _meters(text: str) -> int:
    return _whole(text, "number of meters", 1, _MOST_METERS)


def _seed(text: str) -> int:
    return _whole(text, "seed", 0, 2**63 - 1)
