"""What each command asks of the service, and the answer it makes of the replies."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from msgspec import UNSET

from cli import answers, values
from cli import loss as loss_lines
from cli import status as status_lines
from cli.render import Answer
from query import messages as m
from query.client import Client

_PAGE = m.MOST_ROWS  # asked for at a time: each page costs the service the same, full or not

# The options that set a meter, and the keywords of ``Client.register`` that they become.
SETTINGS = {
    "time_zone": "time_zone",
    "name": "name",
    "limit": "limit_wh",
    "price": "price",
    "modulus": "modulus_wh",
    "max_power": "max_power_w",
}


@dataclass(frozen=True)
class Context:
    """What a command may know besides its arguments."""

    now_ms: int
    ask: Callable[[str], str] | None = None  # a question to the person; None: nobody is there


def ping(client: Client, _: argparse.Namespace, __: Context) -> Answer:
    """Whether the service is there, and its version."""
    return answers.pong(client.ping())


def status(client: Client, _: argparse.Namespace, __: Context) -> Answer:
    """How the collector is."""
    return status_lines.answer(client.status())


def loss(client: Client, arguments: argparse.Namespace, _: Context) -> Answer:
    """What was received, lost and refused: in all, or of a meter."""
    return loss_lines.answer(client.loss(arguments.id), one=arguments.id is not None)


def meters(client: Client, arguments: argparse.Namespace, _: Context) -> Answer:
    """The meters whose ids start with the prefix."""

    def ask(after: str | None) -> m.MeterPage:
        return client.meters(arguments.prefix, after=after or "", most=_PAGE)

    found = (meter for page in follow(ask, None) for meter in page.meters)
    empty = (
        f"no meter's id starts with {arguments.prefix}"
        if arguments.prefix
        else "there are no meters yet: one appears with its first reading, or by `meters add ID`"
    )
    return answers.meters(found, empty)


def show_meter(client: Client, arguments: argparse.Namespace, _: Context) -> Answer:
    """What is registered of a meter."""
    return answers.meter(client.meter(arguments.id))


def set_meter(client: Client, arguments: argparse.Namespace, _: Context) -> Answer:
    """Set what is given of a meter that is there."""
    given = settings(arguments)
    if all(value is UNSET for value in given.values()):
        raise values.InputError("nothing to set: give an option such as --limit 500")
    client.meter(arguments.id)  # a meter that is not there is to be an error, not to be added
    return answers.meter(client.register(arguments.id, **given))


def replace_meter(client: Client, arguments: argparse.Namespace, context: Context) -> Answer:
    """Say that the device was exchanged."""
    time_ms = context.now_ms
    if arguments.at is not None:
        time_ms = values.instant(arguments.at, _zone(client, arguments.id), "--at")
    replaced = client.replace(
        arguments.id, time_ms=time_ms, final_wh=arguments.final, initial_wh=arguments.initial
    )
    return answers.meter(replaced)


def delete_meter(client: Client, arguments: argparse.Namespace, context: Context) -> Answer:
    """Remove a meter and every reading of it, once a person has typed its id or said --yes."""
    meter = client.meter(arguments.id)  # one that is not there is most likely a slip of the pen
    if not arguments.yes:
        if context.ask is None:
            raise values.InputError(
                f"this removes {meter.id} and every reading of it for ever: say so with --yes"
            )
        typed = context.ask(f"This removes {meter.id} and every reading of it for ever. Its id: ")
        if typed != meter.id:
            raise values.InputError(f"nothing was removed: {typed!r} is not {meter.id}")
    return answers.deleted(client.delete(arguments.id))


def latest(client: Client, arguments: argparse.Namespace, _: Context) -> Answer:
    """The newest reading of each register."""
    return answers.latest(client.latest(arguments.id))


def total(client: Client, arguments: argparse.Namespace, _: Context) -> Answer:
    """The energy of a range, or of all time."""
    start, end = _range(client, arguments)
    return answers.total(client.total(arguments.id, start_ms=start, end_ms=end))


def history(client: Client, arguments: argparse.Namespace, _: Context) -> Answer:
    """The history of a range, or of all time."""
    start, end = _range(client, arguments)
    return answers.history(history_pages(client, arguments.id, arguments.step, start, end))


def history_pages(
    client: Client, id: str, step: str, start_ms: int | None, end_ms: int | None
) -> Iterator[m.History]:
    """Energy slot by slot, asked for page by page as it is shown."""

    def ask(start: int | None) -> m.History:
        return client.history(id, step, start_ms=start, end_ms=end_ms, most=_PAGE)

    return follow(ask, start_ms)


def readings(client: Client, arguments: argparse.Namespace, _: Context) -> Answer:
    """What a register showed, reading by reading."""
    begin, end = _range(client, arguments)

    def ask(start: int | None) -> m.Values:
        return client.readings(
            arguments.id, arguments.register, start_ms=start, end_ms=end, most=_PAGE
        )

    return answers.values(follow(ask, begin))


def alerts(client: Client, arguments: argparse.Namespace, _: Context) -> Answer:
    """The alerts of a meter, or of all."""

    def ask(before: int | None) -> m.AlertPage:
        return client.alerts(arguments.id, before=before, most=_PAGE)

    return answers.alerts(follow(ask, None))


def bill(client: Client, arguments: argparse.Namespace, _: Context) -> Answer:
    """The bill of a period: the one asked for, or that with the last reading."""
    if arguments.month is not None and arguments.at is not None:
        raise values.InputError("--month and --at both name the bill: leave one out")
    at_ms = None
    if arguments.month is not None:
        # The month's end, so that the period is the one that begins in the month, on any day.
        at_ms = values.last_instant(arguments.month, _zone(client, arguments.id))
    elif arguments.at is not None:
        at_ms = values.instant(arguments.at, _zone(client, arguments.id), "--at")
    return answers.bill(client.bill(arguments.id, at_ms=at_ms))


_AnyPage = TypeVar("_AnyPage", m.MeterPage, m.History, m.Values, m.AlertPage, m.Fleet)


def follow(ask: Callable[[Any], _AnyPage], cursor: object) -> Iterator[_AnyPage]:
    """All pages. The first is asked for at once, so that an error comes before any output."""
    first = ask(cursor)

    def rest() -> Iterator[_AnyPage]:
        page = first
        yield page
        while page.next is not None:
            page = ask(page.next)
            yield page

    return rest()


def settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """What to set: keywords of ``Client.register``, from the options that have other names."""
    return {keyword: getattr(arguments, option) for option, keyword in SETTINGS.items()}


def _zone(client: Client, id: str) -> ZoneInfo:
    return ZoneInfo(client.meter(id).time_zone_in_force)


def _range(client: Client, arguments: argparse.Namespace) -> tuple[int | None, int | None]:
    texts = {option: getattr(arguments, option) for option in ("from", "to")}
    if not any(texts.values()):
        return None, None
    zone = _zone(client, arguments.id)
    start, end = (
        None if text is None else values.instant(text, zone, f"--{option}")
        for option, text in texts.items()
    )
    if start is not None and end is not None and start >= end:
        raise values.InputError("--to must be later than --from: the time it names is not included")
    return start, end
