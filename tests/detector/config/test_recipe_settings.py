"""docs/reproducing.md states the settings of the full-size recipes; recipes of another length are whole."""

from __future__ import annotations

import re

import pytest

from cckt.detector.config.options_page import plain_value
from cckt.detector.config.recipes import RECIPES, in_epochs, recipe
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


@pytest.mark.parametrize("name", RECIPES)
def test_everything_that_starts_in_a_recipe_starts_in_one_of_any_length(name: str) -> None:
    full = recipe(name)
    assert in_epochs(full, full.train.epochs) == full
    for epochs in (1, 2, 3, 7, 40):
        other = in_epochs(full, epochs)
        assert other.train.epochs == epochs
        for term, options in other.terms.items():
            assert options.weight == full.terms[term].weight
            assert options.first_epoch < epochs or not options.weight, term
        for drop in ("lr_drop_epoch", "lr_second_drop_epoch"):
            before, after = getattr(full.train, drop), getattr(other.train, drop)
            assert (before == 0) == (after == 0)
            if 0 < before < full.train.epochs and epochs > 1:
                assert 0 < after < epochs
