"""CONTRIBUTING.md: every file and table that it sends a newcomer to exists, and every seam has its entry."""

from __future__ import annotations

import ast
import re

import pytest

from tests.places import ROOT

PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
PATH = re.compile(r"`((?:[\w.]+/)+[\w.]*|[\w]+\.(?:py|md|toml))`")
NAMED = re.compile(r"`(\w+)` (?:of|in) `([\w/]+\.py)`")


def paths() -> list[str]:
    return sorted({path for path in PATH.findall(PAGE) if "NAME" not in path and path != "__init__.py"})


@pytest.mark.parametrize("path", paths())
def test_every_file_exists(path: str) -> None:
    assert (ROOT / path).exists(), path


@pytest.mark.parametrize(("name", "path"), sorted(set(NAMED.findall(PAGE))))
def test_every_table_and_function_is_where_the_page_says(name: str, path: str) -> None:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    targets = [
        target
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
    ]
    defined |= {target.id for target in targets if isinstance(target, ast.Name)}
    assert name in defined, f"{path} defines no {name}"


def test_the_page_names_enough_to_be_worth_checking() -> None:
    assert len(paths()) > 40
    assert len(NAMED.findall(PAGE)) >= 12


@pytest.mark.parametrize(
    "subject",
    [
        "column kind",
        "teacher",
        "multimodal LLM",
        "student",
        "distillation term",
        "recipe",
        "annotation format",
        "export format",
        "check",
        "benchmark",
    ],
)
def test_every_way_to_grow_has_an_entry(subject: str) -> None:
    assert re.search(rf"^### An? {subject}\b", PAGE, re.MULTILINE)
