"""What a DLMS/COSEM push is wrapped in: wrapper, blocks, cipher, notification.

IEC 62056-4-7 has the wrapper, IEC 62056-5-3 the rest; ``docs/formats.md`` draws the octets. Nothing
here decides who may come in.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR, GCM

from telemetry.formats.dlms_axdr import Cursor, Datum, damaged
from telemetry.rejects import Reason, RejectedError

WRAPPER = 8
VERSION = b"\x00\x01"
NOTIFICATION, GLOBAL, BLOCK = 0x0F, 0xDB, 0xE0
# general-ded-ciphering, general-ciphering, general-signing: their keys are agreed upon elsewhere.
OTHER_CIPHERS = (0xDC, 0xDD, 0xDF)
_PUSHES = (NOTIFICATION, GLOBAL, BLOCK, *OTHER_CIPHERS)
AUTHENTICATED, ENCRYPTED = 0x10, 0x20
TITLE, TAG = 8, 12
_DATE_TIME = 12
_LAST = 0x80


class Frame(NamedTuple):
    """A frame of the wrapper: the ports of the logical devices, and what it carries."""

    source: int
    destination: int
    apdu: bytes


class Block(NamedTuple):
    """A block of a general block transfer, numbered from 1."""

    number: int
    last: bool
    octets: bytes


class Sealed(NamedTuple):
    """What is ciphered with a global key; ``control`` says how, ``counter`` is the invocation's."""

    title: bytes
    control: int
    counter: int
    octets: bytes


class Notification(NamedTuple):
    """A data-notification; ``date_time`` has 12 octets, or none where it tells none."""

    invoke_id: int
    date_time: bytes
    body: Datum


def frames(datagram: bytes) -> Iterator[Frame]:
    """The frames of a datagram, one after the other. Raises RejectedError at the first bad one."""
    cursor = Cursor(datagram)
    while True:
        if datagram[cursor.at : cursor.at + 2] != VERSION:
            raise RejectedError(Reason.MALFORMED if cursor.at else Reason.FOREIGN)
        cursor.take(2)
        first = cursor.at == len(VERSION)
        source, destination, length = (cursor.unsigned(2) for _ in range(3))
        if first and cursor.left() and datagram[cursor.at] not in _PUSHES:
            raise RejectedError(Reason.FOREIGN)  # whatever its length says
        if not length:
            raise damaged()
        yield Frame(source, destination, cursor.take(length))
        if not cursor.left():
            return


def block(apdu: bytes) -> Block:
    """A block of a general block transfer."""
    cursor = Cursor(apdu)
    cursor.take(1)
    control, number, _ = cursor.unsigned(1), cursor.unsigned(2), cursor.unsigned(2)
    octets = cursor.take(cursor.length())
    if cursor.left() or not number:
        raise damaged()
    return Block(number, bool(control & _LAST), octets)


def sealed(apdu: bytes) -> Sealed:
    """What general-glo-ciphering carries, still closed."""
    cursor = Cursor(apdu)
    cursor.take(1)
    title = cursor.take(cursor.length())
    inner = Cursor(cursor.take(cursor.length()))
    if cursor.left() or len(title) != TITLE:
        raise damaged()
    control, counter = inner.unsigned(1), inner.unsigned(4)
    rest = inner.take(inner.left())
    # Suite 0 only, no broadcast key, no compression, and something must protect it.
    if control & ~(AUTHENTICATED | ENCRYPTED) or not control:
        raise RejectedError(Reason.FLAGS)
    if len(rest) < (TAG if control & AUTHENTICATED else 0) + 1:
        raise damaged()
    return Sealed(title, control, counter, rest)


def opened(found: Sealed, key: bytes, authentication: bytes | None) -> bytes | None:
    """What is inside, by the encryption key and the authentication key; None: the tag is wrong.

    What is only encrypted has no tag: then any key opens it, into nonsense unless it is the right
    one. What has a tag is never opened without an authentication key.
    """
    nonce = found.title + found.counter.to_bytes(4)
    if not found.control & AUTHENTICATED:
        reader = Cipher(AES(key), CTR(nonce + b"\0\0\0\2")).decryptor()
        return reader.update(found.octets)
    if authentication is None:
        return None
    octets, tag = found.octets[:-TAG], found.octets[-TAG:]
    opener = Cipher(AES(key), GCM(nonce, tag, min_tag_length=TAG)).decryptor()
    opener.authenticate_additional_data(bytes([found.control]) + authentication)
    encrypted = found.control & ENCRYPTED
    if not encrypted:
        opener.authenticate_additional_data(octets)
    try:
        clear = opener.update(octets) if encrypted else octets
        opener.finalize()
    except InvalidTag:
        return None
    return clear


def notification(apdu: bytes) -> Notification:
    """A data-notification, whole: what follows its body makes it damaged."""
    cursor = Cursor(apdu)
    cursor.take(1)
    invoke_id = cursor.unsigned(4)
    length = cursor.unsigned(1)
    # Kaifa's Norwegian lists put an octet string's tag before the length.
    if length == 0x09 and apdu[cursor.at : cursor.at + 1] == b"\x0c":
        length = cursor.unsigned(1)
    if length not in (0, _DATE_TIME):
        raise damaged()
    date_time = cursor.take(length)
    body = cursor.datum()
    if cursor.left():
        raise damaged()
    return Notification(invoke_id, date_time, body)
