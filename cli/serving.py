"""The programs that serve, as rows of the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

from cli import config, processes, serve

# Name, summary, arguments, main.
Program = tuple[
    str, str, Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int]
]


def _part(name: str, summary: str) -> Program:
    run = partial(processes.run, getattr(processes, name))
    return name, summary, config.add_arguments, run


SERVE: Program = ("serve", "start the whole collector", serve.add_arguments, serve.run)
PARTS: tuple[Program, ...] = (
    _part("receiver", "start only the part that takes in datagrams"),
    _part("writer", "start only the part that stores readings"),
    _part("query", "start only the query service"),
    _part("http", "start only the HTTP shim"),
)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands, which has none yet."""
    return argparse.ArgumentParser(
        prog="wattbus",
        description="Takes in electricity meters' readings over UDP and answers for them.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], program: Program) -> None:
    """Make a program a command."""
    name, summary, add_arguments, run = program
    parser = subparsers.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    parser.set_defaults(run=run)
