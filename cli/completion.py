"""What can follow a line that is being typed: a pure function of the line and of the table."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from zoneinfo import available_timezones

from cli.parsing import Argument, Completes, Entry, find, verbs
from telemetry.registers import REGISTERS

Offer = tuple[str, str]  # a text, and what it means


@dataclass(frozen=True)
class Candidate:
    """A text that may stand in place of the last ``length`` characters."""

    text: str
    length: int
    help: str = ""


@dataclass(frozen=True)
class Place:
    """The word being typed, the texts that may stand there, and what else may."""

    word: str
    offers: list[Offer] = field(default_factory=list)
    completes: Completes = Completes.NOTHING
    options: list[Offer] = field(default_factory=list)


def completions(text: str, table: Sequence[Entry], meter_ids: Iterable[str]) -> list[Candidate]:
    """What the last word of ``text`` may become, in the order of the table."""
    place = place_of(text, table)
    offers = [*place.offers, *_values(place.completes, table, meter_ids), *place.options]
    start = place.word.casefold()
    return [
        Candidate(offer, len(place.word), meaning)
        for offer, meaning in offers
        if offer.casefold().startswith(start)
    ]


def place_of(text: str, table: Sequence[Entry]) -> Place:
    """What may stand at the end of a line."""
    head, word = _split(text)
    try:
        words = shlex.split(head)
    except ValueError:  # inside quotes
        return Place(word)
    if not words:
        return Place(word, _commands(table))
    found = find(table, words)
    if found is None:
        return Place(word)
    entry, rest = found
    return _argument_place(word, entry, rest, [] if rest else _verbs(table, entry))


def _split(text: str) -> tuple[str, str]:
    """A line before its last word, and that word, which is empty after a space."""
    word = text.split()[-1] if text and not text[-1].isspace() else ""
    return text[: len(text) - len(word)], word


def _argument_place(word: str, entry: Entry, rest: list[str], offers: list[Offer]) -> Place:
    options = {
        flag: argument
        for argument in (*entry.arguments, *entry.common)
        if argument.is_option
        for flag in argument.flags
    }
    by_place = [argument for argument in entry.arguments if not argument.is_option]
    pending: Argument | None = None
    for typed in rest:
        if pending is not None:
            pending = None
        elif typed in options:
            pending = None if options[typed].switch else options[typed]
        elif by_place:
            by_place.pop(0)
    if pending is not None:
        return _value_place(word, pending)
    flags = [(flag, option.help) for flag, option in options.items() if flag not in rest]
    if word.startswith("-") or not by_place:
        return Place(word, offers, options=flags)
    value = _value_place(word, by_place[0])
    return replace(value, offers=offers, options=flags if by_place[0].optional else [])


def _value_place(word: str, argument: Argument) -> Place:
    return Place(word, [(choice, "") for choice in argument.choices], argument.completes)


def _commands(table: Sequence[Entry]) -> list[Offer]:
    return [(entry.name, entry.summary) for entry in table if " " not in entry.name]


def _verbs(table: Sequence[Entry], entry: Entry) -> list[Offer]:
    return [(verb.name.split()[1], verb.summary) for verb in verbs(table, entry.name)]


def _values(
    completes: Completes, table: Sequence[Entry], meter_ids: Iterable[str]
) -> Iterable[Offer]:
    match completes:
        case Completes.NOTHING:
            return []
        case Completes.METER:
            return [(meter, "") for meter in meter_ids]
        case Completes.ZONE:
            return [(zone, "") for zone in _zones()]
        case Completes.REGISTER:
            return [(register.name, f"{register.obis} {register.unit}") for register in REGISTERS]
        case Completes.COMMAND:
            return _commands(table)


@cache
def _zones() -> list[str]:
    return sorted(available_timezones())
