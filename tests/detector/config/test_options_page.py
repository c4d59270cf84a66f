"""docs/options.md is what the code says."""

from __future__ import annotations

from pathlib import Path

from cckt.detector.config.config import Config
from cckt.detector.config.options_page import options_page
from cckt.detector.config.recipes import RECIPES

PAGE = Path(__file__).parents[3] / "docs" / "options.md"


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == options_page(), (
        "run python -m cckt.detector.config.options_page docs/options.md"
    )


def test_every_recipe_and_option_has_its_sentence() -> None:
    page = options_page()
    assert [f"### {name}\n" in page for name in RECIPES] == [True] * len(RECIPES)
    lines = page.splitlines()
    for option in Config().options():
        (found,) = [line for line in lines if line.startswith(f"* `{option}` (")]
        assert len(found.partition("): ")[2]) > 3 or not found.endswith("): "), found
