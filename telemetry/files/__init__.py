"""Files that readings come in and go out in (docs/import-export.md); pure: text in, columns out."""

from __future__ import annotations

import re
from decimal import Decimal

# Wide enough for any meter, narrow enough that decimals of so many digits are never rounded.
_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,16}(?:\.[0-9]{0,12})?|\.[0-9]{1,12})", re.ASCII)


class FileError(ValueError):
    """A file that cannot be read; the text says the line, what is wrong and what to do."""

    @classmethod
    def at(cls, line: int, message: str) -> FileError:
        """What is wrong in a line, counted from 1."""
        return cls(f"line {line}: {message}")


def number(text: str) -> Decimal | None:
    """The exact decimal that ``text`` is, None for what is no plain number of a usual length."""
    return Decimal(text) if _NUMBER.fullmatch(text) else None
