"""What we want to reach, and whether a run did; every case of a suite counts, the worst decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.results import Results, SuiteResults
from benchmarks.running import GROUP

Found = tuple[str, bool]
_US = "wattbus"


@dataclass(frozen=True, slots=True)
class Aim:
    """One aim; ``judge`` says what was measured and whether it is reached, None: not measured."""

    suite: str
    text: str
    judge: Callable[[SuiteResults], Found | None]


def rows(found: Results) -> list[list[str]]:
    """The table of aims."""
    table = []
    for aim in AIMS:
        judged = aim.judge(found.suites[aim.suite]) if aim.suite in found.suites else None
        measured, reached = judged or ("not measured", None)
        word = {True: "reached", False: "**missed**", None: ""}[reached]
        table.append([aim.suite, aim.text, measured, word])
    return table


def _ours(
    measure: str, most: float, unit: str, case: str = ""
) -> Callable[[SuiteResults], Found | None]:
    """Ours is at most so much in each case that contains the words."""

    def judge(found: SuiteResults) -> Found | None:
        medians = {
            one.case: one.median
            for one in found.figures
            if (one.measure, one.peer) == (measure, _US) and case in one.case
        }
        if not medians:
            return None
        worst = max(medians, key=medians.__getitem__)
        return f"at worst {medians[worst]:.3g} {unit} ({worst})", medians[worst] <= most

    return judge


def _beside(measure: str, peer: str, share: float) -> Callable[[SuiteResults], Found | None]:
    """Ours is at most such a share of theirs, in each case that both have."""

    def judge(found: SuiteResults) -> Found | None:
        ratios = {}
        for one in found.figures:
            theirs = found.found(one.case, measure, peer)
            if (one.measure, one.peer) == (measure, _US) and theirs and theirs.median:
                ratios[one.case] = one.median / theirs.median
        if not ratios:
            return None
        worst = max(ratios, key=ratios.__getitem__)
        kept = sum(ratio <= share for ratio in ratios.values())
        text = f"at worst {ratios[worst]:.2f} ({worst}); reached in {kept} of {len(ratios)}"
        return text, kept == len(ratios)

    return judge


def _ratio(measure: str, of: str, to: str, most: float) -> Callable[[SuiteResults], Found | None]:
    """Ours in one case is at most so many times that in another."""

    def judge(found: SuiteResults) -> Found | None:
        first, second = (found.found(case, measure, _US) for case in (of, to))
        if first is None or second is None:
            return None
        ratio = first.median / second.median
        return f"{ratio:.2f} times", ratio <= most

    return judge


def _spread(measure: str, most: float) -> Callable[[SuiteResults], Found | None]:
    """Ours differ by at most such a share over all cases."""

    def judge(found: SuiteResults) -> Found | None:
        medians = [
            one.median
            for one in found.figures
            if (one.measure, one.peer) == (measure, _US) and GROUP not in one.case
        ]
        if len(medians) < 2:
            return None
        grown = max(medians) / min(medians) - 1
        return f"{100 * grown:.0f} % over {len(medians)} sizes", grown <= most

    return judge


_100K = "100,000/s, "
_VM, _INFLUX = "victoria", "influxdb"
AIMS = (
    Aim("ingest-1", "at most 2.0 µs of CPU a datagram", _ours("CPU", 2.0, "µs")),
    Aim("ingest-1", "at most 1/4 of VictoriaMetrics'", _beside("CPU", _VM, 1 / 4)),
    Aim("ingest-1", "at most 1/4 of InfluxDB's", _beside("CPU", _INFLUX, 1 / 4)),
    Aim("ingest-1", "nothing lost that the sender can send", _ours("lost", 0, "%")),
    Aim(
        "ingest-1",
        "a million meters: at most a quarter more CPU than 10,000",
        _ratio("CPU", f"{_100K}1,000,000 meters", f"{_100K}10,000 meters", 1.25),
    ),
    Aim(
        "ingest-1",
        "a million new meters: nothing lost",
        _ours("lost", 0, "%", "1,000,000 meters, all new"),
    ),
    Aim("ingest-20", "at most 0.35 µs a field value", _ours("CPU a value", 0.35, "µs")),
    Aim("ingest-20", "at most 1/3 of VictoriaMetrics'", _beside("CPU a value", _VM, 1 / 3)),
    Aim("ingest-same-bytes", "less CPU than VictoriaMetrics", _beside("CPU", _VM, 1)),
    Aim("ingest-same-bytes", "less CPU than InfluxDB", _beside("CPU", _INFLUX, 1)),
    Aim("store", "at most 0.9 of VictoriaMetrics' octets", _beside("octets", _VM, 0.9)),
    Aim("store", "at most 1/5 of InfluxDB's octets", _beside("octets", _INFLUX, 1 / 5)),
    Aim("ask", "every median at most VictoriaMetrics'", _beside("median", _VM, 1)),
    Aim("grow", "cost of a reading the same within 10 %", _spread("CPU", 0.10)),
    Aim("start", "first answer within 2 s", _ours("first answer", 2.0, "s")),
    Aim("grow", "first answer within 2 s", _ours("first answer", 2.0, "s")),
    Aim("start", "memory with 10,000 meters under 400 MiB in all", _ours("memory", 400, "MiB")),
)
