"""docs/decisions: one number each, and links between pages lead somewhere."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def test_each_decision_has_its_own_number() -> None:
    names = [path.name for path in (DOCS / "decisions").glob("*.md")]
    assert len(names) >= 15
    taken = Counter(name[:4] for name in names)
    twice = sorted(name for name in names if taken[name[:4]] > 1)
    assert not twice, f"take the next number for one of {twice}, in its heading and in links too"
    for path in (DOCS / "decisions").glob("*.md"):
        assert path.read_text(encoding="utf-8").startswith(f"# {int(path.name[:4])}. "), path.name


def test_links_between_pages_lead_somewhere() -> None:
    found = 0
    for page in [*DOCS.rglob("*.md"), DOCS.parent / "README.md"]:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"
                found += 1
    assert found > 20
