"""The messages in the octets of a ZeroMQ connection (ZMTP 3, without encryption)."""

from __future__ import annotations

from dataclasses import dataclass, field

_GREETING = 64
_MORE, _LONG, _COMMAND = 0x01, 0x02, 0x04


@dataclass
class Messages:
    """One direction of one connection, octet by octet."""

    _octets: bytearray = field(default_factory=bytearray)
    _greeted: bool = False
    _frames: list[bytes] = field(default_factory=list)

    def feed(self, octets: bytes) -> list[list[bytes]]:
        """The messages that end in these octets, as their frames."""
        self._octets += octets
        found: list[list[bytes]] = []
        if not self._greeted:
            if len(self._octets) < _GREETING:
                return found
            del self._octets[:_GREETING]
            self._greeted = True
        while (frame := self._frame()) is not None:
            flags, body = frame
            if flags & _COMMAND:
                continue
            self._frames.append(body)
            if not flags & _MORE:
                found.append(self._frames)
                self._frames = []
        return found

    def _frame(self) -> tuple[int, bytes] | None:
        if not self._octets:
            return None
        flags = self._octets[0]
        head = 9 if flags & _LONG else 2
        if len(self._octets) < head:
            return None
        end = head + int.from_bytes(self._octets[1:head], "big")
        if len(self._octets) < end:
            return None
        body = bytes(self._octets[head:end])
        del self._octets[:end]
        return flags, body
