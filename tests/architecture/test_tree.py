"""Folders and modules say what they hold, and none is crowded."""

from __future__ import annotations

import ast
import tomllib

from tests.architecture.source import (
    PACKAGE,
    ROOMS,
    modules,
    sources,
)
from tests.places import ROOT


def test_no_two_public_classes_share_a_name() -> None:
    places: dict[str, list[str]] = {}
    for module, tree in modules().items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(module)
    assert not {name: found for name, found in places.items() if len(found) > 1}


def test_no_floor_is_crowded() -> None:
    for folder in {path.parent for path in sources().values()}:
        assert len(list(folder.glob("*.py"))) <= 18, folder


def test_every_module_says_what_it_is_for() -> None:
    assert not [module for module, tree in modules().items() if not ast.get_docstring(tree)]


def test_every_folder_says_what_each_of_its_files_holds() -> None:
    missing = []
    for name, path in sources().items():
        if path.name != "__init__.py":
            continue
        text = ast.get_docstring(modules()[name]) or ""
        files = {other.name for other in path.parent.glob("*.py")} - {"__init__.py", "__main__.py"}
        folders = {f"{inner.parent.name}/" for inner in path.parent.glob("*/__init__.py")}
        links = {link.name for link in path.parent.iterdir() if link.is_symlink()}
        missing += [f"{name}: {file}" for file in sorted((files | folders) - links) if file not in text]
    assert not missing


def test_the_package_holds_every_room_by_a_link() -> None:
    """`cckt.detector` is `detector/`, in a checkout and in a wheel, and nothing else is installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["tool"]["setuptools"]["packages"]["find"]["include"] == ["cckt*"]
    links = {path.name: path.resolve() for path in (ROOT / PACKAGE).iterdir() if path.is_symlink()}
    assert links == {name: ROOT / name for name in (*ROOMS, "cli.py")}
