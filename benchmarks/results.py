"""What was measured, as it is kept in ``results.json``: every round's figure, and who ran where."""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path
from statistics import median

import msgspec
import psutil

from benchmarks.peers import PEERS

COMMITTED = Path(__file__).with_name("results.json")


class Figure(msgspec.Struct, frozen=True):
    """One measure of one peer in one case, a value a round."""

    case: str
    measure: str
    peer: str
    values: list[float]

    @property
    def median(self) -> float:
        """Of the rounds."""
        return median(self.values)


class Ran(msgspec.Struct, frozen=True):
    """When and how a suite was run."""

    at: str
    command: str
    minutes: float
    load_before: float  # the machine's load average
    versions: dict[str, str]


class SuiteResults(msgspec.Struct, frozen=True):
    """All of one suite."""

    ran: Ran
    figures: list[Figure]
    notes: list[str] = []

    def found(self, case: str, measure: str, peer: str) -> Figure | None:
        """One figure, if it was measured."""
        for one in self.figures:
            if (one.case, one.measure, one.peer) == (case, measure, peer):
                return one
        return None

    @property
    def digest(self) -> str:
        """By which a picture knows what it was drawn from."""
        return hashlib.sha256(msgspec.json.encode(self.figures)).hexdigest()[:16]


class Results(msgspec.Struct, frozen=True):
    """All suites that were run on one machine."""

    machine: dict[str, str]
    suites: dict[str, SuiteResults]


def read(path: Path) -> Results:
    """What is kept there, or nothing yet."""
    if not path.exists():
        return Results({}, {})
    return msgspec.json.decode(path.read_bytes(), type=Results)


def keep(path: Path, new: dict[str, SuiteResults]) -> Results:
    """Add suites to what is kept there, or put them in its place; other machines' go away."""
    old, here = read(path), machine()
    suites = (old.suites if old.machine == here else {}) | new
    results = Results(here, suites)
    text = msgspec.json.format(msgspec.json.encode(results), indent=1)
    path.write_bytes(text + b"\n")
    return results


def machine() -> dict[str, str]:
    """What the figures depend on."""
    return {
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "Python": platform.python_version(),
        "default socket buffer": f"{_kernel('rmem_default')} octets, at most "
        f"{_kernel('rmem_max')} for who may not ask for more",
    }


def versions() -> dict[str, str]:
    """Of everybody who is installed."""
    found = {one.title: one.version() for one in PEERS.values()}
    return {title: version for title, version in found.items() if version}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _kernel(name: str) -> str:
    try:
        return f"{int(Path(f'/proc/sys/net/core/{name}').read_text()):,}"
    except OSError:
        return "?"


def short(value: float) -> str:
    """Three digits that say something, and no more."""
    if value == 0:
        return "0"
    size = abs(value)
    places = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 0.1 else 3
    return f"{value:,.{places}f}"
