"""Make docs/options.md from the code: `python -m cckt.detector.config.options_page docs/options.md`."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

from cckt.cache_builder.base.atomic_files import write_bytes
from cckt.detector.config.config import Config
from cckt.detector.config.recipes import RECIPES

HEAD = """# Recipes and options

*Made from the code by `python -m cckt.detector.config.options_page docs/options.md`; do not edit.*

`cckt train --recipe NAME` starts from a recipe, and `--set SECTION.OPTION=VALUE` changes one option of it.
`cckt train --recipe NAME --print-config` shows all values. The defaults below are those of `coco-48-17-r50`.
"""


def options_page() -> str:
    """Return the page: every recipe with its sentence and changed options, and every option by section."""
    parts = [HEAD, "## Recipes\n"]
    for name, make in RECIPES.items():
        parts.append(f"### {name}\n\n{_paragraphs(inspect.getdoc(make) or '')}\n")
    parts.append("## Options\n")
    for section, value in _sections(Config()):
        parts.append(f"### {section}\n\n{_paragraphs(inspect.getdoc(type(value)) or '')}\n")
        texts, hints = _field_docs(type(value)), get_type_hints(type(value))
        for field in dataclasses.fields(value):
            default = plain_value(getattr(value, field.name))
            kinds = get_args(hints[field.name]) if "Literal" in str(hints[field.name]) else ()
            choices = f"; one of {', '.join(map(str, kinds))}" if kinds else ""
            text = texts.get(field.name, "").replace("\n", " ")
            parts.append(f"* `{section}.{field.name}` ({default}{choices}): {text}")
        parts.append("")
    return "\n".join(_wrapped(line) for part in parts for line in part.split("\n")).rstrip() + "\n"


def _sections(config: Config) -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield field.name, value
        elif field.name == "terms":
            yield from ((f"terms.{name}", term) for name, term in config.terms.items())


def _field_docs(section: type) -> dict[str, str]:
    """Return the docstring below each field of a dataclass and its bases."""
    found: dict[str, str] = {}
    for owner in reversed(section.__mro__):
        if not dataclasses.is_dataclass(owner):
            continue
        (tree,) = ast.parse(inspect.cleandoc("\n" + inspect.getsource(owner))).body
        assert isinstance(tree, ast.ClassDef), f"expected a class, found {tree}"
        for one, after in zip(tree.body, tree.body[1:], strict=False):
            if not isinstance(one, ast.AnnAssign) or not isinstance(one.target, ast.Name):
                continue
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                found[one.target.id] = " ".join(str(after.value.value).split())
    return found


def plain_value(value: Any) -> str:
    if isinstance(value, tuple | list):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value) or '""'


def _paragraphs(text: str) -> str:
    """Return a docstring as Markdown: paragraphs on one line, indented blocks as code."""
    parts = []
    for block in text.split("\n\n"):
        if block.startswith("    "):
            parts.append("```\n" + inspect.cleandoc(block) + "\n```")
        else:
            parts.append(" ".join(block.split()))
    return "\n\n".join(parts)


def _wrapped(line: str, width: int = 118) -> str:
    """Return a line broken at spaces; continuation lines of a list are indented."""
    if len(line) <= width:
        return line
    indent, rows, row = "  " if line.startswith("* ") else "", [], ""
    for word in line.split(" "):
        if row.strip() and len(row) + 1 + len(word) > width:
            rows.append(row)
            row = indent + word
        else:
            row = f"{row} {word}" if row else word
    return "\n".join([*rows, row])


if __name__ == "__main__":
    write_bytes(Path(sys.argv[1]), options_page().encode())
