"""The simulated disk: what a power cut may leave of what programs did, and what it may not."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.delivery.disk import Disk, put
from tests.delivery.trace import parse

ROOT = Path("/d")
END = 1000
OPEN = 'openat(AT_FDCWD</>, "/d/{0}", O_RDWR|O_CREAT, 0644) = 3</d/{0}>'


def disk(*calls: str) -> Disk:
    """A disk after calls, each at the line that is its place."""
    made = Disk(parse(f"1 1.0 {call}\n" for call in calls), ROOT)
    made.advance(END)
    return made


def images(made: Disk, count: int = 300) -> list[dict[str, bytes | None]]:
    return [made.image(random.Random(seed)) for seed in range(count)]


def contents(made: Disk, name: str) -> set[bytes | None]:
    return {image[name] for image in images(made) if name in image}


def test_what_was_synced_is_there_and_the_rest_may_be() -> None:
    made = disk(
        OPEN.format("a"),
        'pwrite64(3</d/a>, "one", 3, 0) = 3',
        "fdatasync(3</d/a>) = 0",
        "fsync(4</d>) = 0",
        'pwrite64(3</d/a>, "two", 3, 0) = 3',
    )
    assert made.image(None) == {"a": b"one"}
    assert contents(made, "a") == {b"one", b"two"}
    assert all("a" in image for image in images(made))


def test_a_file_without_its_name_is_not_there() -> None:
    made = disk(OPEN.format("a"), 'write(3</d/a>, "one", 3) = 3', "fsync(3</d/a>) = 0")
    assert made.image(None) == {}
    assert contents(made, "a") == {b"one"}


def test_a_name_without_its_directory_is_not_there() -> None:
    calls = ['mkdir("/d/s", 0777) = 0', OPEN.format("s/a"), "fsync(3</d/s>) = 0"]
    assert disk(*calls).image(None) == {}
    assert disk(*calls, "fsync(3</d>) = 0").image(None) == {"s": None, "s/a": b""}


def test_writes_are_kept_in_any_order() -> None:
    made = disk(
        OPEN.format("a"),
        "fsync(4</d>) = 0",
        'write(3</d/a>, "one", 3) = 3',
        'write(3</d/a>, "two", 3) = 3',
    )
    assert contents(made, "a") >= {b"", b"one", b"onetwo", b"\0\0\0two"}


@pytest.mark.parametrize("sector", [512, 4096])
def test_a_write_is_torn_between_sectors_and_not_within(sector: int) -> None:
    octets = "1" * 12_288
    made = disk(
        OPEN.format("a"),
        "ftruncate(3</d/a>, 12800) = 0",
        "fsync(3</d/a>) = 0",
        "fsync(4</d>) = 0",
        f'pwrite64(3</d/a>, "{octets}", {len(octets)}, 256) = {len(octets)}',
    )
    found = contents(made, "a")
    edges = {
        at
        for content in found
        for at in range(1, 12_800)
        if content is not None and content[at] != content[at - 1]
    }
    assert edges - {256, 12_544}
    assert {edge % 512 for edge in edges - {256, 12_544}} == {0}
    assert any(edge % sector == 0 for edge in edges)


def test_a_file_may_be_longer_than_what_is_in_it() -> None:
    made = disk(OPEN.format("a"), "fsync(4</d>) = 0", 'write(3</d/a>, "onetwo", 6) = 6')
    found = contents(made, "a")
    assert {b"", b"onetwo", bytes(6)} < found
    assert len(found) > 3  # of octets that were there before


def test_a_file_is_replaced_as_a_whole() -> None:
    calls = [
        OPEN.format("a"),
        'write(3</d/a>, "one", 3) = 3',
        "fsync(3</d/a>) = 0",
        "fsync(4</d>) = 0",
        OPEN.format("a.new"),
        'write(3</d/a.new>, "two", 3) = 3',
        "fsync(3</d/a.new>) = 0",
        'rename("/d/a.new", "/d/a") = 0',
    ]
    made = disk(*calls)
    assert made.image(None) == {"a": b"one"}
    assert contents(made, "a") == {b"one", b"two"}
    assert disk(*calls, "fsync(4</d>) = 0").image(None) == {"a": b"two"}


def test_a_file_that_is_removed_may_stay() -> None:
    calls = [OPEN.format("a"), "fsync(4</d>) = 0", 'unlink("/d/a") = 0']
    assert {len(image) for image in images(disk(*calls))} == {0, 1}
    assert disk(*calls, "fsync(4</d>) = 0").image(None) == {}
    assert disk(*calls, 'write(3</d/a>(deleted), "x", 1) = 1').image(None) == {"a": b""}


def test_a_sync_covers_what_was_written_before_it_began() -> None:
    lines = [
        f"1 1.0 {OPEN.format('a')}\n",
        "1 1.0 fsync(4</d>) = 0\n",
        '1 1.0 pwrite64(3</d/a>, "one", 3, 0) = 3\n',
        "1 1.0 fdatasync(3</d/a> <unfinished ...>\n",
        '2 1.0 pwrite64(3</d/a>, "two", 3, 3) = 3\n',
        "1 1.0 <... fdatasync resumed>) = 0\n",
    ]
    made = Disk(parse(lines), ROOT)
    made.advance(2 * 4 + 1)
    assert made.image(None) == {"a": b""}  # not synced yet
    made.advance(END)
    assert made.image(None) == {"a": b"one"}


def test_a_failed_sync_syncs_nothing() -> None:
    calls = [OPEN.format("a"), "fsync(4</d>) = 0", 'write(3</d/a>, "x", 1) = 1']
    assert disk(*calls, "fdatasync(3</d/a>) = -1 EIO (Input/output error)").image(None) == {
        "a": b""
    }


def test_what_the_model_does_not_know_is_an_error() -> None:
    with pytest.raises(ValueError, match="fallocate"):
        disk(OPEN.format("a"), "fallocate(3</d/a>, 0, 0, 10) = 0")
    with pytest.raises(ValueError, match="relative"):
        disk('unlink("a") = 0')


def test_an_image_is_laid_out(tmp_path: Path) -> None:
    put({"s": None, "s/a": b"x", "b": b""}, tmp_path / "cut")
    assert (tmp_path / "cut/s/a").read_bytes() == b"x"
    assert (tmp_path / "cut/b").read_bytes() == b""
