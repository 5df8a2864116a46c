"""DLMS/COSEM pushes into a whole collector: keys by the shell, what is shown, replays."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from query import messages as m
from storage import key_file
from storage.changes import ChangeRefusedError
from storage.key_making import give, listed, rotate
from storage.meter_keys import Keys
from telemetry.meter_id import to_octets
from tests.conftest import Stack
from tests.query.feeding import running
from tests.telemetry.test_dlms import (
    AK,
    EK,
    METER,
    OTHERS,
    PUSHES,
    SECOND,
    blocks,
    power,
    sealed,
    wrapped,
)

HALL = to_octets("hall")
NOW = 1_795_428_900_000


def keys_of(stack: Stack, *words: str) -> str:
    done = stack.cli("meters", "add", METER, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(stack: Stack) -> dict[str, int]:
    with stack.client() as client:
        writer = client.status().writer
    assert writer is not None
    (receiver,) = writer.receivers
    (listener,) = receiver.listeners
    return {reason: count for reason, count in listener.refused.items() if count}


def watts(stack: Stack, id: str = METER) -> list[int]:
    """The raw values of all readings of its power that are stored."""
    with stack.client() as client:
        return client.readings(id, "power_import", start_ms=0, end_ms=2**42).raw


def send(stack: Stack, datagram: bytes, true: Callable[[], bool]) -> None:
    """Send until it has come to something: a receiver may not have read new keys yet."""
    deadline = time.monotonic() + 60
    stack.send(datagram)
    while not true():
        assert time.monotonic() < deadline, refused(stack)
        time.sleep(0.05)


def test_a_ciphered_meter_and_a_replay_after_a_restart(make_stack: Callable[..., Stack]) -> None:
    stack = make_stack()
    said = keys_of(stack, "--key", EK.hex(), "--authentication-key", AK.hex())
    assert "From now on only what these keys open" in " ".join(said.split())
    assert AK.hex() not in said
    time.sleep(2)  # until the receiver has read the keys
    captured = wrapped(sealed(power(500), 100))
    send(stack, captured, lambda: METER in stack.cli("meters").stdout)
    send(stack, captured, lambda: refused(stack).get("duplicate") == 1)
    send(stack, wrapped(sealed(power(1), 99)), lambda: refused(stack).get("replayed") == 1)
    send(stack, wrapped(sealed(power(1), 101, half=EK)), lambda: "forged" in refused(stack))
    send(stack, wrapped(power(1, METER)), lambda: refused(stack).get("unsigned") == 1)
    assert "500" in stack.cli("latest", METER).stdout
    assert watts(stack) == [5_000]
    stack.stop()

    stack.start()
    with stack.client() as client:
        before = client.status().readings
    stack.send(captured)
    time.sleep(0.5)  # of another arrival than the next: their readings have no time of their own
    stack.send(wrapped(sealed(power(600), 101)))
    stack.wait_until(lambda client: client.status().readings > before)
    assert watts(stack) == [5_000, 6_000]
    assert refused(stack) == {}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A collector of those tests whose wishes are refused."""
    with running(tmp_path_factory.mktemp("dlms")) as one:
        yield one


def test_plain_pushes_and_blocks_of_real_meters(stack: Stack) -> None:
    stack.send([bytes.fromhex(push["udp4059_hex"]) for push in PUSHES[8:]])
    cyprus = next(case for case in OTHERS if len(case["apdus"]) > 1)
    stack.send([wrapped(bytes.fromhex(apdu)) for apdu in cyprus["apdus"]])
    whole = power(77, "attic")
    stack.send([wrapped(part) for part in blocks(whole, 20)])
    names = {
        *("7359992892587665", "6970631402614476", "7340734073407340", "5706567000000000"),
        *("LGZ1020782546371", "attic"),
    }
    stack.wait_until(lambda client: names <= {meter.id for meter in client.meters().meters})
    parts = len(cyprus["apdus"]) - 1 + len(blocks(whole, 20)) - 1
    deadline = time.monotonic() + 60
    while refused(stack) != {"block": parts}:
        assert time.monotonic() < deadline, refused(stack)
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (f"meters add x --authentication-key {AK.hex()}", "--authentication-key goes with --key"),
        (f"meters add x --key {EK.hex()} --authentication-key 12", "write 32 hexadecimal digits"),
    ],
)
def test_what_cannot_be_meant(shared: Stack, words: str, said: str) -> None:
    done = shared.cli(*words.split())
    assert done.returncode == 2
    assert said in done.stderr


def test_the_service_refuses_half_a_key(shared: Stack) -> None:
    from tests.query.feeding import refused as expecting

    with shared.client() as client:
        for key, half in (("first", AK.hex()), (EK.hex(), "zz")):
            with expecting("bad_request", "authentication key"):
                client.register_with_key("x", key, half)
        assert isinstance(client.register_with_key("x", EK.hex(), AK.hex())[1], m.MadeKey)


def test_a_key_file_of_version_1_is_made_one_of_version_2(tmp_path: Path) -> None:
    with key_file.opened(tmp_path, create=True) as file:
        give(file, HALL, EK, 0, NOW)
    with closing(sqlite3.connect(key_file.path_of(tmp_path))) as old:
        old.execute("DROP TABLE authentication")
        old.execute("PRAGMA user_version = 1")
        old.commit()
    view = Keys(tmp_path)
    assert len(view.ring()) == 1
    view.close()
    with key_file.opened(tmp_path, create=True) as file:
        assert file.execute("PRAGMA user_version").fetchone() == (2,)
        give(file, HALL, EK, 0, NOW + 1, AK)
        assert len(listed(file, HALL)) == 1


def test_authentication_keys_go_with_their_keys(tmp_path: Path) -> None:
    with key_file.opened(tmp_path, create=True) as file:
        give(file, HALL, EK, 0, NOW)
        give(file, HALL, SECOND, 10**9, NOW + 60_000, AK)
        with pytest.raises(ChangeRefusedError, match="--authentication-key"):
            rotate(file, HALL, 2, 0, NOW + 70_000)
    view = Keys(tmp_path)
    ring = view.ring()
    view.close()
    rows = ring.of_meter(0)
    assert [(ring.secret(row), ring.authentication(row)) for row in rows] == [
        (SECOND, AK),
        (EK, None),
    ]
    assert [ring.epoch(row) for row in rows] == [NOW // 1000 + 60, NOW // 1000]
    with key_file.opened(tmp_path, create=True) as file:
        from storage.key_making import forget

        forget(file, HALL)
        assert file.execute("SELECT count(*) FROM authentication").fetchone() == (0,)
