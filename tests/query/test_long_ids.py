"""Ids that do not fit into a meter's octets: the collector knows meters that send them by name."""

from __future__ import annotations

import json
import time
from pathlib import Path

from telemetry import meter_id
from tests.conftest import Stack
from tests.query.feeding import running

LONG = "shellyplugpmg3-907069531520/pm1:0"
AS_UUID = meter_id.to_name(meter_id.to_octets(LONG))


def datagram(id: str, energy: int) -> bytes:
    return json.dumps({"meter": id, "registers": {"energy_import": energy}}).encode()


def ids(stack: Stack) -> list[str]:
    with stack.client() as client:
        return [meter.id for meter in client.meters().meters]


def test_a_meter_that_sends_its_long_id_is_known_by_it(tmp_path: Path) -> None:
    with running(tmp_path) as stack:
        stack.send([datagram(LONG, 5), datagram("kitchen", 7)])
        stack.wait_until(lambda _: sorted(ids(stack)) == ["kitchen", LONG])
        with stack.client() as client:
            for name in (LONG, AS_UUID):
                found = client.latest(name)
                assert (found.id, found.registers[0].raw) == (LONG, 5)
            client.delete(LONG)
        stack.wait_until(lambda _: ids(stack) == ["kitchen"])


def test_a_name_that_was_given_stays(tmp_path: Path) -> None:
    """Two names never share their octets, so only one that nobody gave is replaced."""
    uuid = "0b9cf3c4-3a5f-4d76-9d0e-5b1c51c8a001"
    with running(tmp_path) as stack:
        stack.send([datagram(uuid, 1), datagram(LONG, 2), datagram("kitchen", 3)])
        stack.wait_until(lambda _: sorted(ids(stack)) == [uuid, "kitchen", LONG])
        time.sleep(1.5)  # what is told once a second was told
        assert sorted(ids(stack)) == [uuid, "kitchen", LONG]
