"""The grammar of InfluxDB's line protocol: octets to points, one by one, exactly.

It takes what the reference decoder takes (github.com/influxdata/line-protocol, version 2): a wrong
line ends at the next newline behind the octet where reading failed, and a string that is never
closed takes what is left.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from typing import NamedTuple

_INT64 = 2**63
_UINT64 = 2**64
_MOST_DIGITS = 20  # of a 64-bit integer

# A backslash stands for itself unless what follows needs it. Possessive: no octets back and forth.
_MEASUREMENT = re.compile(rb"(?:[^\x00-\x20\x7f,\\]++|\\[ ,]?+)++")
_TAG = re.compile(rb",((?:[^\x00-\x20\x7f,=\\]++|\\[ ,=]?+)++)=((?:[^ \r\n,=\\]++|\\[ ,=]?+)++)")
_FIELD = re.compile(
    rb"((?:[^\x00-\x20\x7f,=\\]++|\\[ ,=]?+)++)="
    rb'(?:"((?:[^"\\]++|\\.?+)*+)"|([^", \r\n][^, \r\n]*+))',
    re.DOTALL,
)
_UNCLOSED = re.compile(
    rb'(?:[^\x00-\x20\x7f,=\\]++|\\[ ,=]?+)++="(?:[^"\\]++|\\.?+)*+\Z', re.DOTALL
)
_SPACES = re.compile(rb" *+")
_END = re.compile(rb"(?: ++(-?[0-9]++)?+)?+ *+(?:\r?\n|\r?\Z)")  # of a line: perhaps its time
_NOTHING = re.compile(rb" *+(?:#[^\x00-\x1f\x7f]*+)?(?:\r?\n|\r?\Z)")  # an empty line, or a comment
_ESCAPED = re.compile(rb"\\([ ,=])")
_ESCAPED_NAME = re.compile(rb"\\([ ,])")
_ESCAPED_STRING = re.compile(rb'\\([\\"])')
_INTEGER = re.compile(rb"-?[0-9]+")
_FLOAT = re.compile(rb"-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
BOOLEANS = {
    **dict.fromkeys((b"t", b"T", b"true", b"True", b"TRUE"), True),
    **dict.fromkeys((b"f", b"F", b"false", b"False", b"FALSE"), False),
}

Value = Decimal | int | bool | str


class Field(NamedTuple):
    """A field: of floats the exact decimal that was written; ``unsigned`` is of integers."""

    key: str
    value: Value
    unsigned: bool = False


class Point(NamedTuple):
    """A line. ``time`` is in units of the sender's precision; None where there is none."""

    measurement: str
    tags: dict[str, str]
    fields: list[Field]
    time: int | None


class Line(NamedTuple):
    """What stands from ``start`` up to ``end``: a point, or None where it breaks the grammar.

    ``empty``: it is a comment, or nothing at all.
    """

    start: int
    end: int
    point: Point | None
    empty: bool = False


class _WrongError(Exception):
    """The line is wrong; what was read so far ends at the octet of the argument."""


def lines(data: bytes) -> Iterator[Line]:
    """The lines of a datagram, whatever its octets; comments and empty lines are left out."""
    at = 0
    while at < len(data):
        line = line_at(data, at, len(data))
        at = line.end
        if not line.empty:
            yield line


def line_at(data: bytes, at: int, end: int) -> Line:
    """The line that starts at ``at`` of a datagram that ends at ``end``."""
    if nothing := _NOTHING.match(data, at, end):
        return Line(at, nothing.end(), None, empty=True)
    try:
        point, behind = _point(data, at, end)
    except _WrongError as wrong:
        newline = data.find(b"\n", wrong.args[0], end)
        return Line(at, newline + 1 if newline >= 0 else end, None)
    return Line(at, behind, point)


def _point(data: bytes, at: int, end: int) -> tuple[Point, int]:
    at = _SPACES.match(data, at, end).end()  # type: ignore[union-attr]
    name = _MEASUREMENT.match(data, at, end)
    if name is None or data[at] == 0x23:  # a comment with control characters
        raise _WrongError(at)
    at = name.end()
    measurement = _text(name[0], _ESCAPED_NAME, at)
    tags: dict[str, str] = {}
    repeated = False
    while tag := _TAG.match(data, at, end):
        at = tag.end()
        key = _text(tag[1], _ESCAPED, at)
        repeated |= key in tags
        tags[key] = _text(tag[2], _ESCAPED, at)
    fields, at = _fields(data, at, end)
    rest = _END.match(data, at, end)
    if rest is None:
        raise _WrongError(at)
    time = None if rest[1] is None else _integer(rest[1], -_INT64, _INT64, at)
    if repeated:
        raise _WrongError(at)
    return Point(measurement, tags, fields, time), rest.end()


def _fields(data: bytes, at: int, end: int) -> tuple[list[Field], int]:
    """One field or more, up to the space or the end of line behind them."""
    if not data.startswith(b" ", at, end):
        raise _WrongError(at)
    at = _SPACES.match(data, at, end).end()  # type: ignore[union-attr]
    fields = []
    while True:
        found = _FIELD.match(data, at, end)
        if found is None:
            raise _WrongError(end if _UNCLOSED.match(data, at, end) else at)
        at = found.end()
        key = _text(found[1], _ESCAPED, at)
        if found[2] is not None:
            fields.append(Field(key, _text(found[2], _ESCAPED_STRING, at)))
        else:
            fields.append(_typed(key, found[3], at))
        if at == end or data[at] != 0x2C:
            return fields, at
        at += 1


def _typed(key: str, text: bytes, at: int) -> Field:
    if text in BOOLEANS:
        return Field(key, BOOLEANS[text])
    if text.endswith(b"i"):
        return Field(key, _integer(text[:-1], -_INT64, _INT64, at))
    if text.endswith(b"u"):
        if text.startswith(b"-"):
            raise _WrongError(at)
        return Field(key, _integer(text[:-1], 0, _UINT64, at), unsigned=True)
    # Beyond what 64-bit floating point holds is out of range for every client and server.
    if not _FLOAT.fullmatch(text) or abs(float(text)) == float("inf"):
        raise _WrongError(at)
    return Field(key, _decimal(text))


def _decimal(text: bytes) -> Decimal:
    # An exponent that Decimal cannot hold belongs to nought: anything else was out of range.
    mantissa, _, exponent = text.lower().partition(b"e")
    digits = exponent.lstrip(b"+-").lstrip(b"0") or b"0"
    if len(digits) > _MOST_DIGITS - 10:
        return Decimal(0)
    power = -int(digits) if exponent.startswith(b"-") else int(digits)
    return Decimal(f"{mantissa.decode('ascii')}e{power}")


def _integer(text: bytes, least: int, beyond: int, at: int) -> int:
    digits = text.removeprefix(b"-").lstrip(b"0") or b"0"
    if not _INTEGER.fullmatch(text) or len(digits) > _MOST_DIGITS:
        raise _WrongError(at)
    value = -int(digits) if text.startswith(b"-") else int(digits)
    if not least <= value < beyond:
        raise _WrongError(at)
    return value


def _text(token: bytes, escaped: re.Pattern[bytes], at: int) -> str:
    if b"\\" in token:
        token = escaped.sub(rb"\1", token)
    try:
        return token.decode()
    except UnicodeDecodeError:
        raise _WrongError(at) from None
