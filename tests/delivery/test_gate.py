"""Nobody is told that something is durable before it is: the order of system calls.

``traces/`` holds what was recorded of writers and of an acknowledging receiver, most of the pages
left out; the others are recorded here.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from telemetry.formats import ack, native
from telemetry.registers import ENERGY_IMPORT
from tests.conftest import ROOT, Stack
from tests.delivery import cuts, gate, recovery
from tests.delivery.feed import START, STEP, Feeder, Stored
from tests.delivery.trace import FILES, SOCKETS, Call, Traced, parse, read
from tests.delivery.zmtp import Messages

BATCHES = 30
DATAGRAMS = 20
METER = b"kitchen".ljust(16, b"\0")
TRACES = Path(__file__).parent / "traces"


def recorded(name: str) -> list[Call]:
    return read(TRACES / f"{name}.strace")


# What traces say


def test_calls_as_strace_writes_them() -> None:
    calls = parse(
        [
            '7 1.5 write(3</a b>, "x\\0\\"\\\\\\3771"..., 5) = 4\n',
            '8 1.6 sendto(4<UNIX-STREAM:[1->2,"/e"]>, "a) = 9", 6, 0, NULL, 0 <unfinished ...>\n',
            "7 1.7 fdatasync(3</a b>)                    = 0\n",
            "7 1.8 --- SIGCHLD {si_signo=SIGCHLD} ---\n",
            "8 1.9 <... sendto resumed>) = 6\n",
            '7 2.0 openat(AT_FDCWD</c>, "d", O_RDONLY|O_CREAT, 0644) = 5</c/d>\n',
            '7 2.1 unlink("/c/e") = -1 ENOENT (No such file or directory)\n',
            '7 2.2 sendmmsg(6<UDP:[127.0.0.1:1]>, [{msg_hdr={msg_iov=[{iov_base="a", iov_len=1}, '
            '{iov_base="b", iov_len=1}]}, msg_len=2}, {msg_hdr={msg_iov=[{iov_base="c", '
            "iov_len=1}]}}], 2, 0) = 1\n",
            '7 2.3 pwrite64(9</f>(deleted), "", 0, 12 <unfinished ...>\n',
        ]
    )
    wrote, sent, synced, opened, failed, several, never = calls
    assert (wrote.target, wrote.start, wrote.result) == ("/a b", b'x\0"\\\xff1', 4)
    with pytest.raises(ValueError, match="use a longer -s"):
        _ = wrote.octets
    assert (sent.octets, sent.entered, sent.left, sent.thread) == (b"a) = 9", 1, 4, 8)
    assert (synced.entered, synced.left) == (2, 2)
    assert (opened.named, opened.opened) == (["/c/d"], "/c/d")
    assert (failed.result, failed.named) == (-1, ["/c/e"])
    assert several.messages == [b"ab"]
    assert (never.result, never.deleted, never.numbers) == (None, True, [0, 12])


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_messages_of_a_connection_however_they_are_cut(size: int) -> None:
    long = b"x" * 300
    octets = bytes(64) + b"\x04\x05READY" + b"\x01\x05batch\x00\x021\xff"
    octets += b"\x03" + len(long).to_bytes(8, "big") + long + b"\x00\x00"
    stream, found = Messages(), []
    for at in range(0, len(octets), size):
        found += stream.feed(octets[at : at + size])
    assert found == [[b"batch", b"1\xff"], [long, b""]]


@pytest.mark.parametrize(
    ("name", "items", "wrong"),
    [
        ("writer-sound", 3, 0),
        ("writer-normal", 3, 3),
        ("writer-early", 3, 3),
        ("meters-sound", 9, 0),
        ("meters-early", 9, 9),
    ],
)
def test_the_gate_on_recorded_traces(name: str, items: int, wrong: int) -> None:
    calls = recorded(name)
    assert len(gate.told(calls)) == items
    assert len(gate.violations(calls)) == wrong
    meters = [said for said in gate.violations(calls) if "a meter is told" in said]
    assert len(meters) == (6 if name == "meters-early" else 0)


def test_what_is_written_after_the_sync_is_not_synced() -> None:
    lines = (TRACES / "meters-sound.strace").read_text("latin-1").splitlines()
    synced = [number for number, line in enumerate(lines) if "fdatasync" in line]
    last = synced[-1]
    lines[last - 1], lines[last] = lines[last], lines[last - 1]  # the commit's last page
    assert len(gate.violations(parse(lines))) == 3  # the last batch, and its two datagrams


def test_what_never_came_is_not_acknowledged() -> None:
    lines = (TRACES / "meters-sound.strace").read_text("latin-1").splitlines()
    told = [number for number, line in enumerate(lines) if "sendmmsg" in line]
    bitmap = lines[told[-1]].replace('\\0\\0\\0", iov_len=36', '\\0\\0\\4", iov_len=36')
    assert bitmap != lines[told[-1]]
    lines[told[-1]] = bitmap
    found = gate.violations(parse(lines))
    assert len(found) == 1
    assert "never came" in found[0]


# A writer


def traced_writer(tmp_path: Path, faults: str) -> list[Call]:
    """The calls of a writer that was handed batches, each once the one before was confirmed."""
    command = [sys.executable, "-m", "tests.delivery.launch", faults, "writer"]
    command += [str(tmp_path / "data"), f"ipc://{tmp_path}/writer"]
    with Traced(command, tmp_path / "trace", f"{FILES},{SOCKETS}", cwd=ROOT) as traced:
        assert traced.first_line() == "ready\n"
        feeder = Feeder(tmp_path / "writer")
        for _ in range(BATCHES):
            feeder.hand(within=60.0)
        feeder.close()
        assert traced.stop() == 0
    return read(tmp_path / "trace")


def test_a_batch_is_confirmed_once_it_is_synced(tmp_path: Path) -> None:
    calls = traced_writer(tmp_path, "sound")
    said = gate.told(calls)
    assert [item.item[1] for item in said] == list(range(1, BATCHES + 1))
    assert gate.violations(calls) == []
    assert len(gate.commits(calls)) >= BATCHES


@pytest.mark.parametrize("fault", ["normal", "early"])
def test_the_gate_sees(tmp_path: Path, fault: str) -> None:
    calls = traced_writer(tmp_path, fault)
    assert len(gate.told(calls)) == BATCHES
    assert len(gate.violations(calls)) >= BATCHES - 2


# A whole collector and a meter


def traced_collector(tmp_path: Path, faults: str) -> tuple[Stack, list[Call]]:
    """The calls of a collector that a meter sent datagrams, each once it had the last one's ack."""
    stack = Stack(tmp_path / "data")
    command = [sys.executable, "-m", "tests.delivery.launch", faults, "wattbus", "serve"]
    command += ["--data", str(stack.data), "--time-zone", "UTC", *stack.ports]
    with (
        Traced(command, tmp_path / "trace", f"{FILES},{SOCKETS}", cwd=ROOT) as traced,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as meter,
    ):
        assert "ready" in traced.first_line()
        meter.connect(stack.udp)
        meter.settimeout(60.0)
        for number in range(DATAGRAMS):
            record = native.Record(ENERGY_IMPORT, START + number * STEP, number)
            meter.send(native.encode(METER, 1, number, [record], acknowledge=True))
            found = ack.decode(meter.recv(100))
            assert found is not None
            assert found.next == number + 1
        assert traced.stop() == 0
    return stack, read(tmp_path / "trace")


def lost(stack: Stack, calls: list[Call], work: Path) -> list[cuts.Wrong]:
    """The acknowledgements during which a cut, leaving what was synced, loses what they name."""
    lines = [said.at for said in gate.told(calls) if len(said.item) == 3]
    sent: Stored = {"kitchen": [(START + n * STEP, n) for n in range(DATAGRAMS)]}

    def check(left: Path, told: int) -> list[str]:
        recovery.recover(left)
        return recovery.wrong(left, {"kitchen": sent["kitchen"][:told]}, sent)

    return list(cuts.cut(calls, stack.data, lines, [2 * line for line in lines], work, check))


def test_a_meter_is_acknowledged_once_its_datagram_is_synced(tmp_path: Path) -> None:
    stack, calls = traced_collector(tmp_path, "sound")
    meters = [said.item for said in gate.told(calls) if len(said.item) == 3]
    assert meters == [(METER, 1, number) for number in range(DATAGRAMS)]
    assert gate.violations(calls) == []
    assert lost(stack, calls, tmp_path / "cuts") == []


@pytest.mark.parametrize("fault", ["normal", "dawdling"])
def test_the_gate_sees_meters_that_are_told_too_early(tmp_path: Path, fault: str) -> None:
    stack, calls = traced_collector(tmp_path, fault)
    assert any("a meter is told" in said for said in gate.violations(calls))
    assert lost(stack, calls, tmp_path / "cuts")
