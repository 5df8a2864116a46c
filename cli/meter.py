"""``wattbus meter``: a simulated home, a fleet of them, or a file of real consumption, over UDP."""

from __future__ import annotations

import argparse
import os
import stat
import sys
import time
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cli.meter_options import (
    DEFAULT_LIMIT_WH,
    DEFAULT_REPEAT,
    DEFAULT_WAIT,
    multiplier,
    state_directory,
)
from cli.terminal import Terminal
from telemetry import meter_id, replay
from telemetry.courier import Courier
from telemetry.fleet_keys import FleetKeys, parse_keys
from telemetry.formats.native import MOST_UNSIGNED
from telemetry.network import connect
from telemetry.outbox import MOST_OCTETS, Outbox, StateError
from telemetry.sender import LiveSender, NobodyListensError, ReplaySender, run_fleet
from telemetry.simulator import Fleet, Measured

_T = TypeVar("_T")


def run(arguments: argparse.Namespace) -> int:
    """Do what the arguments say, and answer the exit code.

    0: done or asked to stop. 1: something failed on the way, a replay was cut short, or readings
    still wait for an acknowledgement after ``--count``. 2: the arguments or a file are wrong.
    """
    try:
        _refuse_combinations(arguments)
        with Terminal() as terminal:
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


_LIVE_ONLY = (
    *("multiplier", "interval", "count", "meters", "seed", "state"),
    *("key", "key-file", "key-id", "sign-only", "wait", "outbox-mib", "no-ack", "repeat"),
)


class _UsageError(Exception):
    """Arguments that cannot be meant; the text says what to do."""


class _Screen:
    """What a person sees of a live fleet and can change about it."""

    def __init__(self, name: str, meters: int, multiplier: float, terminal: Terminal):
        self._name = name if meters == 1 else f"{name} x {meters}"
        self._terminal = terminal
        self.multiplier = multiplier

    def show(self, measured: Measured, waiting: int | None) -> None:
        """One line a tick; ``waiting``: how many datagrams of earlier ones are not delivered."""
        waits = "" if waiting is None else f"  waiting {waiting:,}"
        print(
            f"{time.strftime('%H:%M:%S')}  {self._name}  "
            f"{measured.power_import.sum() / 10:,.1f} W  {_kwh(measured)} kWh  "
            f"multiplier {self.multiplier:g}{waits}",
            flush=True,
        )

    def typed(self, line: str) -> None:
        """A multiplier, or the wish to quit."""
        if line in ("q", "quit"):
            self._terminal.stop()
        elif line:
            try:
                self.multiplier = multiplier(line)
            except argparse.ArgumentTypeError as error:
                _complain(f"{error}; or q to quit")
            else:
                print(f"multiplier {self.multiplier:g} from the next reading on", flush=True)


def _live(arguments: argparse.Namespace, terminal: Terminal) -> int:
    ids = _fleet_ids(arguments.id, _or(arguments.meters, 1))
    keys = _keys(arguments, ids)
    path = arguments.state or state_directory() / f"{quote(arguments.id, safe='')}.db"
    room = _or(arguments.outbox_mib, MOST_OCTETS)
    with connect(arguments.to) as sock, Outbox(path, ids, int(time.time()), room) as outbox:
        fleet = Fleet(ids, _or(arguments.seed, 0), outbox.registers)
        _say_what_waits(arguments, outbox)
        if arguments.no_ack:
            sender = LiveSender(sock, arguments.to, outbox, _complain)
            _run(arguments, terminal, fleet, outbox, keys, sender)
            _summarize(arguments, fleet, f"{sender.sent:,} datagrams sent to {arguments.to}")
            return 0
        courier = Courier(
            sock, arguments.to, outbox, fleet.index(), keys.acknowledgement, _complain
        )
        finished = _run(arguments, terminal, fleet, outbox, keys, courier)
        if finished:
            deadline = time.monotonic() + _or(arguments.wait, DEFAULT_WAIT)
            courier.until(deadline, terminal.wait, idle=True)
        waiting = courier.waiting
        _summarize(
            arguments,
            fleet,
            f"{courier.sent:,} datagrams sent to {arguments.to}, repeats among them; "
            + ("all are acknowledged" if not waiting else f"{waiting:,} wait in {path}"),
        )
        if waiting:
            _complain(
                f"{waiting:,} datagrams are not acknowledged yet: they are kept in {path}, and "
                "the next start sends them"
            )
        return 1 if finished and waiting else 0


def _run(
    arguments: argparse.Namespace,
    terminal: Terminal,
    fleet: Fleet,
    outbox: Outbox,
    keys: FleetKeys,
    post: Courier | LiveSender,
) -> bool:
    """Let the fleet run; whether it has sent as many readings as it was to."""
    screen = _Screen(arguments.id, len(fleet), _or(arguments.multiplier, 1.0), terminal)
    if terminal.listen(screen.typed) and not arguments.quiet:
        print("Type a number and Enter to change the multiplier, q to quit.", flush=True)
    return run_fleet(
        fleet,
        outbox,
        keys,
        post,
        terminal.wait,
        interval=_or(arguments.interval, 10.0),
        count=arguments.count,
        alert_limit_wh=_or(arguments.alert_limit_wh, DEFAULT_LIMIT_WH),
        repeat=_or(arguments.repeat, DEFAULT_REPEAT) if arguments.no_ack else 0,
        multiplier=lambda: screen.multiplier,
        show=None if arguments.quiet else screen.show,
    )


def _say_what_waits(arguments: argparse.Namespace, outbox: Outbox) -> None:
    waiting = sum(int((end - first.sequence).sum()) for first, end in outbox.waiting())
    if waiting and arguments.no_ack:
        # Their numbers would fall out of the collector's window, and with them the readings.
        raise StateError(
            f"{waiting:,} datagrams wait in {outbox.path} for their acknowledgement: start once "
            "without --no-ack to deliver them, or give another --id or --state"
        )
    if waiting and not arguments.quiet:
        print(f"{waiting:,} datagrams from before wait in {outbox.path}", flush=True)
    if others := outbox.waiting_of_others():
        _complain(
            f"{others:,} datagrams of meters outside this fleet wait in {outbox.path}: start it "
            "with as many --meters as before to deliver them"
        )


def _summarize(arguments: argparse.Namespace, fleet: Fleet, delivery: str) -> None:
    if not arguments.quiet:
        total = sum(fleet.registers().values()) / 1e6
        registers = "registers" if len(fleet) > 1 else "register"
        print(f"{arguments.id}: {delivery}; {total:,.3f} kWh on the {registers}", flush=True)


def _keys(arguments: argparse.Namespace, ids: list[str]) -> FleetKeys:
    secrets: list[bytes] = [] if arguments.key is None else [arguments.key]
    path: Path | None = arguments.key_file
    if path is not None:
        try:
            secrets = parse_keys(_private_text(path), ids, _or(arguments.key_id, 1))
        except OSError as error:
            raise _UsageError(f"cannot read {path}: {error.strerror}") from None
        except ValueError as error:
            raise _UsageError(f"{path}: {error}") from None
    return FleetKeys(secrets, _or(arguments.key_id, 1), encrypt=not arguments.sign_only)


def _private_text(path: Path) -> str:
    """What is in a file that nobody else may read."""
    with path.open(encoding="utf-8") as file:
        found = os.fstat(file.fileno())
        if stat.S_IMODE(found.st_mode) & 0o077:
            raise ValueError(f"others may read this key file: chmod 600 {path}")
        return file.read()


def _replay(arguments: argparse.Namespace, terminal: Terminal) -> int:
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
    if arguments.replay is not None:
        for option in _LIVE_ONLY:
            value = getattr(arguments, option.replace("-", "_"))
            if value is not None and value is not False:
                raise _UsageError(f"--{option} has no meaning with --replay: leave it out")
        return
    signed = arguments.key is not None or arguments.key_file is not None
    for wrong, message in (
        (
            arguments.speed is not None,
            "--speed needs --replay FILE: a simulated home has --interval",
        ),
        (
            arguments.key is not None and arguments.key_file is not None,
            "--key and --key-file: give one of them",
        ),
        (
            arguments.key is not None and _or(arguments.meters, 1) > 1,
            "each meter of a fleet needs a key of its own: give --key-file",
        ),
        (arguments.key_id is not None and not signed, "--key-id needs --key or --key-file"),
        (arguments.sign_only and not signed, "--sign-only needs --key or --key-file"),
        (
            arguments.repeat is not None and not arguments.no_ack,
            "--repeat needs --no-ack: what is acknowledged is sent until it arrives",
        ),
        (arguments.wait is not None and arguments.no_ack, "--wait has no meaning with --no-ack"),
        (arguments.wait is not None and arguments.count is None, "--wait needs --count"),
        (
            arguments.outbox_mib is not None and arguments.no_ack,
            "--outbox-mib has no meaning with --no-ack",
        ),
    ):
        if wrong:
            raise _UsageError(message)


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
