"""Many datagrams a system call: ``recvmmsg`` and ``sendmmsg`` of Linux, a loop where they lack."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import sys
from ctypes import POINTER, Structure, c_int, c_size_t, c_uint, c_void_p

import numpy as np

from telemetry.datagrams import Datagrams
from telemetry.readings import Bytes, Int64s

# Linux numbers; the kernel's DROPS is the ninth word of SO_MEMINFO (linux/sock_diag.h).
_SO_RCVBUFFORCE = 33
_SO_MEMINFO = 55
_MEMINFO_WORDS = 9
_MEMINFO_DROPS = 8
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


def _vectors(rows: Bytes) -> tuple[ctypes.Array[_MMsgHdr], ctypes.Array[_IoVec]]:
    """Message headers whose i-th points to the i-th row; the second array must be kept alive."""
    count, room = rows.shape
    iov = (_IoVec * count)()
    headers = (_MMsgHdr * count)()
    # Written through NumPy views: a Python loop over a million rows would be felt.
    view = np.frombuffer(iov, np.uintp).reshape(count, 2)
    view[:, 0] = rows.ctypes.data + np.arange(count, dtype=np.uintp) * np.uintp(rows.strides[0])
    view[:, 1] = room
    words = ctypes.sizeof(_MMsgHdr) // ctypes.sizeof(c_size_t)
    slots = np.frombuffer(headers, np.uintp).reshape(count, words)
    word = ctypes.sizeof(c_size_t)
    slots[:, _MsgHdr.iov.offset // word] = ctypes.addressof(iov) + np.arange(
        count, dtype=np.uintp
    ) * np.uintp(ctypes.sizeof(_IoVec))
    slots[:, _MsgHdr.iov_length.offset // word] = 1
    return headers, iov


class BulkReceiver:
    """Takes datagrams off a non-blocking UDP socket, ``most`` at a time, ``room`` octets each."""

    def __init__(self, sock: socket.socket, most: int, room: int, *, portable: bool = False):
        self._socket = sock
        self._rows = np.zeros((most, room), np.uint8)
        self._headers, self._iov = _vectors(self._rows)
        stride = ctypes.sizeof(_MMsgHdr)
        self._lengths = np.ndarray(
            (most,),
            np.uint32,
            memoryview(self._headers).cast("B"),
            offset=_MMsgHdr.length.offset,
            strides=(stride,),
        )
        self._portable = portable or _RECVMMSG is None

    def receive(self) -> Datagrams:
        """What is waiting, at most ``most``; the rows are overwritten by the next call."""
        lengths = self._one_by_one() if self._portable else self._in_bulk()
        return Datagrams(self._rows[: len(lengths)], lengths)

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
        return self._lengths[:count].astype(np.int64)

    def _one_by_one(self) -> Int64s:
        lengths: list[int] = []
        for row in self._rows:
            try:
                # Without MSG_TRUNC's length (not everywhere), a full row says: perhaps longer.
                lengths.append(self._socket.recv_into(row.data))
            except (BlockingIOError, ConnectionRefusedError):
                break
        return np.array(lengths, np.int64)


class BulkSender:
    """Sends rows of octets, a datagram each, through a connected UDP socket."""

    def __init__(self, sock: socket.socket, *, portable: bool = False):
        self._socket = sock
        self._portable = portable or _SENDMMSG is None

    def send(self, rows: Bytes) -> int:
        """Send the rows, of shape (n, length), in order; the answer is how many the kernel took.

        Fewer than n means that the send buffer is full. Raises OSError, ConnectionRefusedError
        among them when nothing listens there.
        """
        rows = np.ascontiguousarray(rows)
        if self._portable:
            return self._one_by_one(rows)
        assert _SENDMMSG is not None
        sent = 0
        headers, _iov = _vectors(rows)
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

    def _one_by_one(self, rows: Bytes) -> int:
        for sent, row in enumerate(rows):
            try:
                self._socket.send(row)
            except BlockingIOError:
                return sent
        return len(rows)


def ask_for_buffer(sock: socket.socket, octets: int) -> int:
    """Ask for a receive buffer of so many octets and return what the kernel gave.

    The kernel doubles what is asked for, for its own bookkeeping, and gives the doubled figure.
    """
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, octets)
    except OSError:  # not privileged, or not Linux: up to net.core.rmem_max
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, octets)
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)


def kernel_drops(sock: socket.socket) -> int | None:
    """Datagrams that the kernel dropped at this socket, modulo 2**32; None where it cannot tell."""
    size = 4 * _MEMINFO_WORDS
    try:
        words = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, size)
    except OSError:
        return None
    return int(struct.unpack(f"{_MEMINFO_WORDS}I", words)[_MEMINFO_DROPS])
