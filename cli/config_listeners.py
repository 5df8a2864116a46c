"""The part of the configuration that says where datagrams are taken, and whose."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from cli.config_addresses import LOOPBACK
from telemetry import multicast
from telemetry.formats.line_fields import PRECISIONS, target
from telemetry.formats.names import GROUPS, NAMES
from telemetry.formats.options import LineOptions, Options
from telemetry.networks import EVERY_METER, network
from telemetry.networks import LOOPBACK as LOOPBACK_NETWORKS

_LONGEST_INTERVAL = 3600


class Line(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """How a listener reads lines of the InfluxDB line protocol (docs/formats.md)."""

    precision: str = LineOptions().precision
    meter: tuple[str, ...] = LineOptions().meter
    registers: dict[str, str] = {}

    def complaints(self, key: str) -> Iterator[tuple[str, bool, str]]:
        """Key, whether its value makes sense, and what is to be said if not."""
        known = ", ".join(PRECISIONS)
        yield f"{key}.precision", self.precision in PRECISIONS, f"known precisions: {known}"
        yield f"{key}.meter", bool(self.meter), "name one tag at least"
        yield f"{key}.meter", "" not in self.meter, "a tag's name must not be empty"
        yield f"{key}.registers", "" not in self.registers, "a field's name must not be empty"
        for field, text in self.registers.items():
            yield f"{key}.registers.{field}", not (wrong := _no_register(text)), wrong


class Listener(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A UDP socket of the receiver, bound to one format; whose unsigned datagrams it takes."""

    address: str = LOOPBACK
    port: int = 5001
    format: str = "auto"
    networks: tuple[str, ...] = LOOPBACK_NETWORKS
    meters: tuple[str, ...] = EVERY_METER
    interval_s: int = 0
    interfaces: tuple[str, ...] = ()
    line: Line = Line()

    @property
    def group(self) -> str | None:
        """The multicast group that it takes datagrams of; None: of none."""
        return GROUPS.get(self.format) if self.address in multicast.WILDCARDS else None

    def options(self, time_zone: str) -> Options:
        """What its decoder is told; ``time_zone`` is of devices that tell no offset."""
        line = LineOptions(self.line.precision, self.line.meter, self.line.registers)
        return Options(line, time_zone)

    def complaints(self, key: str) -> Iterator[tuple[str, bool, str]]:
        """Key, whether its value makes sense, and what is to be said if not."""
        known = ", ".join(NAMES)
        yield f"{key}.format", self.format in NAMES, f"known formats: {known}"
        yield f"{key}.port", 0 <= self.port <= 65535, "a port is 0 to 65535"
        yield f"{key}.address", self.address != "", "must not be empty"
        yield f"{key}.networks", not (wrong := _no_network(self.networks)), wrong
        interval = f"0 (everything is kept) to {_LONGEST_INTERVAL} seconds"
        yield f"{key}.interval_s", 0 <= self.interval_s <= _LONGEST_INTERVAL, interval
        yield f"{key}.meters", "" not in self.meters, "must not be empty"
        yield f"{key}.interfaces", not (wrong := self._no_group()), wrong
        takes = self.line == Line() or self.format in ("line", "auto")
        yield f"{key}.line", takes, 'it is for format = "line" or "auto"'
        yield from self.line.complaints(f"{key}.line")

    def _no_group(self) -> str:
        """Why nothing can be joined on interfaces that are given, or nothing."""
        groups = " or ".join(f'"{name}"' for name in GROUPS)
        if not self.interfaces or self.group:
            return ""
        return (
            f'they are for format = {groups} and address = "0.0.0.0" or "::", which get multicast'
        )


def _no_network(networks: tuple[str, ...]) -> str:
    """What is wrong with the first of the networks that is none, or nothing."""
    for text in networks:
        try:
            network(text)
        except ValueError as error:
            return f"{error}: a network is written like 192.168.7.0/24 or fe80::/10"
    return ""


def _no_register(text: str) -> str:
    """What is wrong with a register and unit that a field stands for, or nothing."""
    try:
        target(text)
    except ValueError as error:
        return str(error)
    return ""
