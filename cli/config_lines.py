"""Where in a TOML file a key stands, for what is said of it."""

from __future__ import annotations

import re
from collections import Counter

_NAME = r"""(?:"[^"]*"|'[^']*'|[\w-]+)"""
_PATH = rf"{_NAME}(?:\s*\.\s*{_NAME})*"
_HEADER = re.compile(rf"\s*(\[\[?)\s*({_PATH})\s*\]")
_KEY = re.compile(rf"\s*({_PATH})\s*=")


def line_of(text: str, keys: list[str]) -> int:
    """The line of a key, else of the table or list that it is in, else 1.

    ``keys`` lead to it, numbers to the elements of lists: ``["listeners", "0", "port"]``.
    """
    wanted = ".".join(keys)
    elements: Counter[str] = Counter()  # of each list of tables
    table, best, found = "", 0, 1
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            path = _place(_names(header[2]), elements)
            if header[1] == "[[":
                elements[path] += 1
                path += f".{elements[path] - 1}"
            table = path
        elif key := _KEY.match(line):
            path = ".".join([*([table] if table else []), *_names(key[1])])
        else:
            continue
        if f"{wanted}.".startswith(f"{path}.") and len(path) > best:
            best, found = len(path), number
    return found


def _names(path: str) -> list[str]:
    return [name.strip("\"'") for name in re.findall(_NAME, path)]


def _place(names: list[str], elements: Counter[str]) -> str:
    """The path of a table; where its tables are lists, in their newest elements."""
    path = ""
    for place, name in enumerate(names):
        path += f".{name}" if path else name
        if elements[path] and place < len(names) - 1:
            path += f".{elements[path] - 1}"
    return path
