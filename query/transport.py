"""Frames, codecs and errors of the query bus (docs/bus-protocol.md)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec

from query.messages import AnyReply, AnyRequest

LONGEST_MESSAGE = 16 * 1024 * 1024
LONGEST_REQUEST = 64 * 1024

Message = TypeVar("Message")


class BusError(Exception):
    """What the service, or the way to it, answered instead of a reply; see the table of codes."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class ServiceAwayError(BusError):
    """No answer came in time, after all tries."""

    def __init__(self, endpoint: str, seconds: float) -> None:
        super().__init__(
            "away",
            f"no answer from {endpoint} within {seconds:g} s: is `wattbus serve` running there?",
        )


class Codec(Generic[Message]):
    """Encodes anything and decodes one union of messages, in the header's encoding."""

    def __init__(self, union: Any) -> None:
        self.decoders: dict[bytes, Callable[[bytes], Message]] = {
            MSGPACK: msgspec.msgpack.Decoder(union).decode,
            JSON: msgspec.json.Decoder(union).decode,
        }

    def decode(self, header: bytes, body: bytes) -> Message:
        """The message; raises msgspec.MsgspecError, or KeyError for an unknown header."""
        return self.decoders[header](body)


# The first frame: protocol and version, then the encoding of the second.
MSGPACK = b"WB1m"
JSON = b"WB1j"
ENCODERS: dict[bytes, Callable[[Any], bytes]] = {
    MSGPACK: msgspec.msgpack.Encoder().encode,
    JSON: msgspec.json.Encoder().encode,
}
REQUESTS: Codec[AnyRequest] = Codec(AnyRequest)
REPLIES: Codec[AnyReply] = Codec(AnyReply)
