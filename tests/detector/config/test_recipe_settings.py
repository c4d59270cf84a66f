"""docs/reproducing.md states the settings of the full-size recipes, and all in which they differ."""

from __future__ import annotations

import re

import pytest

from cckt.detector.config.options_page import plain_value
from cckt.detector.config.recipes import recipe
from tests.places import ROOT

PAGE = (ROOT / "docs" / "reproducing.md").read_text()
FIRST = "coco-48-17-r50"


def tables() -> dict[str, dict[str, str]]:
    """Return recipe -> option -> value in the column "ours"."""
    found: dict[str, dict[str, str]] = {}
    for part in PAGE.split("\n### ")[1:]:
        rows = re.findall(r"^\| `([\w.]+)` \|[^|]*\|[^|]*\| `([^`]*)` \|$", part, re.MULTILINE)
        if rows:
            found[part.partition("\n")[0]] = dict(rows)
    return found


def test_the_page_has_a_table_for_every_recipe_of_the_paper() -> None:
    assert list(tables()) == [FIRST, "coco-48-17-swinb", "lvis-r50", "lvis-swinb"]
    assert len(tables()[FIRST]) > 20


@pytest.mark.parametrize("name", tables())
def test_the_stated_settings_are_those_of_the_recipe(name: str) -> None:
    options = recipe(name).options()
    stated = tables()[name]
    assert stated == {option: plain_value(options[option]) for option in stated}


@pytest.mark.parametrize("name", [name for name in tables() if name != FIRST])
def test_every_difference_from_the_first_recipe_is_stated(name: str) -> None:
    first, own = recipe(FIRST).options(), recipe(name).options()
    assert {option for option in own if own[option] != first[option]} == {*tables()[name]}
