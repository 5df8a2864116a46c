"""What is proposed for a line that is being typed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.commands import COMMANDS
from cli.completion import completions
from cli.repl import BUILTINS

TABLE = (*COMMANDS, *BUILTINS)
IDS = ["kitchen", "kit-2", "roof"]


def proposed(text: str) -> list[str]:
    return [candidate.text for candidate in completions(text, TABLE, IDS)]


@pytest.mark.parametrize(
    ("text", "texts"),
    [
        ("me", ["meters"]),
        ("h", ["history", "help"]),
        ("  to", ["total", "top"]),
        ("meters a", ["add"]),
        ("meters s", ["show", "set"]),
        ("meters k", ["key", "kitchen", "kit-2"]),
        ("meters set ", IDS),
        ("meters add --fil", ["--file"]),
        ("meters add --key ", []),
        ("total ", IDS),
        ("total ki", ["kitchen", "kit-2"]),
        ("total kitchen --f", ["--from"]),
        ("total kitchen --from 2024-03-01 -", ["--to", "--json", "--csv"]),
        ("total kitchen --from ", []),
        ("total --from 2024-03-01 r", ["roof"]),
        ("history kitchen ", ["--step", "--from", "--to", "--json", "--csv"]),
        ("history kitchen --step ", ["raw", "15m", "hour", "day", "month"]),
        ("history kitchen --step h", ["hour"]),
        ("history --step day ", IDS),
        ("meters add x --time-zone europe/lis", ["Europe/Lisbon"]),
        ("meters add x --name 'a b' --li", ["--limit"]),
        ("readings kitchen --register volt", ["voltage_l1", "voltage_l2", "voltage_l3"]),
        ("alerts ", [*IDS, "--json", "--csv"]),
        ("fleet --by ", ["day", "month"]),
        ("fleet --prefix ki", ["kitchen", "kit-2"]),
        ("top ", ["--from", "--to", "--prefix", "--json", "--csv"]),
        ("meters delete ", IDS),
        ("meters delete kitchen -", ["--yes", "--json", "--csv"]),
        ("meters delete --yes ", IDS),
        ("use ", IDS),
        ("use kitchen ", []),
        ("meters ", ["show", "add", "key", "set", "replace", "delete", *IDS, "--json", "--csv"]),
        ("help bi", ["bill"]),
        ("nonsense ", []),
        ("meters add x --name 'a ", []),
        ("total kitchen --nonsense ", ["--from", "--to", "--json", "--csv"]),
    ],
)
def test_completions(text: str, texts: list[str]) -> None:
    assert proposed(text) == texts


def test_every_command_is_proposed_once_with_its_summary() -> None:
    found = completions("", TABLE, IDS)
    assert [candidate.text for candidate in found] == [
        entry.name for entry in TABLE if " " not in entry.name
    ]
    assert all(candidate.help for candidate in found)


@given(st.text(alphabet="adehilmnorst-' \\\t\n", max_size=30))
def test_a_candidate_continues_the_last_word(text: str) -> None:
    for candidate in completions(text, TABLE, IDS):
        word = text[len(text) - candidate.length :]
        assert candidate.text.casefold().startswith(word.casefold())
