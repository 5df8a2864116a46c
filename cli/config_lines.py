"""Where in a TOML file a key stands, for what is said of it."""

from __future__ import annotations

import re


def line_of(text: str, keys: list[str]) -> int:
    """The line of a key in its table (of a list: in its element), else of the table, else 1."""
    *tables, name = [key for key in keys if not key.isdigit()] or [""]
    element = next((int(key) for key in keys if key.isdigit()), 0)
    wanted = ".".join(tables)
    own = f"{wanted}.{name}" if wanted else name
    current, begun, table_at = "", -1, 0
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*(\[\[?)\s*([\w.-]+)", line)
        if header:
            current = header.group(2)
            begun += current == wanted and header.group(1) == "[["
        elif not current and re.match(rf"\s*{re.escape(wanted)}\s*\.\s*{re.escape(name)}\b", line):
            return number
        inside = current == wanted and begun in (-1, element)
        if inside and re.match(rf"\s*[\"']?{re.escape(name)}[\"']?\s*[=.]", line):
            return number
        if (inside and header) or (not current and re.match(rf"\s*{re.escape(wanted)}\b", line)):
            table_at = table_at or number
        elif header and current == own:
            return number
    return table_at or 1
