"""``wattbus serve`` with a listener for Shelly devices: what people then see of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from query.client import Client
from tests.conftest import ROOT, Stack

VECTORS = ROOT / "tests" / "vectors" / "shelly"
GIVEN = json.loads((VECTORS / "gen2.json").read_text(encoding="utf-8"))["gen2"]
NOTIFICATIONS = json.loads((VECTORS / "notifications.json").read_text(encoding="utf-8"))
FRAMES = {
    **{one["id"]: one["frame"].encode() for one in GIVEN},
    **{one["case"]: one["text"].encode() for one in NOTIFICATIONS},
}
SENT = [*FRAMES.values()]
PRO = "shellypro3em-34987a446e54/em1:0"
PLUG = "shellyplugpmg3-907069531520/pm1:0"


def ids(client: Client) -> list[str]:
    return [meter.id for meter in client.all_meters("shelly")]


@pytest.mark.parametrize("format", ["shelly", "auto"])
def test_devices_show_under_their_names_with_energy_and_power(
    make_stack: Callable[..., Stack], tmp_path: Path, format: str
) -> None:
    config = tmp_path / "wattbus.toml"
    config.write_text(f'[[listeners]]\nformat = "{format}"\n', encoding="utf-8")
    stack = make_stack("--config", str(config))
    stack.send(SENT)
    expected = {name for one in NOTIFICATIONS for name in one.get("meters", {})} | {
        one["expected"]["meter"] for one in GIVEN if isinstance(one["expected"], dict)
    }
    if format == "auto":  # it does not look behind spaces
        expected.discard("shellypmmini-8cbfeaa0b1c2/pm1:0")
    # The names follow the readings within a second.
    stack.wait_until(lambda client: set(ids(client)) == expected)
    with stack.client() as client:
        plug = {one.name: one.value for one in client.latest(PLUG).registers}
        (listener,) = client.loss().listeners
    assert plug == {
        "energy_import": 1,
        "energy_export": 0,
        "power": 27,
        "current_l1": Decimal("0.123"),
        "voltage_l1": Decimal("233.3"),
        "frequency": Decimal("50.01"),
    }
    # "auto" takes the kitchen's own JSON instead of the frame that it does not know.
    messages = sum(len(one.get("meters", {})) for one in NOTIFICATIONS) + 3
    assert listener.accepted == messages
    assert {"no_reading", "malformed", "foreign", "oversized"} <= set(listener.rejected)
    shown = stack.cli("meters", "shelly").stdout
    assert all(name in shown for name in expected)
    pro = stack.cli("latest", PRO).stdout
    assert "energy import      6,738   Wh     2025-01-30 17:06:00.230" in pro
    assert "power                1.2   W      2025-01-30 17:05:44.190" in pro
