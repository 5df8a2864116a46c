"""The table of client commands, which the shell and the REPL share: a command is written once."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from msgspec import UNSET

from cli import actions, render, values
from cli.actions import Context
from cli.parsing import Argument, Completes, Entry, Parser, build
from cli.render import Answer, Style
from query import messages as m
from query.client import DEFAULT_ENDPOINT, Client
from query.transport import BusError
from telemetry.calendar import Step

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

_LEAD = "wattbus "
_TRIES = 3
_WRONG_INPUT = frozenset({"bad_request", "bad_endpoint", "unknown_meter"})  # codes of the bus


@dataclass(frozen=True, kw_only=True)
class Command(Entry):
    """A row of the table; ``run`` may raise BusError, and InputError for arguments it refuses."""

    common = (
        Argument(("--json",), "answer in JSON, for scripts", switch=True),
        Argument(("--csv",), "answer in CSV, for scripts and spreadsheets", switch=True),
    )
    run: Callable[[Client, argparse.Namespace, Context], Answer]


_ID = Argument(("id",), "the meter's id", values.meter, completes=Completes.METER)
_ANY_ID = Argument(
    ("id",), "of this meter only", values.meter, completes=Completes.METER, optional=True
)
_NEW_ID = Argument(("id",), "the new meter's id", values.meter)
_PREFIX = Argument(
    ("prefix",), "how their ids start", default="", completes=Completes.METER, optional=True
)
_AT = "a local time of the meter, such as 2024-03-31T18:00, or one with an offset"
_RANGE = (
    Argument(("--from",), f"from this time on: {_AT}", metavar="TIME"),
    Argument(("--to",), "up to this time, which is not included", metavar="TIME"),
)
_STEP = Argument(
    ("--step",),
    "a row a day (the default), month, hour, 15m, or raw: a row between readings",
    default=Step.DAY.value,
    choices=tuple(Step),
)
_REGISTER = Argument(
    ("--register",),
    "the register's name or OBIS code (default: energy_import)",
    values.register,
    "NAME",
    m.ENERGY,
    completes=Completes.REGISTER,
)


def _setting(
    flag: str,
    help: str,
    parse: Callable[[str], object],
    metavar: str,
    completes: Completes = Completes.NOTHING,
) -> Argument:
    return Argument((flag,), help, values.setting(parse), metavar, UNSET, completes=completes)


_SETTINGS = (
    _setting("--time-zone", "the zone of its days and bills", values.zone, "ZONE", Completes.ZONE),
    _setting("--name", "a name for people", str, "NAME"),
    _setting("--limit", "alert when a bill's period uses more", values.kwh, "KWH"),
    _setting("--price", "what a kWh costs, such as 0.50", values.price, "P"),
    _setting("--modulus", "where its register rolls over to 0", values.kwh, "KWH"),
    _setting("--max-power", "the most power it can carry", values.kilowatts, "KW"),
)

COMMANDS = (
    Command(
        "ping",
        "Ask whether the service is there, and its version.",
        (),
        ("ping", "ping --json"),
        run=actions.ping,
    ),
    Command(
        "status",
        "Show how the collector is: listeners, losses, rates, storage.",
        (),
        ("status", "status --json"),
        run=actions.status,
    ),
    Command(
        "meters",
        "List the meters, or those whose ids start with PREFIX.",
        (_PREFIX,),
        ("meters", "meters kit", "meters --csv"),
        run=actions.meters,
    ),
    Command(
        "meters show",
        "Show what is registered of a meter.",
        (_ID,),
        ("meters show kitchen",),
        run=actions.show_meter,
    ),
    Command(
        "meters add",
        "Register a meter, before or after its first reading.",
        (_NEW_ID, *_SETTINGS),
        (
            "meters add kitchen --time-zone America/Sao_Paulo",
            "meters add kitchen --name 'The kitchen' --limit 500 --price 0.50",
        ),
        run=actions.add_meter,
    ),
    Command(
        "meters set",
        'Set something of a meter; the value "default" takes a setting back.',
        (_ID, *_SETTINGS),
        ("meters set kitchen --limit 250.5", "meters set kitchen --price default"),
        run=actions.set_meter,
    ),
    Command(
        "meters replace",
        "Say that the device was exchanged, and what the old and the new one showed then.",
        (
            _ID,
            Argument(("--final",), "the old one's last register", values.kwh, "KWH", required=True),
            Argument(
                ("--initial",), "the new one's first register", values.kwh, "KWH", required=True
            ),
            Argument(("--at",), f"when (default: now): {_AT}", metavar="TIME"),
        ),
        ("meters replace kitchen --final 10234.5 --initial 0 --at 2024-03-31T18:00",),
        run=actions.replace_meter,
    ),
    Command(
        "latest",
        "Show the newest reading of each register.",
        (_ID,),
        ("latest kitchen", "latest kitchen --json"),
        run=actions.latest,
    ),
    Command(
        "total",
        "Show how much was consumed, in all or in a range.",
        (_ID, *_RANGE),
        ("total kitchen", "total kitchen --from 2024-03-01 --to 2024-04-01 --json"),
        run=actions.total,
    ),
    Command(
        "history",
        "Show how much was consumed, slot by slot.",
        (_ID, _STEP, *_RANGE),
        (
            "history kitchen",
            "history kitchen --step month",
            "history kitchen --step 15m --from 2024-03-31 --to 2024-04-01 --csv",
        ),
        run=actions.history,
    ),
    Command(
        "readings",
        "Show what a register showed, reading by reading.",
        (_ID, _REGISTER, *_RANGE),
        ("readings kitchen --from 2024-03-31", "readings kitchen --register voltage_l1 --csv"),
        run=actions.readings,
    ),
    Command(
        "alerts",
        "List the alerts, the last raised first.",
        (_ANY_ID,),
        ("alerts", "alerts kitchen --json"),
        run=actions.alerts,
    ),
    Command(
        "bill",
        "Show the bill of the current period, or of another one.",
        (
            _ID,
            Argument(("--month",), "the period that begins in this month", values.month, "YYYY-MM"),
            Argument(("--at",), f"the period with this time: {_AT}", metavar="TIME"),
        ),
        ("bill kitchen", "bill kitchen --month 2024-03 --json"),
        run=actions.bill,
    ),
)


def connection_arguments() -> tuple[Argument, ...]:
    """The options that say where the service is and how long to wait for it."""
    return (
        Argument(
            ("--query",),
            f"where the service listens (default: $WATTBUS_QUERY, else {DEFAULT_ENDPOINT})",
            metavar="tcp://HOST:PORT",
            default=os.environ.get("WATTBUS_QUERY") or DEFAULT_ENDPOINT,
        ),
        Argument(
            ("--timeout",),
            "how long to wait for an answer, in all (default: 6)",
            values.seconds,
            "SECONDS",
            6.0,
        ),
    )


def connect(arguments: argparse.Namespace) -> Client:
    """A client as the connection's options say. Raises BusError if the address is none."""
    return Client(arguments.query, timeout=arguments.timeout / _TRIES, tries=_TRIES)


def add_parsers(subparsers: Subparsers) -> None:
    """Give the shell's parser every command; parsed arguments have ``run(arguments) -> int``."""
    connection = connection_arguments()
    parsers: dict[str, Parser] = {}
    for command in COMMANDS:
        parser = parsers[command.name] = build(COMMANDS, command, _LEAD, connection)
        parser.set_defaults(run=partial(_run, command))
        first, _, verb = command.name.partition(" ")
        if verb:
            parsers[first].verbs[verb] = parser
        else:
            subparsers.add_parser(first, help=command.summary)
            subparsers.choices[first] = parser


def _run(command: Command, arguments: argparse.Namespace) -> int:
    def ask() -> None:
        with connect(arguments) as client:
            perform(command, client, arguments)

    return guarded(ask)


def perform(
    command: Command,
    client: Client,
    arguments: argparse.Namespace,
    more: Callable[[], bool] | None = None,
) -> None:
    """Run a command and write its answer as the arguments say. Raises as ``Command.run`` does."""
    answer = command.run(client, arguments, Context(time.time_ns() // 1_000_000))
    style = Style.JSON if arguments.json else Style.CSV if arguments.csv else Style.PEOPLE
    render.write(answer, style, sys.stdout, more)


def guarded(action: Callable[[], None]) -> int:
    """Do something that a person asked for; the exit code, after a message if it went wrong.

    0: done, or the reader of the output has gone. 1: the service failed or is away. 2: wrong
    input. 130: interrupted.
    """
    try:
        action()
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The interpreter's last flush must not fail on it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except values.InputError as error:
        return complain(str(error), 2)
    except BusError as error:
        return complain(str(error), 2 if error.code in _WRONG_INPUT else 1)
    except OSError as error:
        return complain(f"cannot write the answer: {error.strerror or error}", 1)
    return 0


def complain(text: str, code: int) -> int:
    """Say on stderr what went wrong; answers the exit code."""
    print(f"wattbus: {text}", file=sys.stderr, flush=True)
    return code
