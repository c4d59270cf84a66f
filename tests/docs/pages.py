"""Pages of the repository, and their code blocks."""

from __future__ import annotations

import re
from pathlib import Path

from tests.places import ROOT

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "caches" / "README.md",
    ROOT / "benchmarks" / "README.md",
    ROOT / "shapeworld" / "README.md",
]


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def fenced_blocks(text: str) -> list[tuple[str, str]]:
    """(language, code) of every fenced block of a page."""
    return re.findall(r"^```([^\n]*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def without_fenced_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def join_continued_lines(text: str) -> str:
    """Join lines that end with a backslash, as a shell does."""
    return re.sub(r"\\\n\s*", " ", text)


def docs_page(name: str) -> Path:
    return ROOT / "docs" / f"{name}.md"
