"""Keys and what they do to a native datagram (docs/wire-format.md, docs/security.md)."""

from __future__ import annotations

import hashlib

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY = 16  # octets of a meter's key
MASTER = 32  # octets of the master key
TAG = 16
_HEADER = 40  # octets of the native header
_NONCE, _NONCE_END = slice(20, 28), bytes(4)  # its epoch and sequence
_ENCRYPTED = 0x02
_FLAGS, _KEY_ID = 2, 3


def derive(master: bytes, octets: bytes, key_id: int) -> bytes:
    """The key of this id of the meter with these 16 octets, from the master key."""
    return hashlib.blake2b(
        octets + bytes([key_id]), key=master, person=b"wattbus meter", digest_size=KEY
    ).digest()


def acknowledgement_key(key: bytes) -> bytes:
    """The key that signs what is sent to the meter whose key this is."""
    return hashlib.blake2b(key=key, person=b"wattbus ack", digest_size=KEY).digest()


def sign_acknowledgement(octets: bytes, acknowledgement_key: bytes) -> bytes:
    """The tag of an acknowledgement; a MAC (RFC 7693), which needs no nonce."""
    return hashlib.blake2b(octets, key=acknowledgement_key, digest_size=TAG).digest()


def seal(datagram: bytes, key_id: int, key: AESGCM, *, encrypt: bool = True) -> bytes:
    """Sign an unsigned native datagram, and encrypt its records.

    Never for two datagrams of one key, epoch and sequence: AES-GCM's nonce is made of these.
    """
    header = bytearray(datagram[:_HEADER])
    header[_KEY_ID] = key_id
    header[_FLAGS] |= _ENCRYPTED if encrypt else 0
    nonce, head, records = _nonce(header), bytes(header), datagram[_HEADER:]
    if encrypt:
        return head + key.encrypt(nonce, records, head)
    return head + records + key.encrypt(nonce, b"", head + records)


def unseal(datagram: bytes, key: AESGCM) -> bytes | None:
    """The octets of a signed datagram without its tag, its records in clear; None: forged."""
    header = datagram[:_HEADER]
    try:
        if header[_FLAGS] & _ENCRYPTED:
            return header + key.decrypt(_nonce(header), datagram[_HEADER:], header)
        key.decrypt(_nonce(header), datagram[-TAG:], datagram[:-TAG])
    except InvalidTag:
        return None
    return datagram[:-TAG]


def _nonce(header: bytes | bytearray) -> bytes:
    return bytes(header[_NONCE]) + _NONCE_END
