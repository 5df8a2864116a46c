"""What benchmarks share with people: options that make sense, and how far long work is."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress

MOST_METERS = 32_768  # one reading of each is a commit at most


def positive(text: str) -> int:
    """An option's whole number from 1 on."""
    if not (text.isascii() and text.isdigit()) or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number from 1 on")
    return int(text)


def meters(text: str) -> int:
    """An option's number of meters."""
    if positive(text) > MOST_METERS:
        raise argparse.ArgumentTypeError(f"{text!r}: at most {MOST_METERS} meters")
    return int(text)


def millions(text: str) -> float:
    """An option's millions of readings."""
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found <= 10_000:
        raise argparse.ArgumentTypeError(f"{text!r}: millions of readings, such as 0.5 or 100")
    return found


def wrong(message: str) -> SystemExit:
    """To be raised where what was asked for cannot be done."""
    print(f"benchmarks: {message}", file=sys.stderr)
    return SystemExit(2)


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar for so many readings while inside; told how many are done."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)
