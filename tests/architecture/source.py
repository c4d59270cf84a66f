"""The source of every module, and who imports whom."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.places import ROOT

PACKAGE = "cckt"


ROOMS = ("ablation", "cache_builder", "commands", "detector", "shapeworld")
"""Folders at the top of the repository; parts of the package by links in `cckt/`."""


def is_script(module: str) -> bool:
    """Run by hand with python -m: these train and evaluate what the package ships."""
    return module.startswith(("cckt.shapeworld.train_", "cckt.shapeworld.evaluate_"))


@dataclass(frozen=True)
class Import:
    """One imported module (of `from a.b import c` both a.b and a.b.c) and when that happens."""

    name: str
    at_top: bool
    only_typing: bool


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts if parts[0] == PACKAGE else (PACKAGE, *parts)).removesuffix(".__init__")


@cache
def sources() -> dict[str, Path]:
    files = [*ROOT.glob("*.py"), *(ROOT / PACKAGE).glob("[!.]*.py")]
    files = [path for path in files if not path.is_symlink()]
    for room in (*ROOMS, "cckt/quickstart"):
        files += sorted((ROOT / room).rglob("*.py"))
    return {module_name(path): path for path in files}


@cache
def modules() -> dict[str, ast.Module]:
    return {name: ast.parse(path.read_text(encoding="utf-8"), str(path)) for name, path in sources().items()}


@cache
def imports(module: str) -> tuple[Import, ...]:
    return tuple(imports_of(modules()[module]))


def imports_of(tree: ast.Module) -> Iterator[Import]:
    def walk(node: ast.AST, at_top: bool, only_typing: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from (Import(alias.name, at_top, only_typing) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, "imports are absolute"
                yield Import(child.module or "", at_top, only_typing)
                for alias in child.names:
                    yield Import(f"{child.module}.{alias.name}", at_top, only_typing)
            else:
                inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                typing = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
                yield from walk(child, at_top and not inside, only_typing or typing)

    yield from walk(tree, True, False)


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def importers(package: str) -> set[str]:
    return {module for module in modules() if any(within(one.name, package) for one in imports(module))}


def reached(start: str, at_top_only: bool = False) -> set[str]:
    """Everything that importing (or using) a module imports, through our own modules."""
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        module = waiting.pop()
        parts = module.split(".")
        for name in (".".join(parts[:n]) for n in range(1, len(parts) + 1)):
            if name in seen:
                continue
            seen.add(name)
            if name in modules():
                waiting += [
                    one.name
                    for one in imports(name)
                    if not one.only_typing and (one.at_top or not at_top_only)
                ]
    return seen


def calls(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node
