"""The shape of the code (docs/architecture.md): who may import whom, what stays pure, how long."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Each package may import itself and those before it.
PACKAGES = ("telemetry", "storage", "query", "cli")

# What turns bytes into readings is pure; these are the shells around it.
SHELLS = {
    *("receiver", "listener", "replies", "bulk_udp", "udp_socket", "multicast"),
    *("sender", "network", "courier", "outbox"),
}
IMPURE = {
    *("socket", "select", "selectors", "time", "random", "secrets", "asyncio", "threading"),
    *("zmq", "sqlalchemy", "sqlite3", "subprocess", "multiprocessing", "os", "signal"),
}
CLOCKS = {"now", "utcnow", "today", "time", "time_ns", "monotonic", "perf_counter", "localtime"}

LONGEST = 320  # about 300
EXCEPTIONS = {
    "query/messages.py": (620, "the table of every request and reply"),
}

MODULES = sorted(
    path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py")
)
NAMES = [str(path) for path in MODULES]
each_module = pytest.mark.parametrize("module", MODULES, ids=NAMES)
each_pure_module = pytest.mark.parametrize(
    "module",
    pure := [path for path in MODULES if path.parts[0] == "telemetry" and path.stem not in SHELLS],
    ids=[str(path) for path in pure],
)


@cache
def tree_of(module: Path) -> ast.Module:
    return ast.parse((ROOT / module).read_text(encoding="utf-8"), str(module))


def imported(tree: ast.AST, module: Path) -> Iterator[str]:
    """The full name of every module that a module imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = list(module.parent.parts)
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and name_of(node.func) in (
            "__import__",
            "importlib.import_module",
            "import_module",
        ):
            first = node.args[0] if node.args else None
            yield str(first.value) if isinstance(first, ast.Constant) else "?"


def name_of(node: ast.AST) -> str:
    """``a.b.c`` of an expression of names, or nothing."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (before := name_of(node.value)):
        return f"{before}.{node.attr}"
    return ""


def roots(module: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(tree_of(module), module)}


def clocks(tree: ast.AST) -> set[str]:
    """Calls that read a clock: ``datetime.now()``, ``date.today()``, ``time.time()`` …"""
    found = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        name = name_of(node.func)
        owner = name.split(".")[-2] if "." in name else ""
        if node.func.attr in CLOCKS and owner in ("datetime", "date", "time"):
            found.add(name)
    return found


def test_every_package_and_module_is_looked_at() -> None:
    assert {path.parts[0] for path in MODULES} == set(PACKAGES)
    assert {"telemetry/receiver.py", "telemetry/formats/native.py", "cli/main.py"} <= set(NAMES)
    assert {path.stem for path in MODULES if path.parts[0] == "telemetry"} >= SHELLS


@each_module
def test_imports_go_one_way(module: Path) -> None:
    package = module.parts[0]
    later = PACKAGES[PACKAGES.index(package) + 1 :]
    assert not roots(module) & {*later, "tests", "benchmarks"}


@each_module
def test_what_is_imported_can_be_seen(module: Path) -> None:
    assert "?" not in roots(module)


@pytest.mark.parametrize(
    "module",
    telemetry := [path for path in MODULES if path.parts[0] == "telemetry"],
    ids=[str(path) for path in telemetry],
)
def test_telemetry_knows_no_bus_and_no_database(module: Path) -> None:
    # A meter's outbox is a file of its own, on the meter.
    own = {"sqlite3"} if module.stem == "outbox" else set()
    assert not roots(module) & {"zmq", "sqlalchemy", "sqlite3", "psycopg"} - own


@each_pure_module
def test_a_pure_module_is_given_its_time_its_chance_and_its_bytes(module: Path) -> None:
    assert not roots(module) & IMPURE
    assert not clocks(tree_of(module))
    shells = {f"telemetry.{shell}" for shell in SHELLS}
    assert not set(imported(tree_of(module), module)) & shells


@each_pure_module
def test_a_pure_module_draws_no_random_numbers_without_a_seed(module: Path) -> None:
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Call) and ".random." in (name := name_of(node.func)):
            assert name.endswith(".default_rng"), name
            assert node.args, "default_rng without a seed"


@each_module
def test_a_module_says_what_it_is_about(module: Path) -> None:
    docstring = ast.get_docstring(tree_of(module))
    assert docstring
    assert docstring[0].isupper() or not docstring[0].isalpha()


@each_module
def test_a_module_is_about_one_thing_and_short(module: Path) -> None:
    lines = len((ROOT / module).read_text(encoding="utf-8").splitlines())
    longest, _ = EXCEPTIONS.get(module.as_posix(), (LONGEST, ""))
    assert lines <= longest


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_an_exception_is_still_needed(name: str) -> None:
    _, reason = EXCEPTIONS[name]
    assert reason
    assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) > LONGEST


@pytest.mark.parametrize(
    ("text", "package", "found"),
    [
        ("import os.path", "telemetry", {"os.path"}),
        ("from . import native", "telemetry/formats", {"telemetry.formats"}),
        ("from .. import clock", "telemetry/formats", {"telemetry"}),
        ("from ..clock import EARLIEST", "telemetry/formats", {"telemetry.clock"}),
        ("def f():\n import zmq", "telemetry", {"zmq"}),
        ("if TYPE_CHECKING:\n from cli import main", "telemetry", {"cli", "cli.main"}),
        ("importlib.import_module('zmq')", "telemetry", {"zmq"}),
        ("__import__(name)", "telemetry", {"?"}),
    ],
)
def test_this_test_sees_imports(text: str, package: str, found: set[str]) -> None:
    assert found <= set(imported(ast.parse(text), Path(package) / "module.py"))


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("datetime.now(UTC)", True),
        ("datetime.datetime.now()", True),
        ("date.today()", True),
        ("time.time()", True),
        ("time.monotonic()", True),
        ("datetime(2026, 1, 1)", False),
        ("moment.time()", False),
        ("readings.time", False),
    ],
)
def test_this_test_sees_clocks(text: str, seen: bool) -> None:
    assert bool(clocks(ast.parse(text))) == seen


def test_the_order_of_packages_is_the_documented_one() -> None:
    for name in ("docs/architecture.md", "CONTRIBUTING.md"):
        path = ROOT / name
        if path.exists() and "telemetry ←" in (text := path.read_text(encoding="utf-8")):
            order = re.search(r"telemetry ← (\w+) ← (\w+) ← (\w+)", text)
            assert order
            assert order.groups() == PACKAGES[1:]
