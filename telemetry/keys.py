"""The keys of all meters, as columns."""

from __future__ import annotations

from telemetry.readings import Bytes, Int64s, UInt64s

NEVER = 2**63 - 1


class KeyRing:
    """Which keys there are: row by row the meter, the key id, until when, the secret.

    All of shape (n,); ``until_ms`` is NEVER for a key that does not end. A secret that is None is
    derived from ``master``.
    """

    def __init__(
        self,
        high: UInt64s,
        low: UInt64s,
        key_id: Bytes,
        until_ms: Int64s,
        secrets: list[bytes | None],
        master: bytes | None,
    ) -> None:
        self.high, self.low, self.key_id, self.until_ms = high, low, key_id, until_ms
        self.secrets, self.master = secrets, master
