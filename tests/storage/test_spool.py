"""The spool on disk: its octets against docs/spool-format.md, what was cut off, what is damaged."""

from __future__ import annotations

import os
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from storage import bare, batch_body, spool
from storage.database import StorageError
from storage.group import Group, Received
from storage.spool import Spool, SpoolFullError
from telemetry.counts import Counts, ListenerCounts
from telemetry.readings import Readings
from tests.storage.handing import enveloped
from tests.storage.test_writer import NOW, readings

PLACE = "postgresql+psycopg://u@h/d"
HEADER, BATCH = 24, 24


def body(number: int, readings: int = 3) -> bytes:
    """Octets that begin with a count, as the handover's do; the rest is told by the number."""
    rest = np.random.default_rng(number).bytes(40 * readings)
    return struct.pack("<I", readings) + rest


def fill(data: Path, count: int, readings: int = 3) -> list[tuple[int, bytes]]:
    """What one writer's life leaves in the spool."""
    spool = Spool(data, PLACE)
    kept = []
    for _ in range(count):
        number = spool.number()
        spool.append(number, body(number, readings), readings)
        kept.append((number, body(number, readings)))
    spool.close()
    return kept


def drain(spool: Spool) -> list[tuple[int, bytes]]:
    drained = []
    while (first := spool.first()) is not None:
        drained.append(first)
        spool.drained(first[0])
    return drained


def segments(data: Path) -> list[Path]:
    return sorted((data / "spool").glob("*.spool"))


def test_the_octets_are_those_of_the_document(tmp_path: Path) -> None:
    kept = fill(tmp_path, 2)
    state = (tmp_path / "spool/state").read_bytes()
    own, generation, database = struct.unpack("<3Q", state[8:])
    assert state[:8] == b"WBS1" + struct.pack("<I", zlib.crc32(state[8:]))
    assert (generation, database) == (1, 0)
    first = (1 << 40) + 1
    (path,) = segments(tmp_path)
    assert path.name == "0000010000000001.spool"
    rest = struct.pack("<QQ", own, first)
    expected = b"WBP2" + struct.pack("<I", zlib.crc32(rest)) + rest
    for number, octets in kept:
        rest = struct.pack("<QII", number, len(octets), zlib.crc32(octets))
        checksum = zlib.crc32(struct.pack("<Q", own) + rest)
        expected += b"WBPR" + struct.pack("<I", checksum) + rest + octets
    assert path.read_bytes() == expected
    assert [number for number, _ in kept] == [first, first + 1]


def test_what_is_kept_comes_back_in_order(tmp_path: Path) -> None:
    kept = [pair for _ in range(3) for pair in fill(tmp_path, 4)]
    spool = Spool(tmp_path, PLACE)
    assert spool.waiting == 36
    number = spool.number()
    spool.append(number, body(number), 3)  # behind what the others left
    assert number == (4 << 40) + 1
    assert drain(spool) == [*kept, (number, body(number))]
    assert (spool.waiting, spool.octets, segments(tmp_path)) == (0, 0, [])
    number = spool.number()
    spool.append(number, body(number), 3)
    assert drain(spool) == [(number, body(number))]
    spool.close()


@pytest.mark.parametrize("has", range(9))
def test_what_the_database_has_is_left_out(tmp_path: Path, has: int) -> None:
    kept = fill(tmp_path, 4) + fill(tmp_path, 4)
    spool = Spool(tmp_path, PLACE)
    spool.opened(kept[has - 1][0] if has else 0)
    assert spool.waiting == 3 * (8 - has)
    assert [spool.has(number) for number, _ in kept] == [n < has for n in range(8)]
    assert drain(spool) == kept[has:]
    spool.close()


def test_segments_end_and_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "_SEGMENT", 500)
    kept = fill(tmp_path, 20)
    assert len(segments(tmp_path)) == 5
    again = Spool(tmp_path, PLACE)
    for left in range(5, 0, -1):
        assert len(segments(tmp_path)) == left
        for _ in range(4):
            assert again.first() == kept.pop(0)
            again.drained(again.number() if not kept else kept[0][0] - 1)
    assert (again.waiting, again.octets, segments(tmp_path)) == (0, 0, [])


def test_it_knows_the_database_that_was_opened(tmp_path: Path) -> None:
    assert not Spool(tmp_path, PLACE).known
    first = Spool(tmp_path, PLACE)
    first.opened(0)
    assert first.known
    assert Spool(tmp_path, PLACE).known
    assert not Spool(tmp_path, PLACE + "2").known


def test_a_batch_of_counts_alone_is_kept(tmp_path: Path) -> None:
    spool = Spool(tmp_path, PLACE)
    assert spool.empty
    number = spool.number()
    spool.append(number, body(number, 0), 0)
    assert (spool.waiting, spool.empty) == (0, False)
    spool.close()
    again = Spool(tmp_path, PLACE)
    assert (again.waiting, again.empty) == (0, False)
    assert drain(again) == [(number, body(number, 0))]
    assert again.empty


# What is in it


def three_readings() -> Readings:
    return readings([("a", NOW, 1), ("a", NOW + 1, 2), ("b", NOW, 3)])


def test_a_group_is_kept_as_the_document_says(tmp_path: Path) -> None:
    own = three_readings()
    counts = Counts([ListenerCounts("udp", accepted=1)])
    bodies = [batch_body.pack([(enveloped(own), own)]), batch_body.pack([], counts)]
    names = [b"r" * 16, b"r" + bytes(15)]
    batches = [
        Received(name, number, octets, batch_body.unpack(octets))
        for name, number, octets in zip(names, (7, 2**64 - 1), bodies, strict=True)
    ]
    group = Group(NOW, batches)
    octets = group.pack()
    assert octets == b"".join(
        (
            struct.pack("<IIq", 3, 2, NOW),
            struct.pack("<16sQI", names[0], 7, len(bodies[0])),
            struct.pack("<16sQI", names[1], 2**64 - 1, len(bodies[1])),
            *bodies,
        )
    )
    spool = Spool(tmp_path, PLACE)
    spool.append(spool.number(), octets, group.readings)
    first = spool.first()
    assert first
    again = Group.unpack(first[1], spool.version)
    assert again.arrived_ms == NOW
    assert again.numbers() == group.numbers() == {names[0]: 7, names[1]: 2**64 - 1}
    assert again.pack() == octets
    assert again.counts == [counts]
    assert again.contents.value.tolist() == [1, 2, 3]
    assert again.contents.envelopes.count.tolist() == [2, 1]
    # Of each receiver only what is not committed yet.
    assert [one.number for one in again.new(lambda _: 7).batches] == [2**64 - 1]
    assert again.new(lambda _: 6) is again
    spool.close()


def test_a_spool_of_an_earlier_wattbus(tmp_path: Path) -> None:
    """Its segments begin with WBP1, and its batches are bare readings."""
    (number,) = [number for number, _ in fill(tmp_path, 1)]
    own = bare.pack(three_readings())
    (path,) = segments(tmp_path)
    name = path.read_bytes()[8:HEADER]
    rest = struct.pack("<QII", number, len(own), zlib.crc32(own))
    head = b"WBPR" + struct.pack("<I", zlib.crc32(name[:8] + rest)) + rest
    path.write_bytes(b"WBP1" + struct.pack("<I", zlib.crc32(name)) + name + head + own)
    spool = Spool(tmp_path, PLACE)
    assert spool.waiting == 3
    following = spool.number()
    spool.append(following, body(following), 3)
    assert spool.first() == (number, own)
    group = Group.unpack(own, spool.version)
    assert spool.version == 1
    assert group.new(lambda _: 100) is group  # it has no number of a receiver's
    assert group.numbers() == {}
    assert group.contents.value.tolist() == [1, 2, 3]
    assert group.contents.envelopes.count.tolist() == [2, 1]
    spool.drained(number)
    assert spool.version == 2
    spool.close()


# Cut off


def test_cut_off_anywhere(tmp_path: Path) -> None:
    """Every length that a crash may leave: whole batches come back, the rest is left out."""
    kept = fill(tmp_path / "whole", 3)
    (path,) = segments(tmp_path / "whole")
    octets = path.read_bytes()
    size = BATCH + len(body(0))
    assert len(octets) == HEADER + 3 * size
    for length in range(len(octets)):
        data = tmp_path / "cut"
        shutil.copytree(tmp_path / "whole", data)
        os.truncate(segments(data)[0], length)
        spool = Spool(data, PLACE)
        whole = max(0, length - HEADER) // size
        assert drain(spool) == kept[:whole], length
        spool.close()
        shutil.rmtree(data)


@pytest.mark.parametrize("zeros", [1, 10, 24, 100, 5000])
def test_a_last_batch_whose_octets_never_came(tmp_path: Path, zeros: int) -> None:
    """A file system may have the length of a write and not its octets."""
    kept = fill(tmp_path, 3)
    with segments(tmp_path)[0].open("ab") as file:
        file.write(bytes(zeros))
    later = fill(tmp_path, 2)
    assert drain(Spool(tmp_path, PLACE)) == kept + later


# Damaged


def refusal(data: Path) -> str:
    with pytest.raises(StorageError) as error:
        Spool(data, PLACE)
    return str(error.value)


def test_a_flipped_bit_anywhere_but_in_the_last_batch(tmp_path: Path) -> None:
    fill(tmp_path, 3)
    (path,) = segments(tmp_path)
    octets = path.read_bytes()
    last = len(octets) - BATCH - len(body(0))
    for at in range(last):
        damaged = bytearray(octets)
        damaged[at] ^= 1 << at % 8
        path.write_bytes(damaged)
        said = refusal(tmp_path)
        size = BATCH + len(body(0))
        begins = 0 if at < HEADER else HEADER + (at - HEADER) // size * size
        assert said.startswith(f"{path} is damaged at octet {begins}: restore the file, or "), at
    path.write_bytes(octets)
    assert len(drain(Spool(tmp_path, PLACE))) == 3


def test_a_segment_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "_SEGMENT", 500)
    fill(tmp_path, 20)
    paths = segments(tmp_path)
    paths[2].rename(tmp_path / "away")
    assert f"{paths[1]} is damaged, or a file behind it is gone" in refusal(tmp_path)
    (tmp_path / "away").rename(paths[2])
    os.truncate(paths[2], 300)  # not the writer's last: it was whole once
    assert f"{paths[2]} is damaged" in refusal(tmp_path)


def test_a_state_that_is_damaged_or_gone(tmp_path: Path) -> None:
    fill(tmp_path, 1)
    state = tmp_path / "spool/state"
    octets = state.read_bytes()
    for damaged in (b"", octets[:-1], octets + b"x", octets[:9] + b"\xff" + octets[10:]):
        state.write_bytes(damaged)
        assert refusal(tmp_path).startswith(f"{state} is damaged: restore it")
    state.unlink()
    assert "holds batches but no state" in refusal(tmp_path)


def test_damage_that_comes_while_it_drains(tmp_path: Path) -> None:
    fill(tmp_path, 3)
    opened = Spool(tmp_path, PLACE)
    (path,) = segments(tmp_path)
    octets = bytearray(path.read_bytes())
    octets[HEADER + BATCH + 7] ^= 1
    path.write_bytes(octets)
    with pytest.raises(StorageError, match=f"damaged at octet {HEADER}"):
        opened.first()
    path.unlink()
    with pytest.raises(StorageError, match=r"cannot read .*No such file"):
        opened.first()


# Full


def test_it_takes_no_more_than_it_may(tmp_path: Path) -> None:
    spool = Spool(tmp_path, PLACE, most=1000)
    numbers = [spool.number() for _ in range(7)]
    for number in numbers[:6]:
        spool.append(number, body(number), 3)
    with pytest.raises(SpoolFullError, match=r"the spool in .* is full"):
        spool.append(numbers[6], body(numbers[6]), 3)
    assert spool.octets <= 1000 + BATCH
    assert spool.octets == sum(path.stat().st_size for path in segments(tmp_path))
    assert [found for found, _ in drain(spool)] == numbers[:6]
    spool.append(numbers[6], body(numbers[6]), 3)
    assert [found for found, _ in drain(spool)] == numbers[6:]


def test_a_disk_that_fails_in_the_middle_of_a_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path, PLACE)
    numbers = [spool.number() for _ in range(3)]
    spool.append(numbers[0], body(numbers[0]), 3)
    monkeypatch.setattr(os, "fdatasync", _no_space)
    for _ in range(3):
        with pytest.raises(SpoolFullError, match=r"cannot write to .*No space left"):
            spool.append(numbers[1], body(numbers[1]), 3)
    monkeypatch.undo()
    for number in numbers[1:]:
        spool.append(number, body(number), 3)
    spool.close()
    assert spool.waiting == 9
    expected = [(number, body(number)) for number in numbers]
    again = Spool(tmp_path, PLACE)  # which may find twice what did not seem to be durable
    assert drain(again) == expected


def _no_space(_fd: int) -> None:
    raise OSError(28, "No space left on device")
