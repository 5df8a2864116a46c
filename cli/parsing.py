"""Rows that describe commands, and the argparse parsers made of them for the shell and the REPL."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, ClassVar, TypeVar


class Completes(Enum):
    """What the REPL proposes where a value is to be typed."""

    NOTHING = auto()
    METER = auto()
    ZONE = auto()
    REGISTER = auto()
    COMMAND = auto()


@dataclass(frozen=True)
class Argument:
    """One argument: an option if its flags start with a dash, else a value by its place.

    A switch is an option without a value; those that commands have in common exclude each other.
    """

    flags: tuple[str, ...]
    help: str
    parse: Callable[[str], object] = str
    metavar: str | None = None
    default: object = None
    choices: tuple[str, ...] = ()
    completes: Completes = Completes.NOTHING
    optional: bool = False  # a value by its place that may be left out
    required: bool = False  # an option that may not
    switch: bool = False

    @property
    def is_option(self) -> bool:
        """Whether the argument goes by its name, not by its place."""
        return self.flags[0].startswith("-")


@dataclass(frozen=True)
class Entry:
    """A command as people see it; a name of two words is a verb of the first word's command."""

    name: str
    summary: str
    arguments: tuple[Argument, ...] = ()
    examples: tuple[str, ...] = ()
    common: ClassVar[tuple[Argument, ...]] = ()  # what all commands of the kind take besides


Found = TypeVar("Found", bound=Entry)


def find(table: Sequence[Found], words: Sequence[str]) -> tuple[Found, list[str]] | None:
    """The entry that the first words name, and the words that follow."""
    named = {entry.name: entry for entry in table}
    for length in (2, 1):
        if len(words) >= length and (entry := named.get(" ".join(words[:length]))):
            return entry, list(words[length:])
    return None


class Parser(argparse.ArgumentParser):
    """A parser of one entry; words that begin with a verb go to the verb's own parser."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.verbs: dict[str, argparse.ArgumentParser] = {}

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """As argparse does, unless a verb takes the words."""
        if args and args[0] in self.verbs:
            return self.verbs[args[0]].parse_known_args(args[1:], namespace)
        return super().parse_known_args(args, namespace)


def verbs(table: Sequence[Found], name: str) -> list[Found]:
    """The entries whose names are of two words, the first of them ``name``."""
    return [entry for entry in table if entry.name.startswith(f"{name} ")]


def build(
    table: Sequence[Entry], entry: Entry, lead: str = "", more: Sequence[Argument] = ()
) -> Parser:
    """The parser of an entry, with ``more`` options, for lines that start with ``lead``.

    Its help shows the examples, and the entry's verbs among ``table``.
    """
    lines = [f"  {lead}{verb.name:<18} {verb.summary}" for verb in verbs(table, entry.name)]
    examples = [f"  {lead}{line}" for line in entry.examples]
    parser = Parser(
        prog=f"{lead}{entry.name}",
        description=entry.summary,
        epilog="\n".join(
            [*(["commands below this one:", *lines, ""] if lines else []), "examples:", *examples]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for argument in (*entry.arguments, *more):
        add(parser, argument)
    switches = parser.add_mutually_exclusive_group()
    for argument in entry.common:
        add(switches if argument.switch else parser, argument)
    return parser


def add(parser: argparse._ActionsContainer, argument: Argument) -> None:
    """Give a parser one argument of the table."""
    if argument.switch:
        parser.add_argument(*argument.flags, action="store_true", help=argument.help)
        return
    settings: dict[str, Any] = {
        "type": argument.parse,
        "metavar": argument.metavar,
        "default": argument.default,
        "choices": argument.choices or None,
        "help": argument.help,
    }
    if argument.is_option:
        parser.add_argument(*argument.flags, required=argument.required, **settings)
    else:
        (name,) = argument.flags
        settings["metavar"] = argument.metavar or name.upper()
        parser.add_argument(name, nargs="?" if argument.optional else None, **settings)
