"""What the configuration says to the decoder of a listener, beside which one it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class LineOptions:
    """How lines of the InfluxDB line protocol are read (docs/formats.md).

    ``precision`` is the unit of their times. The first of the tags ``meter`` that a line has names
    its meter. ``registers`` maps names of fields to names of registers, beside those that are a
    register's own.
    """

    precision: str = "ns"
    meter: tuple[str, ...] = ("meter", "id", "host")
    registers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Options:
    """Of every format; each takes what is its own.

    ``time_zone`` is of devices that tell local time without its offset.
    """

    line: LineOptions = field(default_factory=LineOptions)
    time_zone: str = "UTC"
