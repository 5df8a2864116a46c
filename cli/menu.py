"""The old menu, by digits, of the meter in use; its Portuguese words stand beside the English."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cli import actions, answers
from cli.render import Answer
from query import messages as m
from query.client import Client
from telemetry.calendar import DAY_MS, HOUR_MS

_POWERS = ("1-0:1.7.0", "1-0:16.7.0")  # import, else the balance of import and export
# How far back to look for the last interval; None: as far as the data go.
_LOOKS: tuple[int | None, ...] = (HOUR_MS, 2 * DAY_MS, 62 * DAY_MS, None)


@dataclass(frozen=True)
class Choice:
    """A line of the menu."""

    digit: str
    english: str
    portuguese: str
    run: Callable[[Client, str], Answer]


def _current(client: Client, id: str) -> Answer:
    latest = client.latest(id)
    registers = {register.obis: register for register in latest.registers}
    energy = registers.get(m.ENERGY)
    page = energy and _last_interval(client, id, energy.time_ms)
    if not page:
        return Answer(answers.CURRENT, [], empty=f"{id} has not sent two readings yet")
    power = next((registers[obis].value for obis in _POWERS if obis in registers), None)
    return answers.current(page, power)


def _last_interval(client: Client, id: str, last_ms: int) -> m.History | None:
    """A page of history that ends with the last interval between readings."""
    for look in _LOOKS:
        start = None if look is None else last_ms - look
        *_, page = actions.history_pages(client, id, "raw", start, None)
        if page.wh:
            return page
    return None


def _total(client: Client, id: str) -> Answer:
    return answers.total(client.total(id))


def _bill_history(client: Client, id: str) -> Answer:
    bill = client.bill(id)
    pages = actions.history_pages(client, id, "raw", bill.start_ms, bill.end_ms)
    return answers.history(pages)


def _bill(client: Client, id: str) -> Answer:
    return answers.bill(client.bill(id))


CHOICES = (
    Choice("1", "current consumption", "consumo atual", _current),
    Choice("2", "total consumption", "consumo total", _total),
    Choice("3", "history of the current bill", "histórico da fatura atual", _bill_history),
    Choice("4", "value of the bill", "valor da fatura", _bill),
)
QUIT = "0"
BY_DIGIT = {choice.digit: choice for choice in CHOICES}


def text() -> str:
    """The menu as it is printed."""
    lines = [f"  {c.digit} {c.english} ({c.portuguese})" for c in CHOICES]
    return "\n".join([*lines, f"  {QUIT} quit (sair)"])
