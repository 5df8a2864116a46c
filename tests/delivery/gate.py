"""The gate: nobody is told that something is durable before it was synced (docs/delivery.md).

Read from system calls: what came in, what was committed to the log or the spool, when that was
synced, and who was told what.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from telemetry.formats import ack, native
from tests.delivery.trace import Call
from tests.delivery.zmtp import Messages

_FRAME = struct.Struct(">II16x")  # of SQLite's log: the page, and the pages after a commit or 0
_SPOOLED, _SPOOL = b"WBPR", b"WBP2"
_NUMBER = struct.Struct("<Q")
_NATIVE = struct.Struct("<BBxx16sII")
_ACK = struct.Struct("<BBxx16sIIQ")
_RECEIVING = {"recvfrom", "recvmsg", "recvmmsg"}
_SENDING = {"sendto", "sendmsg", "sendmmsg"}
_NEVER = 1 << 62

Item = tuple[str, int] | tuple[bytes, int, int]  # a connection's batch; a meter's datagram


@dataclass(slots=True)
class Commit:
    """One commit, by lines of the trace: from its first write to the end of the sync after it."""

    file: str
    first: int
    last: int
    sync_begun: int = _NEVER
    synced: int = _NEVER


@dataclass(frozen=True, slots=True)
class Told:
    """Somebody is told, from this line on, that an item is durable, which came before a line."""

    item: Item
    at: int
    came: int | None


def commits(calls: list[Call]) -> list[Commit]:
    """The commits to SQLite's log and to the spool's segments, in their order."""
    found: list[Commit] = []
    writing: dict[str, Commit] = {}  # what was not committed yet
    unsynced: dict[str, list[Commit]] = {}
    ending: set[str] = set()  # the log's next write is a commit's last page
    for call in calls:
        file = call.target
        if not file.endswith(("-wal", ".spool")) or call.deleted:
            continue
        if call.name in ("write", "pwrite64"):
            octets = call.start
            current = writing.setdefault(file, Commit(file, call.entered, call.left))
            current.last = call.left
            if file.endswith(".spool"):
                done = not octets.startswith(_SPOOL)
            else:
                done = file in ending
                ending.discard(file)
                if call.result == _FRAME.size and _FRAME.unpack(octets)[1]:
                    ending.add(file)
            if done:
                found.append(writing.pop(file))
                unsynced.setdefault(file, []).append(found[-1])
        elif call.name in ("fsync", "fdatasync") and call.result == 0:
            for commit in unsynced.get(file, []):
                if commit.last < call.entered:
                    commit.sync_begun, commit.synced = call.entered, call.left
            unsynced[file] = [one for one in unsynced.get(file, []) if one.synced == _NEVER]
    return found


def told(calls: list[Call]) -> list[Told]:
    """Whom the programs told first that what is durable: receivers and meters."""
    came: dict[Item, int] = {}
    known: set[Item] = set()
    found: list[Told] = []
    streams: dict[tuple[str, bool], Messages] = {}
    # What was received is known when the call is left, what is sent from when it is entered.
    moments = sorted(
        [(call.left, call) for call in calls if call.name in _RECEIVING]
        + [(call.entered, call) for call in calls if call.name in _SENDING],
        key=lambda moment: moment[0],
    )
    for line, call in moments:
        if call.result is not None and call.result <= 0:
            continue
        sending = call.name in _SENDING
        for item in _items(call, sending, streams, came):
            if not sending:
                came.setdefault(item, line)
            elif item not in known:
                known.add(item)
                found.append(Told(item, line, came.get(item)))
    return found


def _items(
    call: Call, sending: bool, streams: dict[tuple[str, bool], Messages], came: dict[Item, int]
) -> Iterator[Item]:
    """What comes in with a call, or is called durable by one."""
    if call.target.startswith("UNIX"):
        stream = streams.setdefault((call.target, sending), Messages())
        for kind, *frames in stream.feed(call.octets[: call.result]):
            if not sending and kind == b"batch":
                yield call.target, *_NUMBER.unpack(frames[0])
            elif sending and kind == b"committed":
                (last,) = _NUMBER.unpack(frames[0])
                numbers = [item[1] for item in came if item[0] == call.target]
                yield from ((call.target, number) for number in numbers if number <= last)
                if last not in numbers:
                    yield call.target, last
    elif call.target.startswith("UDP"):
        for datagram in call.messages if call.name.endswith("mmsg") else [call.octets]:
            if sending:
                yield from _acknowledged(datagram, came)
            elif datagram[:1] == bytes([native.MAGIC]) and len(datagram) >= _NATIVE.size:
                yield _NATIVE.unpack_from(datagram)[2:]


def _acknowledged(datagram: bytes, came: dict[Item, int]) -> Iterator[Item]:
    if datagram[:1] != bytes([ack.MAGIC]):
        return
    _, _, meter, epoch, following, bitmap = _ACK.unpack_from(datagram)
    named = {following + 1 + bit for bit in range(64) if bitmap >> bit & 1}
    sequences = [item[2] for item in came if len(item) == 3 and item[:2] == (meter, epoch)]
    named |= {sequence for sequence in sequences if sequence < following}
    yield from ((meter, epoch, sequence) for sequence in sorted(named))


def violations(calls: list[Call]) -> list[str]:
    """Whoever was told too early; what each needs is a commit, synced, since the item came."""
    synced = sorted(
        (commit for commit in commits(calls) if commit.synced < _NEVER),
        key=lambda commit: commit.synced,
    )
    found = []
    for said in told(calls):
        who = "a receiver" if isinstance(said.item[0], str) else "a meter"
        if said.came is None:
            found.append(f"line {said.at + 1}: {who} is told of {said.item}, which never came")
            continue
        if not any(c.first > said.came and c.synced < said.at for c in synced):
            found.append(
                f"line {said.at + 1}: {who} is told that {said.item} is durable, but nothing was "
                f"committed and synced since it came (line {said.came + 1})"
            )
    return found
