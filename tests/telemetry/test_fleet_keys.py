"""Key files of fleets: a key alone, lines of id and key, and the CSV that the collector writes."""

from __future__ import annotations

import pytest

from telemetry.fleet_keys import parse_keys

ONE, TWO = "11" * 16, "22" * 16
KEYS = [bytes.fromhex(ONE), bytes.fromhex(TWO)]


@pytest.mark.parametrize(
    "text",
    [
        f"a {ONE}\nb {TWO}\n",
        f"b  {TWO}\n\nother nonsense at all\na\t{ONE}",
        f"id,key_id,key\na,1,{ONE}\nb,1,{TWO}\nc,1,\n",
    ],
)
def test_keys_by_meter(text: str) -> None:
    assert parse_keys(text, ["a", "b"], 1) == KEYS
    assert parse_keys(text, ["b"], 1) == KEYS[1:]


def test_a_key_alone() -> None:
    assert parse_keys(f"{ONE}\n", ["a"], 1) == KEYS[:1]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "there is no key of a"),
        (f"a {ONE}", "there is no key of b"),
        (f"a {ONE}\nb {ONE}", "two meters have the same key"),
        (f"a {ONE}\nb", "line 2: write a meter's id and its key"),
        (f"a {ONE}\nb 12", "line 2: this is no key: 32 hexadecimal digits"),
        (f"id,key_id,key\na,2,{ONE}", "line 2: this is key 2: give --key-id 2"),
    ],
)
def test_wrong_key_files(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_keys(text, ["a", "b"], 1)
