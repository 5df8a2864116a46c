"""The part of the configuration that says what is kept of old readings (docs/retention.md)."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from storage import ladder
from storage.ladder import LadderError, Policy


class RetentionGroup(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The ladder of the meters whose ids match a pattern."""

    meters: str
    ladder: str


class Retention(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The ladder of all meters, and those of groups: the first that matches rules."""

    ladder: str = "raw"
    groups: tuple[RetentionGroup, ...] = ()

    @property
    def policy(self) -> Policy:
        """Which ladder is whose; raises LadderError."""
        groups = ((group.meters, ladder.parse(group.ladder)) for group in self.groups)
        return Policy(ladder.parse(self.ladder), tuple(groups))

    def complaints(self) -> Iterator[tuple[str, bool, str]]:
        """Key, whether its value makes sense, and what is to be said if not."""
        yield _checked("retention.ladder", self.ladder)
        for number, group in enumerate(self.groups):
            key = f"retention.groups.{number}"
            yield f"{key}.meters", group.meters != "", "must not be empty"
            yield _checked(f"{key}.ladder", group.ladder)


def _checked(key: str, text: str) -> tuple[str, bool, str]:
    try:
        ladder.parse(text)
    except LadderError as error:
        return key, False, str(error)
    return key, True, ""
