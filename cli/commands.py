"""The table of client commands, which the shell and the REPL share: a command is written once."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from cli import actions, fleet, meter_keys, render, values
from cli.actions import Context
from cli.arguments import (
    ANY_ID,
    AT,
    BY,
    DAYS,
    ID,
    KEYS,
    NEW_ID,
    PREFIX,
    RANGE,
    REGISTER,
    ROTATION,
    SETTINGS,
    STEP,
    TOP,
    YES,
)
from cli.connecting import connect, connection_arguments, guarded
from cli.parsing import Argument, Entry, Parser, build
from cli.render import Answer, Style
from query.client import Client

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

_LEAD = "wattbus "


@dataclass(frozen=True, kw_only=True)
class Command(Entry):
    """A row of the table; ``run`` may raise BusError, and InputError for arguments it refuses."""

    common = (
        Argument(("--json",), "answer in JSON, for scripts", switch=True),
        Argument(("--csv",), "answer in CSV, for scripts and spreadsheets", switch=True),
    )
    run: Callable[[Client, argparse.Namespace, Context], Answer]


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
        (PREFIX,),
        ("meters", "meters kit", "meters --csv"),
        run=actions.meters,
    ),
    Command(
        "meters show",
        "Show what is registered of a meter.",
        (ID,),
        ("meters show kitchen",),
        run=actions.show_meter,
    ),
    Command(
        "meters add",
        "Register a meter, before or after its first reading.",
        (NEW_ID, *KEYS, *SETTINGS),
        (
            "meters add kitchen --time-zone America/Sao_Paulo",
            "meters add kitchen --name 'The kitchen' --limit 500 --price 0.50",
            "meters add shed --unsigned",
            "meters add 4d4d4d0000bc614e --key 00112233445566778899aabbccddeeff"
            " --authentication-key d0d1d2d3d4d5d6d7d8d9dadbdcdddedf",
            "meters add --file ids.txt",
        ),
        run=meter_keys.add,
    ),
    Command(
        "meters key",
        "List a meter's keys, make the next one, or end them all.",
        (ID, *ROTATION),
        (
            "meters key kitchen",
            "meters key kitchen --rotate --overlap 12h",
            "meters key kitchen --revoke",
        ),
        run=meter_keys.key,
    ),
    Command(
        "meters set",
        'Set something of a meter; the value "default" takes a setting back.',
        (ID, *SETTINGS),
        ("meters set kitchen --limit 250.5", "meters set kitchen --price default"),
        run=actions.set_meter,
    ),
    Command(
        "meters replace",
        "Say that the device was exchanged, and what the old and the new one showed then.",
        (
            ID,
            Argument(("--final",), "the old one's last register", values.kwh, "KWH", required=True),
            Argument(
                ("--initial",), "the new one's first register", values.kwh, "KWH", required=True
            ),
            Argument(("--at",), f"when (default: now): {AT}", metavar="TIME"),
        ),
        ("meters replace kitchen --final 10234.5 --initial 0 --at 2024-03-31T18:00",),
        run=actions.replace_meter,
    ),
    Command(
        "meters delete",
        "Remove a meter and every reading of it, for ever.",
        (ID, YES),
        ("meters delete kitchen", "meters delete kitchen --yes"),
        run=actions.delete_meter,
    ),
    Command(
        "latest",
        "Show the newest reading of each register.",
        (ID,),
        ("latest kitchen", "latest kitchen --json"),
        run=actions.latest,
    ),
    Command(
        "total",
        "Show how much was consumed, in all or in a range.",
        (ID, *RANGE),
        ("total kitchen", "total kitchen --from 2024-03-01 --to 2024-04-01 --json"),
        run=actions.total,
    ),
    Command(
        "history",
        "Show how much was consumed, slot by slot.",
        (ID, STEP, *RANGE),
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
        (ID, REGISTER, *RANGE),
        ("readings kitchen --from 2024-03-31", "readings kitchen --register voltage_l1 --csv"),
        run=actions.readings,
    ),
    Command(
        "alerts",
        "List the alerts, the last raised first.",
        (ANY_ID,),
        ("alerts", "alerts kitchen --json"),
        run=actions.alerts,
    ),
    Command(
        "bill",
        "Show the bill of the current period, or of another one.",
        (
            ID,
            Argument(("--month",), "the period that begins in this month", values.month, "YYYY-MM"),
            Argument(("--at",), f"the period with this time: {AT}", metavar="TIME"),
        ),
        ("bill kitchen", "bill kitchen --month 2024-03 --json"),
        run=actions.bill,
    ),
    Command(
        "fleet",
        "Show how much all meters consumed together, day by day.",
        (BY, *DAYS),
        (
            "fleet",
            "fleet --by month --from 2024-01-01 --to 2025-01-01",
            "fleet --prefix site-7/ --from 2024-03-01 --csv",
        ),
        run=fleet.fleet,
    ),
    Command(
        "top",
        "Show the meters that consumed the most.",
        (TOP, *DAYS),
        ("top", "top 20 --from 2024-03-01 --to 2024-04-01", "top 3 --prefix site-7/ --json"),
        run=fleet.top,
    ),
    Command(
        "loss",
        "Show what was received, lost and refused: in all, or of a meter.",
        (ANY_ID,),
        ("loss", "loss kitchen", "loss --json"),
        run=actions.loss,
    ),
    Command(
        "storage",
        "Show what is stored, how large it is, and what will be thinned next.",
        (),
        ("storage", "storage --json"),
        run=fleet.storage,
    ),
)


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
    context = Context(
        time.time_ns() // 1_000_000, _ask if sys.stdin and sys.stdin.isatty() else None
    )
    answer = command.run(client, arguments, context)
    style = Style.JSON if arguments.json else Style.CSV if arguments.csv else Style.PEOPLE
    render.write(answer, style, sys.stdout, more)


def _ask(question: str) -> str:
    """What a person types; the question is no part of the output."""
    print(question, end="", file=sys.stderr, flush=True)
    try:
        return input().strip()
    except EOFError:
        return ""
