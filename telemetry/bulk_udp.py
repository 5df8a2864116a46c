"""Many datagrams a system call: ``recvmmsg`` and ``sendmmsg`` of Linux, a loop where they lack."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import sys
from collections.abc import Sequence
from ctypes import POINTER, Structure, c_int, c_size_t, c_uint, c_void_p

import numpy as np
import numpy.typing as npt

from telemetry import addresses
from telemetry.datagrams import Datagrams
from telemetry.readings import Bytes, Int64s, UInt32s

_BEGINNING = 128  # octets of a datagram that lie apart from the rest, close to those of the next
# What a small datagram takes of the receive buffer: its octets rounded up, plus the sk_buff.
SMALL_DATAGRAM = 832


class _IoVec(Structure):
    _fields_ = (("base", c_void_p), ("length", c_size_t))


class _MsgHdr(Structure):
    _fields_ = (
        ("name", c_void_p),
        ("name_length", c_uint),
        ("iov", POINTER(_IoVec)),
        ("iov_length", c_size_t),
        ("control", c_void_p),
        ("control_length", c_size_t),
        ("flags", c_int),
    )


class _MMsgHdr(Structure):
    _fields_ = (("header", _MsgHdr), ("length", c_uint))


def _libc_function(name: str) -> ctypes._NamedFuncPointer | None:
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None, use_errno=True), name, None)


_RECVMMSG = _libc_function("recvmmsg")
_SENDMMSG = _libc_function("sendmmsg")


_WORD = ctypes.sizeof(c_size_t)
_WORDS = ctypes.sizeof(_MMsgHdr) // _WORD


def _vectors(
    parts: Sequence[tuple[Bytes, Int64s | int]], names: Bytes | None = None
) -> tuple[ctypes.Array[_MMsgHdr], ctypes.Array[_IoVec]]:
    """Message headers whose i-th points to the i-th rows, and address; the rest must be kept alive.

    A message is what stands in the row of the first part and goes on in that of the next; each
    part says how many octets of its rows count. ``names`` has an address for each message.
    """
    count = len(parts[0][0])
    iov = (_IoVec * (count * len(parts)))()
    headers = (_MMsgHdr * count)()
    # Written through NumPy views: a Python loop over a million rows would be felt.
    view = np.ndarray((count, len(parts), 2), np.uintp, memoryview(iov))
    for place, (rows, lengths) in enumerate(parts):
        view[:, place, 0] = _pointers(rows.ctypes.data, count, rows.strides[0])
        view[:, place, 1] = lengths
    slots = np.ndarray((count, _WORDS), np.uintp, memoryview(headers))
    of_iov = _pointers(ctypes.addressof(iov), count, ctypes.sizeof(_IoVec) * len(parts))
    slots[:, _MsgHdr.iov.offset // _WORD] = of_iov
    slots[:, _MsgHdr.iov_length.offset // _WORD] = len(parts)
    if names is not None:
        of_name = _pointers(names.ctypes.data, count, names.strides[0])
        slots[:, _MsgHdr.name.offset // _WORD] = of_name
        _column(headers, _MsgHdr.name_length.offset)[:] = addresses.lengths(names)
    return headers, iov


def _pointers(first: int, count: int, step: int) -> npt.NDArray[np.uintp]:
    return np.uintp(first) + np.arange(count, dtype=np.uintp) * np.uintp(step)


def _column(headers: ctypes.Array[_MMsgHdr], offset: int) -> UInt32s:
    """A field of all message headers."""
    return np.ndarray(
        (len(headers),), np.uint32, memoryview(headers), offset, (ctypes.sizeof(_MMsgHdr),)
    )


class BulkReceiver:
    """Takes datagrams off a non-blocking UDP socket, ``most`` at a time, ``room`` octets each."""

    def __init__(self, sock: socket.socket, most: int, room: int, *, portable: bool = False):
        self._socket = sock
        # The kernel writes the beginnings close together: most datagrams have nothing more.
        self._rows = np.zeros((most, room), np.uint8)
        self._short = min(_BEGINNING, room)
        self._beginnings = np.zeros((most, self._short), np.uint8)
        self.addresses = np.zeros((most, addresses.ROOM), np.uint8)
        """Where the i-th datagram of the last call came from, a row as in ``addresses``."""
        rest = self._rows[:, self._short :]
        self._headers, self._iov = _vectors(
            [(self._beginnings, self._short), (rest, room - self._short)], self.addresses
        )
        self._lengths = _column(self._headers, _MMsgHdr.length.offset)
        self._address_lengths = _column(self._headers, _MsgHdr.name_length.offset)
        self._address_lengths[:] = addresses.ROOM
        self._portable = portable or _RECVMMSG is None

    def receive(self) -> Datagrams:
        """What is waiting, at most ``most``; the rows are overwritten by the next call."""
        rows = self._rows
        if self._portable:
            lengths = self._one_by_one()
        else:
            lengths = self._in_bulk()
            if lengths.max(initial=0) <= self._short:
                rows = self._beginnings
            else:
                rows[: len(lengths), : self._short] = self._beginnings[: len(lengths)]
        count = len(lengths)
        return Datagrams(rows[:count], lengths, addresses.sources(self.addresses[:count]))

    def _in_bulk(self) -> Int64s:
        assert _RECVMMSG is not None
        # With MSG_TRUNC the length is what was sent, also where the row is too short for it.
        count = _RECVMMSG(
            self._socket.fileno(),
            self._headers,
            len(self._headers),
            socket.MSG_DONTWAIT | socket.MSG_TRUNC,
            None,
        )
        if count < 0:
            code = ctypes.get_errno()
            if code in (errno.EAGAIN, errno.EINTR, errno.ECONNREFUSED):
                count = 0
            else:
                raise OSError(code, os.strerror(code))
        self._address_lengths[:count] = addresses.ROOM  # the kernel wrote how long they are
        return self._lengths[:count].astype(np.int64)

    def _one_by_one(self) -> Int64s:
        lengths: list[int] = []
        for row, name in zip(self._rows, self.addresses, strict=True):
            try:
                # Without MSG_TRUNC's length (not everywhere), a full row says: perhaps longer.
                length, address = self._socket.recvfrom_into(row.data)
            except (BlockingIOError, ConnectionRefusedError):
                break
            lengths.append(length)
            name[:] = np.frombuffer(addresses.pack(address), np.uint8)
        return np.array(lengths, np.int64)


class BulkSender:
    """Sends rows of octets, a datagram each, through a UDP socket."""

    def __init__(self, sock: socket.socket, *, portable: bool = False):
        self._socket = sock
        self._portable = portable or _SENDMMSG is None

    def send(self, rows: Bytes) -> int:
        """Send the rows, of shape (n, length), in order to where the socket is connected to.

        The answer is how many the kernel took.
        Fewer than n means that the send buffer is full. Raises OSError, ConnectionRefusedError
        among them when nothing listens there.
        """
        rows = np.ascontiguousarray(rows)
        if self._portable:
            return self._one_by_one(rows)
        assert _SENDMMSG is not None
        sent = 0
        headers, _iov = _vectors([(rows, rows.shape[1])])
        while sent < len(rows):
            # One call takes at most UIO_MAXIOV messages.
            most = min(len(rows) - sent, 1024)
            count = _SENDMMSG(self._socket.fileno(), ctypes.byref(headers[sent]), most, 0)
            if count < 0:
                code = ctypes.get_errno()
                if code == errno.EAGAIN:
                    break
                raise OSError(code, os.strerror(code))
            sent += count
        return sent

    def send_to(self, rows: Bytes, lengths: Int64s, to: Bytes) -> int:
        """Send the first ``lengths`` octets of the rows to the addresses; how many were taken.

        One that cannot be sent to is left out, and so is all that finds the send buffer full.
        """
        if self._portable:
            return self._to_one_by_one(rows, lengths, to)
        assert _SENDMMSG is not None
        rows, to = np.ascontiguousarray(rows), np.ascontiguousarray(to)
        headers, _iov = _vectors([(rows, lengths)], to)
        sent = at = 0
        while at < len(rows):
            most = min(len(rows) - at, 1024)
            flags = socket.MSG_DONTWAIT
            count = _SENDMMSG(self._socket.fileno(), ctypes.byref(headers[at]), most, flags)
            if count < 0:
                if ctypes.get_errno() in (errno.EAGAIN, errno.ENOBUFS):
                    break
                at += 1  # the first of those that were left is the one that failed
            else:
                sent, at = sent + count, at + count
        return sent

    def _to_one_by_one(self, rows: Bytes, lengths: Int64s, to: Bytes) -> int:
        sent = 0
        for row, length, address in zip(rows, lengths.tolist(), to, strict=True):
            try:
                self._socket.sendto(row[:length], addresses.unpack(address.data))
            except BlockingIOError:
                break
            except OSError:
                continue
            sent += 1
        return sent

    def _one_by_one(self, rows: Bytes) -> int:
        for sent, row in enumerate(rows):
            try:
                self._socket.send(row)
            except BlockingIOError:
                return sent
        return len(rows)
