"""Speedwire devices before a whole collector: nothing of what they send doubles or is lost."""

from __future__ import annotations

import itertools
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from query.client import Client
from telemetry.formats.names import GROUPS
from telemetry.formats.speedwire import parse
from tests import speedwire_replay as device
from tests.cli.test_serve import part
from tests.conftest import ROOT, Stack
from tests.telemetry.test_speedwire import BAD, octets_of

GROUP, METER = GROUPS["speedwire"], "349-1901429669"
MakeStack = Callable[..., Stack]
LISTENER = """\
[[listeners]]
address = "0.0.0.0"
format = "speedwire"
networks = ["127.0.0.0/8"]
interfaces = {interfaces}
"""


def collector(make_stack: MakeStack, directory: Path, interfaces: str = '["127.0.0.1"]') -> Stack:
    file = directory / "wattbus.toml"
    file.write_text(LISTENER.format(interfaces=interfaces))
    return make_stack("--config", str(file))


def counted(client: Client) -> tuple[int, dict[str, int]]:
    """Accepted and refused, of the one listener."""
    writer = client.status().writer
    assert writer is not None
    if not writer.receivers:
        return 0, {}
    ((listener,),) = (receiver.listeners for receiver in writer.receivers)
    return listener.accepted, listener.refused


def wait_for(stack: Stack, accepted: int, refused: dict[str, int]) -> None:
    stack.wait_until(lambda client: counted(client) == (accepted, refused))


def stored(stack: Stack, count: int) -> list[tuple[int, int]]:
    """Instant and Wh of each reading of the energy; waits until there are so many."""

    def all_of(client: Client) -> bool:
        return len(client.readings(METER, most=10_000).raw) >= count

    stack.wait_until(all_of)
    time.sleep(0.3)  # one too many would have come
    with stack.client() as client:
        page = client.readings(METER, most=10_000)
    return list(zip(page.time_ms, page.raw, strict=True))


def check(found: list[tuple[int, int]], sent: list[bytes], since: float, until: float) -> None:
    """Each that was sent is there once, in its order, at the distances of the tickers."""
    assert [wh for _, wh in found] == [device.energy_of(one) // 3600 for one in sent]
    times = [at for at, _ in found]
    assert since * 1000 - 1 <= times[0]
    assert times[-1] <= until * 1000 + 1
    for (one, after), (first, second) in zip(
        itertools.pairwise(sent), itertools.pairwise(times), strict=True
    ):
        apart = device.ticker_of(after) - device.ticker_of(one)
        if apart > 0:  # else the device started again
            assert abs(second - first - apart) <= 40, (first, second, apart)


def test_the_captured_stream_by_multicast(make_stack: MakeStack, tmp_path: Path) -> None:
    """At its own pace: seven seconds."""
    stack = collector(make_stack, tmp_path)
    stream = device.captured()
    since = time.time()
    assert device.replay(stream, (GROUP, stack.udp_port)) == 7
    wait_for(stack, 7, {})
    stored(stack, 7)  # accepted is not yet durable
    with stack.client() as client:
        page = client.readings(METER, "voltage_l1")
        assert page.raw == [parse(one).raw[0, 32, 4, 0] for one in stream]
        assert since * 1000 <= page.time_ms[0]
        for first, second in itertools.pairwise(page.time_ms):
            assert 960 <= second - first <= 1040
        assert len(client.latest(METER).registers) == 58
    listed = stack.cli("meters")
    assert METER in listed.stdout
    stack.send([octets_of(one) for one in BAD])
    reasons: dict[str, int] = {}
    for one in BAD:
        reasons[one["reason"]] = reasons.get(one["reason"], 0) + 1
    wait_for(stack, 7, reasons)


def test_repeats_disorder_and_a_new_start(make_stack: MakeStack, tmp_path: Path) -> None:
    stack = collector(make_stack, tmp_path, "[]")
    stream = list(itertools.islice(device.going_on(every_ms=50), 90))
    before, after = stream[:50], device.started_again(stream[50:])
    sent = [*device.troubled(before), *device.troubled(after)]
    since = time.time()
    # By multicast and unicast at once, as from a device that does both.
    ways = [(GROUP, stack.udp_port), stack.udp]
    threads = [threading.Thread(target=device.replay, args=(sent, way)) for way in ways]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    time.sleep(0.05)  # the receiver naps
    until = time.time()
    wait_for(stack, len(stream), {"duplicate": 2 * len(sent) - len(stream)})
    check(stored(stack, len(stream)), [*before, *after], since, until)


def test_a_frozen_receiver_keeps_the_distances(make_stack: MakeStack, tmp_path: Path) -> None:
    stack = collector(make_stack, tmp_path)
    stream = list(itertools.islice(device.going_on(every_ms=50, first=2**32 - 2000), 80))
    since = time.time()
    sender = threading.Thread(target=device.replay, args=(stream, (GROUP, stack.udp_port)))
    sender.start()
    time.sleep(1)
    receiver = part(stack, "receiver")
    receiver.suspend()
    time.sleep(2)
    receiver.resume()
    sender.join()
    wait_for(stack, len(stream), {})
    found = stored(stack, len(stream))
    times = [at for at, _ in found]
    assert [wh for _, wh in found] == [device.energy_of(one) // 3600 for one in stream]
    assert all(35 <= b - a <= 65 for a, b in itertools.pairwise(times))
    assert since * 1000 - 1 <= times[0]


@pytest.mark.parametrize("how", ["killed", "anew"])
def test_multicast_goes_on_after_a_restart(make_stack: MakeStack, tmp_path: Path, how: str) -> None:
    stack = collector(make_stack, tmp_path)
    stream = list(itertools.islice(device.going_on(every_ms=50), 120))
    sender = threading.Thread(target=device.replay, args=(stream, (GROUP, stack.udp_port)))
    receiver = part(stack, "receiver")
    sender.start()
    time.sleep(1)
    assert stack.process is not None
    if how == "anew":
        stack.process.send_signal(signal.SIGHUP)
    else:
        receiver.terminate()
    sender.join()
    found = stored(stack, len(stream))
    assert [wh for _, wh in found] == [device.energy_of(one) // 3600 for one in stream]
    assert all(first < second for (first, _), (second, _) in itertools.pairwise(found))


def test_an_unknown_interface(tmp_path: Path) -> None:
    file = tmp_path / "wattbus.toml"
    file.write_text(LISTENER.format(interfaces='["nope0"]') + "port = 0\n")
    flags = ["--config", str(file), "--data", str(tmp_path / "data")]
    for program in ("serve", "receiver"):
        done = subprocess.run(
            [sys.executable, "-m", "cli", program, *flags],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 2
        names = ", ".join(name for _, name in socket.if_nameindex())
        assert done.stderr.splitlines()[-1] == (
            "wattbus: the interfaces of udp 0.0.0.0:0: 'nope0' is no interface of this machine "
            f"that takes multicast: give the name of one ({names}) or its IPv4 address"
        )
