"""Every datagram sent is in one of the collector's counts, also of those that nobody saw."""

from __future__ import annotations

from benchmarks.collector import Collector
from benchmarks.exact import Outcome, measure
from telemetry.rejects import Reason


def outcome(*program: str) -> Outcome:
    """Some 200,000 datagrams of all kinds, more of them while frozen than a buffer holds."""
    with Collector(program=program) as collector:
        return measure(collector, 120_000, rate=20_000, frozen=1.0, burst=120_000)


def test_sums_are_exact_though_the_collector_was_frozen() -> None:
    found = outcome("cli.main", "serve")
    assert found.wrong == []
    assert found.sent.total() == found.account.total > 200_000
    assert found.account.kernel_drops > 1000
    assert {str(reason) for reason in found.account.rejected} == {
        str(kind) for kind in found.sent if isinstance(kind, Reason)
    }


def test_a_count_that_is_missing_shows() -> None:
    found = outcome("tests.delivery.launch", "miscount", "wattbus", "serve")
    assert "were sent" in found.wrong[0]
    assert "short" not in found.account.rejected
