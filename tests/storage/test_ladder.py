"""Ladders of retention: their grammar, what is said of wrong ones, and whose is whose."""

import re
from pathlib import Path

import pytest

from storage.ladder import Keep, LadderError, Policy, Tier, parse
from telemetry.calendar import DAY_MS

YEAR = 365 * DAY_MS
DOCUMENT = (Path(__file__).parents[2] / "docs/retention.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("text", "ladder"),
    [
        ("raw", ()),
        (
            "raw 90 d, 15 min 5 y, day",
            (Tier(Keep.QUARTER, 90 * DAY_MS), Tier(Keep.DAY, 5 * YEAR)),
        ),
        ("RAW 90d,15MIN 5y,Day", (Tier(Keep.QUARTER, 90 * DAY_MS), Tier(Keep.DAY, 5 * YEAR))),
        ("raw 2 w, 15 min", (Tier(Keep.QUARTER, 14 * DAY_MS),)),
        ("raw 2 y, day 10 y, none", (Tier(Keep.DAY, 2 * YEAR), Tier(Keep.NONE, 10 * YEAR))),
        ("raw 1000 y, none", (Tier(Keep.NONE, 1000 * YEAR),)),
        (" raw 1 d ,\n 15  min 2 d, day  3 d , none ", parse("raw 1d,15min 2d,day 3d,none")),
    ],
)
def test_ladders(text: str, ladder: tuple[Tier, ...]) -> None:
    assert parse(text) == ladder


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "'' is no step (raw, 15 min, day, none), with an age after it: for example"),
        ("raw 90 d,", "'' is no step"),
        ("raw 90 d, hour", "'hour' is no step"),
        ("rawish", "'rawish' is no step"),
        ("day", 'a ladder starts with "raw", for example'),
        ("15 min 5 y, raw", 'a ladder starts with "raw"'),
        ("raw 1 d, day 2 d, 15 min", '"15 min" after "day" is no coarser step'),
        ("raw 1 d, raw", '"raw" after "raw" is no coarser step'),
        ("raw 1 d, none, day", '"day" after "none" is no coarser step'),
        ("raw, day", '"raw" needs the age at which "day" begins'),
        ("raw 90 d, 15 min, day", '"15 min" needs the age at which "day" begins'),
        ("raw 5 y, 15 min 90 d, day", 'the age of "15 min" must be more than the one before'),
        ("raw 5 d, 15 min 5 d, day", 'the age of "15 min" must be more than the one before'),
        ("raw 90 d", 'the last step "raw" is kept for ever: leave its age out, or add ", none"'),
        ("raw 9 d, none 2 y", 'the last step "none" has no age'),
        ("raw 90, day", "'90' after \"raw\" is no age: a number and d, w or y"),
        ("raw 3 months, day", "'3 months' after \"raw\" is no age"),
        ("raw -3 d, day", "'-3 d' after \"raw\" is no age"),
        ("raw 1.5 y, day", "'1.5 y' after \"raw\" is no age"),
        ("raw ٣ d, day", "is no age"),
        ("raw 0 d, day", "an age is 1 d to 1000 y, not 0 d"),
        ("raw 1001 y, day", "an age is 1 d to 1000 y, not 1001 y"),
        ("raw 90 d; day", "'90 d; day' after \"raw\" is no age"),
    ],
)
def test_what_is_wrong_is_said(text: str, said: str) -> None:
    with pytest.raises(LadderError, match=re.escape(said)):
        parse(text)


def test_the_first_group_that_matches_rules() -> None:
    short, long = parse("raw 1 d, none"), parse("raw 9 y, day")
    policy = Policy(long, (("campus-?", ()), ("campus-*", short)))
    assert policy.ladder("campus-7") == ()
    assert policy.ladder("campus-77") == short
    assert policy.ladder("Campus-77") == long
    assert not policy.keeps_all
    assert Policy().keeps_all
    assert Policy((), (("x", ()),)).keeps_all
    assert not Policy((), (("x", short),)).keeps_all


def test_every_ladder_of_the_document_is_one() -> None:
    ladders = re.findall(r'ladder = "(.*?)"', DOCUMENT) + re.findall(r"`(raw .*?)`", DOCUMENT)
    assert len(ladders) >= 6
    for text in ladders:
        parse(text)
