"""Ladders: what is kept of a meter's readings as they grow old (grammar in docs/retention.md)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from itertools import pairwise

from telemetry.spans import DAY_MS


class Keep(StrEnum):
    """What is kept of readings that are old enough, from fine to coarse."""

    RAW = "raw"
    QUARTER = "15 min"
    DAY = "day"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Tier:
    """Readings older than ``age_ms`` are kept as ``keep`` says, which is not RAW."""

    keep: Keep
    age_ms: int


Ladder = tuple[Tier, ...]
"""The tiers by age; without any, everything is kept as it was sent."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Which ladder is whose: the first of the groups (pattern of ids, ladder) that matches."""

    default: Ladder = ()
    groups: tuple[tuple[str, Ladder], ...] = ()

    def ladder(self, meter_id: str) -> Ladder:
        """The ladder of the meter with an id."""
        matching = (ladder for pattern, ladder in self.groups if fnmatchcase(meter_id, pattern))
        return next(matching, self.default)

    @property
    def keeps_all(self) -> bool:
        """Whether no ladder has a tier: there is nothing to do."""
        return not self.default and not any(ladder for _, ladder in self.groups)


KEEP_ALL = Policy()


class LadderError(ValueError):
    """A text that is no ladder; the message says why and gives an example."""


_EXAMPLE = 'for example "raw 90 d, 15 min 5 y, day"'
_UNITS = {"d": DAY_MS, "w": 7 * DAY_MS, "y": 365 * DAY_MS}
_LONGEST_MS = 1000 * _UNITS["y"]
_ORDER = list(Keep)
_NAMES = {keep.replace(" ", ""): keep for keep in Keep}
_STEP = re.compile(r"(raw|15\s*min|day|none)\b\s*(.*)")
_AGE = re.compile(r"(\d+)\s*([a-z]+)", re.ASCII)


def parse(text: str) -> Ladder:
    """The ladder that a text says; raises LadderError."""
    steps = [_step(part.strip().lower()) for part in text.split(",")]
    if steps[0][0] is not Keep.RAW:
        raise LadderError(f'a ladder starts with "raw", {_EXAMPLE}')
    tiers: list[Tier] = []
    for (before, age), (keep, _) in pairwise(steps):
        if _ORDER.index(keep) <= _ORDER.index(before):
            raise LadderError(f'"{keep}" after "{before}" is no coarser step: {_EXAMPLE}')
        if age is None:
            raise LadderError(f'"{before}" needs the age at which "{keep}" begins: {_EXAMPLE}')
        if tiers and age <= tiers[-1].age_ms:
            raise LadderError(f'the age of "{before}" must be more than the one before: {_EXAMPLE}')
        tiers.append(Tier(keep, age))
    last, age = steps[-1]
    if age is not None:
        more = f'leave its age out, or add ", {Keep.NONE}" to delete what is older'
        said = "has no age: nothing is kept" if last is Keep.NONE else f"is kept for ever: {more}"
        raise LadderError(f'the last step "{last}" {said}')
    return tuple(tiers)


def _step(text: str) -> tuple[Keep, int | None]:
    found = _STEP.fullmatch(text)
    if found is None:
        known = ", ".join(Keep)
        raise LadderError(f"{text!r} is no step ({known}), with an age after it: {_EXAMPLE}")
    keep = _NAMES[re.sub(r"\s", "", found.group(1))]
    return keep, _age(keep, found.group(2)) if found.group(2) else None


def _age(keep: Keep, text: str) -> int:
    found = _AGE.fullmatch(text)
    if found is None or found.group(2) not in _UNITS:
        raise LadderError(
            f'{text!r} after "{keep}" is no age: a number and d, w or y (days, weeks, years), '
            'as in "90 d"'
        )
    age = int(found.group(1)) * _UNITS[found.group(2)]
    if not 0 < age <= _LONGEST_MS:
        raise LadderError(f"an age is 1 d to 1000 y, not {text}")
    return age
