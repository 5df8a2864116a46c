"""Writes docs/benchmarks.md and its pictures from results.json; nothing in them is by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks import aims, pictures, results
from benchmarks.peers import PEERS
from benchmarks.results import Figure, Results, SuiteResults, short
from benchmarks.running import Measure
from benchmarks.suites import SUITES

DOCUMENT = Path(__file__).parents[1] / "docs" / "benchmarks.md"
PICTURES = "benchmarks"  # beside the document

_HEAD = """\
# Measured side by side

Wattbus beside VictoriaMetrics and InfluxDB, on one machine, with the same readings, in the same
run, in turns. `make bench` measures it on yours ([how](../benchmarks/README.md)) and writes this
page and its pictures from `benchmarks/results.json`, where every round's figure is.

A figure is the median of the rounds, the smallest and the largest in brackets; what stands behind
the others' is how many times Wattbus's that is. **Bold** is the best of a row. CPU is user and
system time of all processes of whoever is measured, until it has nothing more to do; the sender's
is not in it. What is lost does not count as done: CPU is divided by what was stored.
"""


def write(found: Results) -> None:
    """The document and its pictures."""
    folder = DOCUMENT.with_name(PICTURES)
    for name, suite in found.suites.items():
        pictures.draw(folder / f"{name}.svg", SUITES[name].measures, suite)
    DOCUMENT.write_text(document(found), "utf-8")


def write_committed() -> None:
    """Both of what is kept in results.json."""
    write(results.read(results.COMMITTED))
    print(f"written: {DOCUMENT}")


def document(found: Results) -> str:
    """The whole page."""
    parts = [_HEAD, "## The machine and who took part\n"]
    if not found.suites:
        parts.append("Nothing was measured yet: `make bench`.\n")
        return "\n".join(parts)
    rows = [[what, said] for what, said in found.machine.items()]
    parts.append(_table(["", ""], rows))
    versions = {k: v for one in found.suites.values() for k, v in one.ran.versions.items()}
    setups = {one.title: one.setup for one in PEERS.values()}
    parts.append(
        _table(["", "version", "run as"], [[k, v, setups[k]] for k, v in versions.items()])
    )
    parts.append("## Aims\n")
    parts.append(_table(["suite", "aim", "measured", ""], aims.rows(found)))
    parts += [section(name, found.suites[name]) for name in SUITES if name in found.suites]
    return "\n".join(parts)


def section(name: str, found: SuiteResults) -> str:
    """One suite: what it is, its picture, a table for each measure, and what else is to be said."""
    suite, ran = SUITES[name], found.ran
    parts = [f"## {name}\n", f"{suite.about}\n"]
    if pictures.panels(suite.measures, found):
        parts.append(f"![{name}]({PICTURES}/{name}.svg)\n")
    parts += list(_tables(suite.measures, found))
    parts += [f"- {note}\n" for note in found.notes]
    parts.append(
        f"`{ran.command}`, {ran.at}, {ran.minutes:g} minutes; load average before it "
        f"{ran.load_before:.2f}.\n"
    )
    return "\n".join(parts)


def _tables(measures: tuple[Measure, ...], found: SuiteResults) -> Iterator[str]:
    for measure in measures:
        figures = [one for one in found.figures if one.measure == measure.name]
        if not figures:
            continue
        peers = list(dict.fromkeys(one.peer for one in figures))
        peers.sort(key=lambda peer: list(PEERS).index(peer) if peer in PEERS else -1)
        rows = []
        for case in dict.fromkeys(one.case for one in figures):
            row = {one.peer: one for one in figures if one.case == case}
            rows.append([case, *(_cell(measure, peer, row) for peer in peers)])
        unit = f", {measure.unit}" if measure.unit else ""
        titles = [PEERS[peer].title if peer in PEERS else peer for peer in peers]
        yield _table([f"{measure.title}{unit}", *titles], rows)


def _cell(measure: Measure, peer: str, row: dict[str, Figure]) -> str:
    if peer not in row:
        return ""
    figure, ours = row[peer], row.get("wattbus")
    medians = [one.median for one in row.values()]
    best = max(medians) if measure.more else min(medians)
    text = short(figure.median)
    if len(row) > 1 and figure.median == best:
        text = f"**{text}**"
    if min(figure.values) != max(figure.values):
        text += f" ({short(min(figure.values))}–{short(max(figure.values))})"
    if ours is not None and peer != "wattbus" and ours.median > 0:
        text += f" {short(figure.median / ours.median)}×"
    return text


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
