"""``wattbus watch``: a meter's readings and alerts, as they become durable."""

from __future__ import annotations

import argparse
import os
import time
from contextlib import suppress
from datetime import datetime
from itertools import groupby

import msgspec

from cli import values
from cli.answers import kwh_text
from cli.connecting import complain, guarded, key_argument
from cli.parsing import add
from query.live import DEFAULT_ENDPOINT, Live, Message
from query.publisher import LiveAlert, LiveReading
from telemetry.registers import BY_NAME

_LOOK_EVERY = 0.5  # seconds between looks at the connection
_AWAY_AFTER = 1.5  # seconds without a connection
_SILENT_AFTER = 30.0  # seconds without a reading: three intervals of an ordinary meter
_JSON = msgspec.json.Encoder(decimal_format="number")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser the description and the options of ``wattbus watch``."""
    parser.description = (
        "Show a meter's readings and alerts as soon as they are stored, until Ctrl-C."
    )
    parser.add_argument("id", type=values.meter, metavar="ID", help="the meter's id")
    parser.add_argument(
        "--live",
        default=os.environ.get("WATTBUS_LIVE") or DEFAULT_ENDPOINT,
        metavar="tcp://HOST:PORT",
        help=f"where readings are published (default: $WATTBUS_LIVE, else {DEFAULT_ENDPOINT})",
    )
    add(parser, key_argument())
    parser.add_argument("--json", action="store_true", help="a JSON object a line, for scripts")


def run(arguments: argparse.Namespace) -> int:
    """Show what comes until Ctrl-C; the exit code.

    0: interrupted, or the reader of the output has gone. 1: what comes cannot be read. 2: wrong
    input.
    """

    def watch() -> None:
        me = arguments.key_file
        with suppress(KeyboardInterrupt), Live(arguments.live, arguments.id, key_file=me) as live:
            _watch(live, arguments.id, arguments.json)

    return guarded(watch)


def _watch(live: Live, id: str, as_json: bool) -> None:
    heard, said = time.monotonic(), ""
    while True:
        for message in live.listen(_LOOK_EVERY):
            for line in _lines(message, as_json):
                print(line, flush=True)
            heard, said = time.monotonic(), ""
        trouble = _trouble(live, id, time.monotonic() - heard)
        if trouble and trouble != said:
            complain(trouble, 0)
            said = trouble


def _trouble(live: Live, id: str, seconds: float) -> str:
    """What may be wrong when nothing has come for so long, "" for nothing."""
    if not live.connected:
        if seconds < _AWAY_AFTER:
            return ""
        return f"no connection to {live.endpoint}: is `wattbus serve` running there? still trying"
    if seconds < _SILENT_AFTER:
        return ""
    return f"connected, but {id} has sent nothing for {_SILENT_AFTER:g} s: does the meter send?"


def _lines(message: Message, as_json: bool) -> list[str]:
    """A line an alert, or an instant of readings."""
    if isinstance(message, LiveAlert):
        return [_alert_json(message) if as_json else _alert_text(message)]
    instants = groupby(message.readings, lambda reading: reading.time_ms)
    found = [(time_ms, list(readings)) for time_ms, readings in instants]
    if as_json:
        return [_readings_json(message.id, *instant) for instant in found]
    return [_readings_text(*instant) for instant in found]


def _readings_text(time_ms: int, readings: list[LiveReading]) -> str:
    shown = (f"{_name(reading.obis)} {reading.value:,f} {reading.unit}" for reading in readings)
    return "  ".join([_time(time_ms), *(text.rstrip() for text in shown)])


def _readings_json(id: str, time_ms: int, readings: list[LiveReading]) -> str:
    registers = {
        reading.obis: {"name": _name(reading.obis), "value": reading.value, "unit": reading.unit}
        for reading in readings
    }
    return _encoded({"id": id, "time": _time(time_ms), "registers": registers})


def _alert_text(alert: LiveAlert) -> str:
    late = " (known late)" if alert.late else ""
    return (
        f"{_time(alert.time_ms)}  ALERT {alert.kind}: {kwh_text(alert.energy_wh)} kWh in the "
        f"bill's period, the limit is {kwh_text(alert.limit_wh)} kWh{late}"
    )


def _alert_json(alert: LiveAlert) -> str:
    return _encoded(
        {
            "id": alert.id,
            "kind": alert.kind,
            "time": _time(alert.time_ms),
            "kwh": kwh_text(alert.energy_wh),
            "limit_kwh": kwh_text(alert.limit_wh),
            "late": alert.late,
        }
    )


def _encoded(record: dict[str, object]) -> str:
    return _JSON.encode(record).decode()


def _time(ms: int) -> str:
    """The instant in this machine's zone: the live channel does not say the meter's."""
    moment = datetime.fromtimestamp(ms / 1000).astimezone()
    return moment.isoformat(timespec="milliseconds" if ms % 1000 else "seconds")


def _name(obis: str) -> str:
    return BY_NAME[obis].name if obis in BY_NAME else obis
