"""The options of ``wattbus meter``: their help, their bounds, and what is said of wrong ones."""

from __future__ import annotations

import argparse
import math
from decimal import Decimal, InvalidOperation
from pathlib import Path

import platformdirs

from telemetry import meter_id
from telemetry.fleet_keys import parse_key
from telemetry.network import Address
from telemetry.outbox import LEAST_OCTETS, MOST_OCTETS
from telemetry.registers import ALERT_LIMIT, BY_CODE
from telemetry.simulator import HIGHEST_MULTIPLIER, LONGEST_STEP_MS, MOST_REPEATS

DEFAULT_LIMIT_WH = 500_000
DEFAULT_WAIT = 10.0
DEFAULT_REPEAT = 1
_SHORTEST_INTERVAL = 0.01
_LONGEST_INTERVAL = LONGEST_STEP_MS / 1000
_MOST_METERS = 100_000
_MEBIBYTE = 1 << 20
_MOST_MEBIBYTES = 1 << 20
_LONGEST_WAIT = 86_400
_LOWEST_SPEED, _HIGHEST_SPEED = 0.001, 1e9

_EXAMPLES = """\
examples:
  wattbus meter                                 a home as "meter-1", every 10 seconds
  wattbus meter --id kitchen --multiplier 2.5   one that consumes two and a half times as much
  wattbus meter --id demo --meters 100          a fleet: demo-001 to demo-100
  wattbus meter --id kitchen --key-file k.txt   signed and encrypted (wattbus meters add makes keys)
  wattbus meter --count 10 --wait 60            ten readings; was each of them acknowledged?
  wattbus meter --no-ack --repeat 2             nothing kept; each reading is sent three times
  wattbus meter --id home --replay home.csv.gz  a year of real consumption in seconds

Each reading is kept on disk until the collector has acknowledged it, also over Ctrl-C and power
cuts; the next start sends what waits.

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
        type=multiplier,
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
        help="where the registers and what waits are kept (default: one file an id in "
        f"{str(state_directory()).replace('%', '%%')})",
    )

    _add_delivery(parser.add_argument_group("its delivery"))

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


def _add_delivery(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--key-file",
        type=Path,
        metavar="FILE",
        help="sign and encrypt with the key in this file, which nobody else may read; for a fleet, "
        "lines of an id and its key",
    )
    group.add_argument(
        "--key",
        type=_key,
        metavar="HEX",
        help="the key itself; other users of this machine can see it",
    )
    group.add_argument(
        "--key-id", type=_key_id, metavar="N", help="which of the meter's keys that is (default: 1)"
    )
    group.add_argument("--sign-only", action="store_true", help="sign, but do not encrypt")
    group.add_argument(
        "--wait",
        type=_seconds,
        metavar="SECONDS",
        help=f"after --count, for acknowledgements (default: {DEFAULT_WAIT:g}); "
        "exit code 1 if something still waits then",
    )
    group.add_argument(
        "--outbox-mib",
        type=_mebibytes,
        metavar="N",
        help="room for what waits; when it is full, new readings are not kept, which is said "
        f"(default: {MOST_OCTETS // _MEBIBYTE})",
    )
    group.add_argument(
        "--no-ack", action="store_true", help="ask for no acknowledgement, keep no readings"
    )
    group.add_argument(
        "--repeat",
        type=_repeat,
        metavar="K",
        help="with --no-ack: a datagram carries the last K readings again (default: "
        f"{DEFAULT_REPEAT})",
    )


def state_directory() -> Path:
    """Where meters keep their registers unless told otherwise."""
    return Path(platformdirs.user_state_dir("wattbus")) / "meters"


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


def multiplier(text: str) -> float:
    """A multiplier as it is typed; raises argparse.ArgumentTypeError."""
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


def _key(text: str) -> bytes:
    try:
        return parse_key(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _key_id(text: str) -> int:
    return _whole(text, "key id", 1, 255)


def _seconds(text: str) -> float:
    return _number(text, "time in seconds", 0, _LONGEST_WAIT, "10")


def _mebibytes(text: str) -> int:
    least = LEAST_OCTETS // _MEBIBYTE
    return _whole(text, "size in MiB", least, _MOST_MEBIBYTES) * _MEBIBYTE


def _repeat(text: str) -> int:
    return _whole(text, "number of readings to repeat", 0, MOST_REPEATS)
