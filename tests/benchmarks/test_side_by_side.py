"""Every suite at tiny sizes, with real servers; and the document is made of the figures."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest

from benchmarks import aims, datagrams, pictures, report, results
from benchmarks.aims import AIMS
from benchmarks.peers import PEERS, SERVERS
from benchmarks.results import Figure, Ran, Results, SuiteResults
from benchmarks.suites import SUITES
from telemetry.formats import native

ROOT = Path(__file__).parents[2]
START = 1_760_000_000_000


def installed() -> set[str]:
    """Who is here now."""
    return {name for name, peer in PEERS.items() if peer.version() is not None}


def command(suite: str, kept: Path, *options: str) -> list[str]:
    words = ["-m", "benchmarks", suite, "--quick", "--results", str(kept), *options]
    return [sys.executable, *words]


# What these do with others the rest shows already: all of ingest sends them the same lines.
FEWER = {
    "ingest-20": ["wattbus"],
    "ingest-same-bytes": ["wattbus"],
    "grow": ["wattbus", "victoria"],
}


@pytest.mark.parametrize("suite", list(SUITES))
def test_a_suite_measures_everybody_who_is_here(suite: str, tmp_path: Path) -> None:
    kept = tmp_path / "results.json"
    peers = FEWER.get(suite, list(PEERS))
    before = installed()
    ended = subprocess.run(
        command(suite, kept, "--peers", *peers),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=250,  # some 20 s of the processor, on a machine that does other things too
    )
    assert ended.returncode == 0, ended.stderr
    found = results.read(kept).suites[suite]
    absent = {
        name
        for name in peers
        if f"{PEERS[name].title} is not installed: goes on without it" in ended.stdout
    }
    # Somebody may have been installed, or removed, since the suites began.
    assert set(peers) - (before | installed()) <= absent <= set(peers) - (before & installed())
    here = {"wattbus"} if SUITES[suite].alone else set(peers) - absent
    assert {one.peer for one in found.figures} == ({"kernel"} if suite == "limits" else here)
    measures = {one.name for one in SUITES[suite].measures}
    assert {one.measure for one in found.figures} <= measures
    assert not [note for note in found.notes if "do NOT compare" in note]
    for one in found.figures:
        assert all(np.isfinite(one.values)), one
        # Others' socket buffers may be small; what nobody took at all is a fault of the suite.
        assert one.measure != "lost" or 0 <= max(one.values) < 90, one
        assert (one.measure, one.peer) != ("lost", "wattbus") or one.values == [0.0], one
        assert one.measure not in ("octets", "median", "first answer") or min(one.values) > 0, one


def test_what_was_started_is_ended_by_ctrl_c(tmp_path: Path) -> None:
    running = subprocess.Popen(
        command("ingest-1", tmp_path / "results.json", "--peers", "wattbus"),
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    started: list[psutil.Process] = []
    deadline = time.monotonic() + 60
    while len(started) < 6 and time.monotonic() < deadline:
        started = psutil.Process(running.pid).children(recursive=True)
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130, said
    assert "Traceback" not in said
    assert len(started) >= 6  # serve and its four parts, and a sender
    left = [one for one in started if one.is_running()]
    for one in left:
        one.kill()
    assert not left
    assert not list(tmp_path.glob("wattbus-bench-*"))


@pytest.mark.parametrize("options", [("--peers", "victoria"), ("--rounds", "0")])
def test_wrong_options_are_told(options: tuple[str, ...], tmp_path: Path) -> None:
    ended = subprocess.run(
        command("start", tmp_path / "results.json", *options),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    assert options[0] in ended.stderr


# The document


def test_the_document_and_its_pictures_are_those_of_the_figures() -> None:
    found = results.read(results.COMMITTED)
    assert report.DOCUMENT.read_text("utf-8") == report.document(found), (
        "python -m benchmarks report writes it"
    )
    for name, suite in found.suites.items():
        if pictures.panels(SUITES[name].measures, suite):
            drawn = report.DOCUMENT.with_name(report.PICTURES) / f"{name}.svg"
            assert suite.digest in drawn.read_text("utf-8"), name


def figures(**medians: tuple[float, ...]) -> list[Figure]:
    cases = ("25,000/s, 10,000 meters", "100,000/s, 10,000 meters")
    return [
        Figure(case, "CPU", peer, [value, value * 1.5, value / 2])
        for peer, values in medians.items()
        for case, value in zip(cases, values, strict=True)
    ]


def kept(suite: str, found: list[Figure], *notes: str) -> Results:
    ran = Ran("2026-01-01 00:00 UTC", "make bench", 1.0, 0.0, {"Wattbus": "1"})
    return Results({"processor": "any"}, {suite: SuiteResults(ran, found, list(notes))})


def test_a_section_shows_medians_spread_ratios_and_the_best() -> None:
    found = kept("ingest-1", figures(wattbus=(2.0, 4.0), victoria=(8.0, 2.0)), "One note.")
    text = report.section("ingest-1", found.suites["ingest-1"])
    assert "| **2.00** (1.00–3.00) | 8.00 (4.00–12.0) 4.00× |" in text
    assert "| 4.00 (2.00–6.00) | **2.00** (1.00–3.00) 0.50× |" in text  # a loss of ours, as any
    assert "- One note." in text


def test_aims_are_judged_by_the_worst_case() -> None:
    def judged(*ours: float) -> list[tuple[str, str]]:
        found = kept("ingest-1", figures(wattbus=ours, victoria=(8.0, 8.0)))
        return [(row[1], row[3]) for row in aims.rows(found) if row[0] == "ingest-1"]

    reached = dict(judged(1.0, 2.0))
    assert reached["at most 2.0 µs of CPU a datagram"] == "reached"
    assert reached["at most 1/4 of VictoriaMetrics'"] == "reached"
    assert reached["at most 1/4 of InfluxDB's"] == ""  # nobody measured it
    missed = dict(judged(1.0, 2.1))
    assert missed["at most 2.0 µs of CPU a datagram"] == "**missed**"
    assert missed["at most 1/4 of VictoriaMetrics'"] == "**missed**"


def test_every_aim_is_of_a_measure_of_its_suite() -> None:
    for aim in AIMS:
        names = [one.name for one in SUITES[aim.suite].measures]
        # Judged on a figure of each measure in every case, it must find one of them.
        cases = [
            "100,000/s, 1,000,000 meters",
            "100,000/s, 10,000 meters",
            "1,000,000 meters, all new",
        ]
        made = [
            Figure(case, name, peer, [1.0]) for name in names for case in cases for peer in PEERS
        ]
        (suite,) = kept(aim.suite, made).suites.values()
        assert aim.judge(suite) is not None, aim.text


def test_a_picture_is_the_same_for_the_same_figures(tmp_path: Path) -> None:
    found = kept("ingest-1", figures(wattbus=(2.0, 4.0), victoria=(8.0, 2.0))).suites["ingest-1"]
    for name in ("one.svg", "two.svg"):
        pictures.draw(tmp_path / name, SUITES["ingest-1"].measures, found)
    drawn = (tmp_path / "one.svg").read_bytes()
    assert drawn == (tmp_path / "two.svg").read_bytes()
    assert found.digest.encode() in drawn
    other = msgspec.structs.replace(found, figures=found.figures[1:])
    assert other.digest != found.digest


def test_results_of_another_machine_do_not_stay(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    here = kept("start", []).suites
    results.keep(path, here)
    results.keep(path, {"store": here["start"]})
    assert set(results.read(path).suites) == {"start", "store"}
    other = msgspec.structs.replace(results.read(path), machine={"processor": "another"})
    path.write_bytes(msgspec.json.encode(other))
    results.keep(path, here)
    assert set(results.read(path).suites) == {"start"}


def test_the_readme_names_every_suite_and_peer() -> None:
    text = (ROOT / "benchmarks" / "README.md").read_text("utf-8")
    for name in SUITES:
        assert f"| `{name}` |" in text
    for server in SERVERS:
        assert f"`{server.package}`" in text


# The same readings in both forms


def test_both_forms_say_the_same() -> None:
    chunks = list(datagrams.made(3, 2, START, 1000, each=2, first=7))
    for chunk in chunks:
        lines = datagrams.line_text(chunk).decode().splitlines()
        rows = datagrams.line_rows(chunk)
        assert b"".join(row.tobytes() for row in rows) == datagrams.line_text(chunk)
        for meter, row in enumerate(datagrams.native_rows(chunk)):
            said = native.decode(row.tobytes(), START)
            pairs = zip(said.records[::2], said.records[1::2], strict=True)
            for number, (energy, power) in enumerate(pairs):
                assert lines[2 * meter + number] == (
                    f"meter,meter={said.octets.rstrip(bytes(1)).decode()} energy_import="
                    f"{energy.value}i,power_import={power.value // 10}i {energy.time}000000"
                )
    assert [int(chunk.number) for chunk in chunks] == [0, 1]


def test_lines_have_no_leading_zeros() -> None:
    (chunk,) = datagrams.made(3, 1, START, 1000)
    energy, power = np.array([[0, 10, 123456]]), np.array([[9, 0, 1000]])
    chunk = datagrams.Chunk(0, 0, chunk.time_ms, energy, power)
    ends = [line.split(" ")[1] for line in datagrams.line_text(chunk).decode().splitlines()]
    assert ends == [
        "energy_import=0i,power_import=9i",
        "energy_import=10i,power_import=0i",
        "energy_import=123456i,power_import=1000i",
    ]
    with pytest.raises(ValueError, match="different lengths"):
        datagrams.line_rows(chunk)
