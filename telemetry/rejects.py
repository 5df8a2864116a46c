"""Why a datagram is refused: the reasons that docs/wire-format.md lists and status counts."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """One reason a datagram; the first check that fails names it."""

    FOREIGN = "foreign"
    SHORT = "short"
    OVERSIZED = "oversized"
    VERSION = "version"
    FLAGS = "flags"
    COUNT = "count"
    METER_ID = "meter_id"
    NOT_ALLOWED = "not_allowed"
    UNSIGNED = "unsigned"
    UNKNOWN_KEY = "unknown_key"
    EXPIRED = "expired"
    FORGED = "forged"
    REGISTER = "register"
    VALUE = "value"
    MALFORMED = "malformed"
    TYPE = "type"
    TIME = "time"
    DUPLICATE = "duplicate"
    NO_READING = "no_reading"
    REPLAYED = "replayed"
    BLOCK = "block"


class RejectedError(ValueError):
    """A datagram that a decoder refuses."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason
