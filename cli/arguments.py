"""The arguments that commands of the table take."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import UNSET

from cli import values
from cli.parsing import Argument, Completes
from query import messages as m
from telemetry.calendar import Step

ID = Argument(("id",), "the meter's id", values.meter, completes=Completes.METER)
ANY_ID = Argument(
    ("id",), "of this meter only", values.meter, completes=Completes.METER, optional=True
)
NEW_ID = Argument(("id",), "the new meter's id", values.meter, optional=True)
PREFIX = Argument(
    ("prefix",), "how their ids start", default="", completes=Completes.METER, optional=True
)
AT = "a local time of the meter, such as 2024-03-31T18:00, or one with an offset"
RANGE = (
    Argument(("--from",), f"from this time on: {AT}", metavar="TIME"),
    Argument(("--to",), "up to this time, which is not included", metavar="TIME"),
)
STEP = Argument(
    ("--step",),
    "a row a day (the default), month, hour, 15m, or raw: a row between readings",
    default=Step.DAY.value,
    choices=tuple(step.value for step in Step),
)
REGISTER = Argument(
    ("--register",),
    "the register's name or OBIS code (default: energy_import)",
    values.register,
    "NAME",
    m.ENERGY,
    completes=Completes.REGISTER,
)


KEYS = (
    Argument(("--unsigned",), "without a key: it may send unsigned", switch=True),
    Argument(("--key",), "this key, 32 hex digits, instead of one that is made", values.key, "HEX"),
    Argument(
        ("--authentication-key",),
        "of a DLMS meter: what goes with its --key, 32 hex digits",
        values.key,
        "HEX",
    ),
    Argument(("--new-key",), "make a key also for a meter that is there but has none", switch=True),
    Argument(
        ("--file",),
        "many meters: one id a line, - for standard input; prints their keys as CSV",
        metavar="FILE",
    ),
)
ROTATION = (
    Argument(("--rotate",), "make the next key, and show it", switch=True),
    Argument(
        ("--overlap",),
        "with --rotate: how long the one before is valid still (default: 7d)",
        values.overlap,
        "7d",
    ),
    Argument(("--revoke",), "end its keys now: it is locked out", switch=True),
)


def _setting(
    flag: str,
    help: str,
    parse: Callable[[str], object],
    metavar: str,
    completes: Completes = Completes.NOTHING,
) -> Argument:
    return Argument((flag,), help, values.setting(parse), metavar, UNSET, completes=completes)


SETTINGS = (
    _setting("--time-zone", "the zone of its days and bills", values.zone, "ZONE", Completes.ZONE),
    _setting("--name", "a name for people", str, "NAME"),
    _setting("--limit", "alert when a bill's period uses more", values.kwh, "KWH"),
    _setting("--price", "what a kWh costs, such as 0.50", values.price, "P"),
    _setting("--modulus", "where its register rolls over to 0", values.kwh, "KWH"),
    _setting("--max-power", "the most power it can carry", values.kilowatts, "KW"),
)

# Days of many meters, each in its own zone; as with times, --to is not included.
DAYS = (
    Argument(("--from",), "from this day on (default: the month's first)", values.day, "DAY"),
    Argument(
        ("--to",), "up to this day, not included (default: the month's end)", values.day, "DAY"
    ),
    Argument(
        ("--prefix",),
        "only meters whose ids start so",
        metavar="PREFIX",
        default="",
        completes=Completes.METER,
    ),
)
BY = Argument(
    ("--by",), "a row a day (the default), or a month", default="day", choices=("day", "month")
)
TOP = Argument(("n",), "how many, 1 to 1000 (default: 10)", values.count, "N", 10, optional=True)
YES = Argument(("--yes",), "do not ask whether it is meant", switch=True)
