"""What is lost, from a meter's datagrams to `wattbus loss`, over restarts and without a writer."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from query import messages as m
from query.client import Client
from query.service import _WRITER_WITHIN
from telemetry import meter_id
from telemetry.formats import native
from telemetry.registers import ENERGY_IMPORT
from tests.conftest import Stack
from tests.query.feeding import at, refused

MARCH = at("2024-03-01")


def sent(id: str, numbers: list[int], epoch: int = 7) -> list[bytes]:
    octets = meter_id.to_octets(id)
    return [
        native.encode(octets, epoch, n, [native.Record(ENERGY_IMPORT, MARCH + n, n)])
        for n in numbers
    ]


def received(count: int) -> Callable[[Client], bool]:
    """Whether so many datagrams are in the ledger, accepted or not."""

    def there(client: Client) -> bool:
        loss = client.loss()
        totals = loss.totals
        counted = sum(each.accepted + sum(each.rejected.values()) for each in loss.listeners)
        return totals.received + sum(totals.rejected.values()) == counted == count

    return there


def test_from_datagrams_to_the_shell(stack: Stack) -> None:
    with stack.client() as client:
        nothing = client.loss()
        assert (nothing.totals.received, nothing.meters, nothing.next) == (0, [], None)
        stack.send(sent("kitchen", [0, 1, 2, 5, 4, 5, 9]))
        stack.send(sent("shed", [*range(100, 103), 200, 101]))
        stack.send([*sent("attic", [0, 1]), b"\x01no datagram", b"\xffneither is this"])
        stack.wait_until(received(16))
        loss = client.loss()
        assert [(each.id, each.lost) for each in loss.meters] == [("shed", 97), ("kitchen", 4)]
        totals = loss.totals
        assert (totals.unique, totals.duplicate, totals.stale) == (12, 1, 1)
        assert (totals.out_of_order, totals.late, totals.lost) == (1, 12, 101)
        assert totals.rejected == {"foreign": 2}
        (listener,) = loss.listeners
        assert (listener.accepted, listener.rejected) == (14, {"foreign": 2})
        (shed,) = client.loss("shed").meters
        assert (shed.received, shed.unique, shed.stale, shed.lost) == (5, 4, 1, 97)
        assert client.loss(most=1).next == 1
        assert [each.id for each in client.loss(most=1, skip=1).meters] == ["kitchen"]
        status = client.status()
        assert status.writer is not None
        assert status.writer.loss == totals
        with refused("unknown_meter", "'cellar'"):
            client.loss("cellar")
        with refused("bad_request", "most is 1 to 1000"):
            client.loss(most=1001)
        with refused("bad_request", "skip is 0 or more"):
            client.loss(skip=-1)
    people = stack.cli("loss").stdout
    assert "rejected: foreign" in people
    assert "of 101 datagrams" in people
    of_one = stack.cli("loss", "shed", "--csv").stdout
    assert "shed,lost,97,datagrams\n" in of_one
    document = json.loads(stack.cli("loss", "--json").stdout)
    assert document["totals"]["lost"] == 101
    assert "delivery,lost,101,datagrams\n" in stack.cli("status", "--csv").stdout
    done = stack.cli("loss", "cellar")
    assert (done.returncode, done.stdout) == (2, "")


def without_time(loss: m.Loss) -> dict[str, Any]:
    return {name: getattr(loss, name) for name in ("totals", "listeners", "meters", "next")}


@pytest.mark.parametrize("how", [15, 9])
def test_counts_go_on_after_a_restart(stack: Stack, how: int) -> None:
    with stack.client() as client:
        stack.send([*sent("kitchen", [0, 1, 5]), b"no datagram"])
        stack.wait_until(received(4))
        before = client.loss("kitchen")
    stack.stop(how)
    stack.start()
    with stack.client() as client:
        assert without_time(client.loss("kitchen")) == without_time(before)
        stack.send([*sent("kitchen", [1, 3, 6]), b"no datagram"])
        stack.wait_until(received(8))
        (kitchen,) = client.loss("kitchen").meters
        assert (kitchen.unique, kitchen.duplicate, kitchen.out_of_order) == (5, 1, 1)
        assert kitchen.lost == 2


def test_without_a_writer_the_tables_tell(stack: Stack) -> None:
    import psutil

    stack.send([*sent("kitchen", [0, 1, 5]), b"no datagram"])
    stack.wait_until(received(4))
    assert stack.process is not None
    writer = next(
        child
        for child in psutil.Process(stack.process.pid).children(recursive=True)
        if "writer" in child.cmdline()
    )
    with Client(stack.query, timeout=_WRITER_WITHIN + 5) as client:
        before = client.loss("kitchen")
        writer.suspend()
        try:
            told = client.loss("kitchen")
        finally:
            writer.resume()
        assert without_time(told) == without_time(before)
        assert told.as_of_ms is not None
        assert before.as_of_ms is not None
        assert told.as_of_ms <= before.as_of_ms
