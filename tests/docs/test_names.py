"""Lines of the pages are short; links and file names on them, and in comments, resolve."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.source import ROOMS
from tests.docs.pages import PAGES, fenced_blocks, join_continued_lines, page_id, without_fenced_blocks
from tests.places import ROOT

OTHERS_FILES = ROOT / "docs" / "method" / "hd_ovd.md"
"""A page that names files of other repositories."""


FORMER_PAGES = re.compile(r"\b(METHOD|HIERARCHICAL|DESIGN)(\.md|'s)")
"""Documents that are not part of the repository. docs/method/ replaces them."""


LINE_LENGTH = 120


MADE_BY_USERS = {
    ".grow/",
    ".kept/",
    "caches/more/",
    "convert.py",
    "demo/",
    "photos/",
    "quickstart/predictions/",
    "tensorboard/",
    "train2017/",
}
"""Folders and files on the pages that a user has or that a command makes."""


FILES_OF_USERS = {"OUT/TABLE.md", "detector.py", "evil.py"}
"""Files in docstrings and comments that a user may have or that a command writes."""


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_lines_of_a_page_are_short(page: Path) -> None:
    """No line is exempt: a long command continues after a backslash, a wide table has notes below it."""
    lines = page.read_text(encoding="utf-8").splitlines()
    assert not [(number, len(line)) for number, line in enumerate(lines, 1) if len(line) > LINE_LENGTH]


def anchor(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def links(page: Path) -> list[tuple[str, str]]:
    """(path relative to the page, anchor) of the links of a page, without those to other sites."""
    targets = re.findall(r"\]\(([^)\s]+)\)", without_fenced_blocks(page.read_text(encoding="utf-8")))
    local = [target for target in targets if "://" not in target]
    return [(path, mark) for path, _, mark in (target.partition("#") for target in local)]


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_of_a_page_have_targets(page: Path) -> None:
    for path, mark in links(page):
        target = page.parent / path if path else page
        assert target.exists(), path
        if mark:
            text = without_fenced_blocks(target.read_text(encoding="utf-8"))
            assert mark in map(anchor, re.findall(r"^#+ (.+)$", text, re.MULTILINE)), f"{path}#{mark}"


def named_files(text: str) -> Iterator[str]:
    """Files and folders that a page names in backticks, and scripts that its blocks run.

    A name is a word that ends in .py, .md or a slash, without placeholders such as OUT/TABLE.md or *.
    """
    joined = join_continued_lines(text)
    spans = re.findall(r"`([^`\n]+)`", without_fenced_blocks(joined))
    for _, block in fenced_blocks(joined):
        spans += re.findall(r"\bpython (\S+\.py)\b", block)
    for word in (word for span in spans for word in span.split()):
        if re.fullmatch(r"[\w./-]*\w(\.py|\.md|/)", word) and not re.search(r"\b[A-Z]+\b(?!\.md)", word):
            yield word


def exists_near(name: str, folder: Path) -> bool:
    """Whether a file exists relative to `folder` or to a folder above it, up to the repository root."""
    above = [folder, *folder.parents]
    return any((place / name).exists() for place in above[: above.index(ROOT) + 1])


def test_file_names_are_read_from_pages() -> None:
    text = "`a.py`, `docs/b.md --x`, `c/`, `OUT/TABLE.md`, `d/*.py`, `README.md`\n"
    page = f"{text}```\npython e.py --f g.md\n```\n"
    assert list(named_files(page)) == ["a.py", "docs/b.md", "c/", "README.md", "e.py"]


@pytest.mark.parametrize("page", [page for page in PAGES if page != OTHERS_FILES], ids=page_id)
def test_files_that_a_page_names_exist(page: Path) -> None:
    names = set(named_files(page.read_text(encoding="utf-8"))) - MADE_BY_USERS
    assert not sorted(name for name in names if not exists_near(name, page.parent))


def python_files() -> list[Path]:
    folders = (*ROOMS, "cckt", "benchmarks", "tests")
    return [
        *ROOT.glob("*.py"),
        *(path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))),
    ]


def prose(path: Path) -> Iterator[str]:
    """Docstrings and comments of a Python file."""
    source = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            yield node.value.value
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


def test_files_that_docstrings_and_comments_name_exist() -> None:
    wrong = []
    for path in python_files():
        for name in re.findall(r"(?<![\w/.<*-])[\w./-]*\w\.(?:py|md)\b", "\n".join(prose(path))):
            if name not in FILES_OF_USERS and not exists_near(name, path.parent):
                wrong.append(f"{path.relative_to(ROOT)}: {name}")
    assert not wrong


def test_no_file_mentions_documents_outside_the_repository() -> None:
    texts = [*python_files(), *PAGES, ROOT / "pyproject.toml", ROOT / ".ci" / "run"]
    wrong = [path for path in texts if FORMER_PAGES.search(path.read_text(encoding="utf-8"))]
    assert not [page_id(path) for path in wrong]
