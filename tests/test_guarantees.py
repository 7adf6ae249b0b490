"""The page of theorems names code and tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")


def test_every_test_that_the_page_names_is_there() -> None:
    """Catches: a theorem whose test was renamed or removed."""
    every = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert named
    assert {name for name in named if f"def {name}(" not in every} == set()
    files = set(re.findall(r"`(tests/[\w/]+\.py)`", PAGE))
    assert files
    assert {name for name in files if not (ROOT / name).is_file()} == set()


def test_every_file_that_the_page_names_is_there() -> None:
    named = set(re.findall(r"`((?:privacy|ledger|compare|audit|tasks)/\w+\.py)", PAGE))
    assert named
    places = (ROOT / "dpft", ROOT / "dpft" / "privacy")
    assert {name for name in named if not any((place / name).is_file() for place in places)} == set()
