"""Pictures of results: bars of each peer, case by case; the same SVG for the same figures."""

from __future__ import annotations

from pathlib import Path

from benchmarks.peers import PEERS
from benchmarks.results import Figure, SuiteResults, short
from benchmarks.running import GROUP, Measure

# Okabe and Ito's colours, which also the colour-blind tell apart.
_COLOURS = {"wattbus": "#0072B2", "victoria": "#E69F00", "influxdb": "#999999"}
_OTHER = "#56B4E9"
_COLUMNS = 2
_WIDTH, _PANEL, _BAR = 7.0, 0.9, 0.21  # inches: of a column, of what is around bars, of a bar

Panel = tuple[Measure, str, list[Figure]]


def panels(measures: tuple[Measure, ...], found: SuiteResults) -> list[Panel]:
    """What is drawn beside each other: a measure, and where cases have groups one of these."""
    drawn = []
    for measure in measures:
        groups: dict[str, list[Figure]] = {}
        for one in found.figures:
            if measure.picture and one.measure == measure.name:
                group = one.case.partition(GROUP)[0] if GROUP in one.case else ""
                groups.setdefault(group, []).append(one)
        drawn += [(measure, group, figures) for group, figures in groups.items()]
    return drawn


def draw(path: Path, measures: tuple[Measure, ...], found: SuiteResults) -> None:
    """Write the picture of a suite, if it has anything to draw."""
    import matplotlib as mpl
    from matplotlib.figure import Figure as Picture

    shown = panels(measures, found)
    if not shown:
        return
    columns = min(_COLUMNS, len(shown))
    lines = -(-len(shown) // columns)
    tallest = max(len(figures) for *_, figures in shown)
    size = (columns * _WIDTH, lines * (_PANEL + _BAR * tallest))
    with mpl.rc_context({"svg.hashsalt": "wattbus", "font.size": 9}):
        picture = Picture(figsize=size, layout="constrained")
        axes = picture.subplots(lines, columns, squeeze=False).ravel().tolist()
        for ax, (measure, group, figures) in zip(axes, shown, strict=False):
            _bars(ax, figures, log=measure.log)
            title = f"{measure.title}, {measure.unit}"
            ax.set_title(f"{title} ({group})" if group else title, loc="left", fontsize=10)
        for ax in axes[len(shown) :]:
            ax.set_visible(False)
        peers = dict.fromkeys(one.peer for *_, figures in shown for one in figures)
        handles = [mpl.patches.Patch(color=_colour(peer)) for peer in peers]
        titles = [PEERS[peer].title if peer in PEERS else peer for peer in peers]
        picture.legend(handles, titles, loc="outside upper right", ncols=len(titles), frameon=False)
        path.parent.mkdir(exist_ok=True)
        picture.savefig(path, metadata={"Date": None, "Description": found.digest})


def _bars(ax: object, figures: list[Figure], *, log: bool) -> None:
    from matplotlib.axes import Axes

    assert isinstance(ax, Axes)
    cases = list(dict.fromkeys(one.case for one in figures))
    peers = list(dict.fromkeys(one.peer for one in figures))
    height = 0.8 / len(peers)
    for one in figures:
        at = cases.index(one.case) + (peers.index(one.peer) - (len(peers) - 1) / 2) * height
        low, high = one.median - min(one.values), max(one.values) - one.median
        ax.barh(at, one.median, height * 0.9, color=_colour(one.peer))
        ax.errorbar(one.median, at, xerr=[[low], [high]], color="#333333", linewidth=0.8)
        ax.annotate(
            f" {short(one.median)}", (max(one.values), at), va="center", fontsize=7, color="#333333"
        )
    if log:
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_formatter("")
    else:
        ax.set_xlim(left=0)
    ax.margins(x=0.12)
    ax.set_yticks(range(len(cases)), [case.rpartition(GROUP)[2] for case in cases])
    ax.invert_yaxis()
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="x", linewidth=0.3)
    ax.set_axisbelow(True)


def _colour(peer: str) -> str:
    return _COLOURS.get(peer, _OTHER)
