"""An answer as a person or a script wants it: a table that fits the window, JSON, or CSV."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from typing import Any, TextIO

import msgspec
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

Record = Mapping[str, Any]

PAGE = 1000  # rows that are laid out together: a table's widths are those of its page
_UNLIMITED = 10_000  # columns of a "window" that is a file or a pipe
_TABLE_LINES = 4  # of a window that are not rows: the head, its line, a question, the toolbar

# Decimals as JSON numbers, digit by digit; whoever wants them as text says so with a str.
_JSON = msgspec.json.Encoder(decimal_format="number")


class Style(Enum):
    """In which form an answer is written."""

    PEOPLE = "people"
    JSON = "json"
    CSV = "csv"


@dataclass(frozen=True)
class Column:
    """One value of each record; a window that is too narrow loses the highest ``drop`` first.

    A column without a title is for scripts only, and people see no column that is empty.
    """

    key: str
    title: str
    show: Callable[[Any], str] = str
    right: bool = False
    drop: int = 0  # 0: never


@dataclass(frozen=True)
class Answer:
    """Records, which may come page by page, and how they look.

    ``document`` is what JSON shows instead of a list of the records. A ``card`` shows its one
    record downwards. ``empty`` is said to people when there are no records, ``note`` below them,
    unbroken, so that it can be copied. With ``csv`` people get CSV, too.
    """

    columns: tuple[Column, ...]
    records: Iterable[Record]
    document: object = None
    card: bool = False
    empty: str = "nothing"
    note: str = ""
    csv: bool = False


def write(
    answer: Answer, style: Style, out: TextIO, more: Callable[[], bool] | None = None
) -> None:
    """Write an answer.

    ``more`` is asked after each window full of rows whether to go on; without it all are written.
    """
    match Style.CSV if answer.csv and style is Style.PEOPLE else style:
        case Style.JSON:
            _write_json(answer, out)
        case Style.CSV:
            _write_csv(answer, out)
        case Style.PEOPLE:
            _write_tables(answer, out, more)


def _write_json(answer: Answer, out: TextIO) -> None:
    if answer.document is not None:
        print(msgspec.json.format(_JSON.encode(answer.document), indent=2).decode(), file=out)
        return
    lead = "[\n"
    for record in answer.records:
        out.write(f"{lead}  {_JSON.encode(record).decode()}")
        lead = ",\n"
    out.write("[]\n" if lead == "[\n" else "\n]\n")


def _write_csv(answer: Answer, out: TextIO) -> None:
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([column.key for column in answer.columns])
    for record in answer.records:
        writer.writerow([_field(record[column.key]) for column in answer.columns])


def _field(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case list():
            return " ".join(value)
        case _:
            return str(value)


def _write_tables(answer: Answer, out: TextIO, more: Callable[[], bool] | None) -> None:
    console = Console(file=out, highlight=False)
    if not console.is_terminal:
        console.width = _UNLIMITED
    size = max(console.height - _TABLE_LINES, 1) if more else PAGE
    pages = _pages(iter(answer.records), size)
    page = next(pages, None)
    if page is None:
        console.print(Text(answer.empty))
    while page is not None:
        console.print(_card(answer, page[0]) if answer.card else _table(answer, page, console))
        page = next(pages, None)
        if page is not None and more and not more():
            return
    for line in ["", *answer.note.splitlines()] if answer.note else []:
        console.print(_plain(line), soft_wrap=True)


def _pages(records: Iterator[Record], size: int) -> Iterator[list[Record]]:
    while page := list(islice(records, size)):
        yield page


def _card(answer: Answer, record: Record) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for column in _seen(answer, [record]):
        table.add_row(column.title, _cell(column, record))
    return table


def _table(answer: Answer, page: list[Record], console: Console) -> Table:
    """The widest table that fits the window; if none does, the narrowest, with folded cells."""
    columns = _seen(answer, page)
    unlimited = console.options.update(width=_UNLIMITED)
    while True:
        table = _lay_out(columns, page)
        least = max(columns, key=lambda column: column.drop)
        width = Measurement.get(console, unlimited, table).maximum
        if width <= console.width or not least.drop:
            return table
        columns.remove(least)


def _seen(answer: Answer, page: list[Record]) -> list[Column]:
    return [
        column
        for column in answer.columns
        if column.title and any(_cell(column, record) for record in page)
    ]


def _lay_out(columns: list[Column], page: list[Record]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for column in columns:
        justify = "right" if column.right else "left"
        table.add_column(column.title, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for record in page:
        table.add_row(*(_cell(column, record) for column in columns))
    return table


def _cell(column: Column, record: Record) -> Text:
    """Plain text: nothing that a meter is called may steer the terminal."""
    value = record[column.key]
    return _plain("" if value is None else column.show(value))


def _plain(text: str) -> Text:
    return Text("".join(char if char.isprintable() else "\ufffd" for char in text))
