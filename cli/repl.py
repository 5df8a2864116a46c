"""``wattbus repl``: the shell's commands at a prompt, and the old menu's digits after ``use``."""

from __future__ import annotations

import argparse
import shlex
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import BinaryIO

import platformdirs
from prompt_toolkit import PromptSession
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.patch_stdout import patch_stdout

from cli import menu, render, values
from cli.commands import COMMANDS, Command, perform
from cli.completion import completions, place_of
from cli.connecting import complain, connect, connection_arguments, guarded
from cli.monitor import Monitor
from cli.parsing import Argument, Completes, Entry, add, build, find
from cli.render import Answer, Column, Style
from query.client import Client
from query.transport import BusError

_MOST_IDS = 50
_WAIT_FOR_IDS = 0.5  # seconds


@dataclass(frozen=True, kw_only=True)
class Builtin(Entry):
    """A command of the prompt itself."""

    run: Callable[[Repl, argparse.Namespace], None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser the description and the options of ``wattbus repl``."""
    parser.description = (
        "Type the shell's commands at a prompt with completion and history. "
        "Without a terminal, commands are read line by line from the standard input."
    )
    for argument in connection_arguments():
        add(parser, argument)


def run(arguments: argparse.Namespace) -> int:
    """Read commands until the end; the exit code is the worst one of lines that were piped in."""
    if sys.stdin is None:
        return complain("there is no standard input to read commands from", 2)
    try:
        client = connect(arguments)
    except BusError as error:
        return complain(str(error), 2)
    with client:
        repl = Repl(client)
        if sys.stdin.isatty() and sys.stdout.isatty():
            converse(repl, arguments.query, arguments.key_file)
            return 0
        try:
            return read(repl, sys.stdin.buffer)
        except KeyboardInterrupt:
            return 130


class Repl:
    """What a line does, and what lines before it changed: the meter in use, the wish to leave."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.meter: str | None = None
        self.leaving = False
        self.more: Callable[[], bool] | None = None  # asked between windows full of rows

    @property
    def table(self) -> tuple[Entry, ...]:
        """Every command, with the meter in use as what an id is if it is left out."""
        return (*(self._in_use(command) for command in COMMANDS), *BUILTINS)

    @property
    def prompt(self) -> str:
        """What stands before the line."""
        return f"wattbus {self.meter}> " if self.meter else "wattbus> "

    def do(self, line: str) -> int:
        """Do what a line says; the exit code it would have in the shell."""
        try:
            words = shlex.split(line)
        except ValueError:
            return complain("a quotation is not closed: add the missing quote", 2)
        if not words:
            return 0
        if len(words) == 1 and words[0] in (menu.QUIT, *menu.BY_DIGIT):
            return self._digit(words[0])
        table = self.table
        found = find(table, words)
        if found is None:
            return complain(_unknown(words[0]), 2)
        entry, rest = found
        try:
            arguments = self.parser(entry).parse_args(rest)
        except SystemExit as stop:  # argparse has said what is wrong, or printed the help
            return int(stop.code or 0)
        return guarded(lambda: self._perform(entry, arguments))

    def parser(self, entry: Entry) -> argparse.ArgumentParser:
        """The parser of an entry of the table."""
        return build(self.table, entry)

    def use(self, id: str | None) -> None:
        """Take a meter in use, or none. Raises BusError if there is no such meter."""
        self.meter = None if id is None else self._client.meter(id).id

    def _perform(self, entry: Entry, arguments: argparse.Namespace) -> None:
        if isinstance(entry, Command):
            perform(entry, self._client, arguments, self.more)
        elif isinstance(entry, Builtin):
            entry.run(self, arguments)

    def _digit(self, digit: str) -> int:
        if digit == menu.QUIT:
            self.leaving = True
            return 0
        if self.meter is None:
            return complain(f"{digit} is about a meter: choose one with `use ID`", 2)
        meter, choice = self.meter, menu.BY_DIGIT[digit]
        return guarded(
            lambda: render.write(
                choice.run(self._client, meter), Style.PEOPLE, sys.stdout, self.more
            )
        )

    def _in_use(self, command: Command) -> Command:
        if self.meter is None:
            return command
        return replace(
            command,
            arguments=tuple(
                replace(argument, optional=True, default=self.meter)
                if argument.flags == ("id",) and argument.completes is Completes.METER
                else argument
                for argument in command.arguments
            ),
        )


def _use(repl: Repl, arguments: argparse.Namespace) -> None:
    repl.use(arguments.id)
    if repl.meter and sys.stdout.isatty():
        print(menu.text())


def _help(repl: Repl, arguments: argparse.Namespace) -> None:
    words = [word for word in (arguments.command, arguments.verb) if word]
    if words:
        found = find(repl.table, words)
        if found is None or found[1]:
            raise values.InputError(_unknown(" ".join(words)))
        print(repl.parser(found[0]).format_help().rstrip())
        return
    columns = Column("name", "command"), Column("summary", "what it does")
    records = [{"name": entry.name, "summary": entry.summary} for entry in repl.table]
    render.write(Answer(columns, records), Style.PEOPLE, sys.stdout)
    print("`help COMMAND` shows its options and examples. After `use ID`:")
    print(menu.text())


def _leave(repl: Repl, _: argparse.Namespace) -> None:
    repl.leaving = True


_WHICH = "of this command only"
BUILTINS = (
    Builtin(
        "use",
        "Choose a meter for the commands that follow; without ID, none.",
        (Argument(("id",), "its id", values.meter, completes=Completes.METER, optional=True),),
        ("use kitchen", "use"),
        run=_use,
    ),
    Builtin(
        "help",
        "List the commands, or show how to use one.",
        (
            Argument(("command",), _WHICH, completes=Completes.COMMAND, optional=True),
            Argument(("verb",), "its second word", optional=True),
        ),
        ("help", "help history", "help meters add"),
        run=_help,
    ),
    Builtin("quit", "Leave; Ctrl-D does it too.", (), ("quit",), run=_leave),
    Builtin("exit", "Leave.", (), ("exit",), run=_leave),
)


def _unknown(name: str) -> str:
    near = get_close_matches(name, [entry.name for entry in (*COMMANDS, *BUILTINS)], n=1)
    hint = f"did you mean {near[0]}?" if near else "`help` lists the commands"
    return f"{name!r} is no command: {hint}"


def read(repl: Repl, lines: BinaryIO) -> int:
    """Do lines that were piped in; empty ones and those that start with # are nothing."""
    worst = 0
    for octets in lines:
        line = octets.decode(errors="replace").strip()
        if not line.startswith("#"):
            worst = max(worst, repl.do(line))
        if repl.leaving:
            break
    return worst


class _Completer(Completer):
    """The pure completions, with ids asked of the service for as long as a person would wait."""

    def __init__(self, repl: Repl, endpoint: str, key_file: str | None) -> None:
        self._repl = repl
        self._connect = partial(Client, endpoint, timeout=_WAIT_FOR_IDS, tries=1, key_file=key_file)

    def get_completions(self, document: Document, _: CompleteEvent) -> Iterator[Completion]:
        text, table = document.text_before_cursor, self._repl.table
        place = place_of(text, table)
        ids = self._ids(place.word) if place.completes is Completes.METER else []
        for found in completions(text, table, ids):
            yield Completion(found.text, -found.length, display_meta=found.help)

    def _ids(self, prefix: str) -> list[str]:
        # A client of its own: this runs in a thread, beside a command or another completion.
        with suppress(BusError), self._connect() as client:
            return [meter.id for meter in client.meters(prefix, most=_MOST_IDS).meters]
        return []


def converse(repl: Repl, endpoint: str, key_file: str | None) -> None:
    """Read lines from the terminal until the person leaves."""
    free = threading.Lock()  # held while a command writes, so that no word falls into its table

    def tell(text: str) -> None:
        with free:
            print(text, flush=True)

    monitor = Monitor(endpoint, key_file, tell)
    session: PromptSession[str] = PromptSession(
        history=_history(),
        auto_suggest=AutoSuggestFromHistory(),
        completer=_Completer(repl, endpoint, key_file),
        complete_in_thread=True,
        complete_while_typing=False,
        bottom_toolbar=lambda: monitor.text,
        refresh_interval=0.5,
    )
    repl.more = _more
    print("Wattbus. `help` lists the commands, Tab completes, Ctrl-D leaves.")
    monitor.start()
    while not repl.leaving:
        try:
            with patch_stdout():
                line = session.prompt(repl.prompt)
        except KeyboardInterrupt:
            continue
        except EOFError:
            break
        with free:
            repl.do(line)
    monitor.stop()


def _more() -> bool:
    try:
        return not input("-- Enter for more, q to stop -- ").strip()
    except (EOFError, KeyboardInterrupt):
        print()
        return False


class _History(FileHistory):
    """Does not keep lines with a key in them."""

    def store_string(self, string: str) -> None:
        """Keep a line on disk."""
        if "--key" not in string.replace("=", " ").split():
            super().store_string(string)


def _history() -> History:
    path = Path(platformdirs.user_state_dir("wattbus")) / "repl-history"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    except OSError:
        return InMemoryHistory()
    return _History(path)
