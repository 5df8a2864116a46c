"""``wattbus meter``: a simulated home, a fleet of them, or a file of real consumption, over UDP."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cli.meter_options import DEFAULT_LIMIT_WH, multiplier, state_directory
from cli.terminal import Terminal
from telemetry import meter_id, replay
from telemetry.formats.native import MOST_UNSIGNED
from telemetry.meter_state import StateError, StateFile
from telemetry.sender import (
    LiveSender,
    NobodyListensError,
    ReplaySender,
    connect,
    run_fleet,
)
from telemetry.simulator import Fleet, Measured

_T = TypeVar("_T")


def run(arguments: argparse.Namespace) -> int:
    """Do what the arguments say, and answer the exit code.

    0: done or asked to stop. 1: something failed on the way, or a replay was cut short. 2: the
    arguments or the file are wrong.
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


class _UsageError(Exception):
    """Arguments that cannot be meant; the text says what to do."""


class _Screen:
    """What a person sees of a live fleet and can change about it."""

    def __init__(self, name: str, meters: int, multiplier: float, terminal: Terminal):
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
                self.multiplier = multiplier(line)
            except argparse.ArgumentTypeError as error:
                _complain(f"{error}; or q to quit")
            else:
                print(f"multiplier {self.multiplier:g} from the next reading on", flush=True)


def _live(arguments: argparse.Namespace, terminal: Terminal) -> int:
    ids = _fleet_ids(arguments.id, _or(arguments.meters, 1))
    path = arguments.state or state_directory() / f"{quote(arguments.id, safe='')}.json"
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
            alert_limit_wh=_or(arguments.alert_limit_wh, DEFAULT_LIMIT_WH),
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
    if arguments.replay is None:
        if arguments.speed is not None:
            raise _UsageError("--speed needs --replay FILE: a simulated home has --interval")
        return
    for option in ("multiplier", "interval", "count", "meters", "seed", "state"):
        if getattr(arguments, option) is not None:
            raise _UsageError(f"--{option} has no meaning with --replay: leave it out")


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
