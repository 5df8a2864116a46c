"""The keys of a simulated fleet: read from text, and put to use on its datagrams.

A key belongs to one meter: two meters that shared one would use its nonces twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from telemetry.readings import Bytes
from telemetry.security import KEY, acknowledgement_key, seal


class FleetKeys:
    """Signs a fleet's datagrams, or none of them where there are no keys.

    ``secrets`` are of each meter in the fleet's order, or empty. ``acknowledgement`` has the keys
    by place that answers are signed with. Without ``encrypt`` the records stay legible.
    """

    def __init__(self, secrets: Sequence[bytes], key_id: int, *, encrypt: bool):
        self._key_id, self._encrypt = key_id, encrypt
        self._ciphers = [AESGCM(secret) for secret in secrets]
        self.acknowledgement: Mapping[int, bytes] = {
            place: acknowledgement_key(secret) for place, secret in enumerate(secrets)
        }

    def datagrams(self, rows: Bytes) -> list[bytes]:
        """The rows, of shape (n, octets) and a meter each, as they are to be sent."""
        plain = [row.tobytes() for row in rows]
        if not self._ciphers:
            return plain
        return [
            seal(datagram, self._key_id, cipher, encrypt=self._encrypt)
            for datagram, cipher in zip(plain, self._ciphers, strict=True)
        ]


def parse_key(text: str) -> bytes:
    """A key as it is written: 32 hexadecimal digits. ValueError says what is wrong."""
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != KEY:
        # Not repeated in the message: it would stand in logs.
        raise ValueError(
            f"this is no key: {2 * KEY} hexadecimal digits, as wattbus meters add shows them"
        )
    return key


_TITLES = ["id", "key_id", "key"]  # of what ``wattbus meters add --file`` writes


def parse_keys(text: str, ids: Sequence[str], key_id: int) -> list[bytes]:
    """The keys of the meters with these ids, in their order.

    The text is one key for one meter, or lines of a meter's id and its key, or the CSV that
    ``wattbus meters add --file`` writes; lines of other meters are passed over. ValueError says
    what is wrong.
    """
    lines = [line.replace(",", " ").split() for line in text.splitlines() if line.strip()]
    if len(ids) == 1 and len(lines) == 1 and len(lines[0]) == 1:
        return [parse_key(lines[0][0])]
    found: dict[str, bytes] = {}
    wanted = set(ids)
    for number, words in enumerate(lines, 1):
        if words == _TITLES or words[0] not in wanted:
            continue
        if len(words) not in (2, 3):
            raise ValueError(f"line {number}: write a meter's id and its key, a space between them")
        if len(words) == 3 and words[1] != str(key_id):
            raise ValueError(f"line {number}: this is key {words[1]}: give --key-id {words[1]}")
        try:
            found[words[0]] = parse_key(words[-1])
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
    if missing := [name for name in ids if name not in found]:
        raise ValueError(f"there is no key of {missing[0]}: each meter needs a key of its own")
    keys = [found[name] for name in ids]
    if len(set(keys)) < len(keys):
        raise ValueError("two meters have the same key: each needs one of its own")
    return keys
