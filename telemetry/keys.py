"""The keys of all meters, looked up for many datagrams at once (docs/wire-format.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Self

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from telemetry.meter_id import from_halves
from telemetry.meter_index import UNKNOWN, MeterIndex
from telemetry.readings import Bytes, Int64s, UInt64s
from telemetry.security import acknowledgement_key, derive

NEVER = 2**63 - 1  # a key without an end
# A cipher takes 2.4 KiB, and 1 to 2 us to make again; a key for acknowledgements 0.2 KiB.
MOST_CIPHERS = 16_384
MOST_ACKNOWLEDGEMENT_KEYS = 65_536


class KeyRing:
    """The keys of all meters, as they are at one time. Not thread-safe.

    The columns have shape (n,), a row a key: the halves of its meter, its id from 1 to 255, until
    when it is valid (ms of Unix time) and its 16 octets, None where they are derived from
    ``master``. No meter has two of one id. ``created_ms`` says since when there are keys;
    ``authentication`` has, by row, the second halves of keys of DLMS meters that have one.
    """

    def __init__(
        self,
        high: UInt64s,
        low: UInt64s,
        key_id: Bytes,
        until_ms: Int64s,
        secrets: Sequence[bytes | None],
        master: bytes | None,
        created_ms: Int64s | None = None,
        authentication: Mapping[int, bytes] | None = None,
    ) -> None:
        self._high, self._low, self._key_id, self._until = high, low, key_id, until_ms
        self._secrets, self._master = secrets, master
        self._created = np.zeros(len(high), np.int64) if created_ms is None else created_ms
        self._authentication = authentication or {}
        pairs = np.stack([high, low], axis=1)
        owners, of_key = np.unique(pairs, axis=0, return_inverse=True)
        self._owners, self._of_key = owners, of_key.reshape(-1)
        self._meters, self._keys = MeterIndex(), MeterIndex()
        self._meters.add(owners[:, 0], owners[:, 1], np.arange(len(owners), dtype=np.int64))
        self._keys.add(
            self._of_key.astype(np.uint64),
            key_id.astype(np.uint64),
            np.arange(len(high), dtype=np.int64),
        )
        # Made when first needed; what is not needed for long makes room.
        self.cipher = lru_cache(MOST_CIPHERS)(self._cipher)
        self.acknowledgement_key = lru_cache(MOST_ACKNOWLEDGEMENT_KEYS)(self._acknowledgement_key)

    @classmethod
    def empty(cls) -> Self:
        """No meter has a key."""
        none = np.empty(0, np.uint64)
        return cls(none, none, np.empty(0, np.uint8), np.empty(0, np.int64), [], None)

    def __len__(self) -> int:
        return len(self._secrets)

    def meters(self, high: UInt64s, low: UInt64s) -> Int64s:
        """The ring's own numbers of n meters, UNKNOWN for those without any key, valid or not."""
        return self._meters.find(high, low)

    def owner(self, meter: int) -> tuple[int, int]:
        """The halves of the meter with this number."""
        high, low = self._owners[meter].tolist()
        return high, low

    def keys(self, meters: Int64s, key_id: Bytes) -> Int64s:
        """The rows of the keys of these ids; UNKNOWN where the meter is, or has none of the id."""
        return self._keys.find(meters.astype(np.uint64), key_id.astype(np.uint64))

    def expired(self, rows: Int64s, now_ms: int) -> npt.NDArray[np.bool_]:
        """Which of the keys are no longer valid; False of UNKNOWN."""
        if not len(self):
            return np.zeros(len(rows), np.bool_)
        over: npt.NDArray[np.bool_] = (rows != UNKNOWN) & (self._until[rows] <= now_ms)
        return over

    def of_meter(self, meter: int) -> list[int]:
        """The rows of all keys of the meter with this number, those that end last first."""
        order, starts = self._by_meter
        rows = order[starts[meter] : starts[meter + 1]]
        newest = np.lexsort((-self._created[rows], -self._until[rows]))
        found: list[int] = rows[newest].tolist()
        return found

    def epoch(self, row: int) -> int:
        """The second of Unix time in which the key was made: it numbers the keys of a meter."""
        return int(self._created[row]) // 1000 & 0xFFFFFFFF

    def authentication(self, row: int) -> bytes | None:
        """The authentication key that goes with a key; None if it has none."""
        return self._authentication.get(row)

    @cached_property
    def _by_meter(self) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Rows in the order of their meters, and where those of each begin."""
        order = np.argsort(self._of_key, kind="stable")
        starts = np.searchsorted(self._of_key[order], np.arange(len(self._owners) + 1))
        return order, starts

    def secret(self, row: int) -> bytes:
        """The 16 octets of a key. Raises ValueError where there is no master to derive it from."""
        secret = self._secrets[row]
        if secret is not None:
            return secret
        if self._master is None:
            raise ValueError("a derived key without a master key")
        octets = from_halves(int(self._high[row]), int(self._low[row]))
        return derive(self._master, octets, int(self._key_id[row]))

    def _cipher(self, row: int) -> AESGCM:
        return AESGCM(self.secret(row))

    def _acknowledgement_key(self, row: int) -> bytes:
        return acknowledgement_key(self.secret(row))
