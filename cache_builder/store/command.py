"""The command that makes a column, or what is left of it: read off its name and its recipe, for messages."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from typing import Any

from cckt.cache_builder.store.naming import parse_name

QUESTION = "Question: Does {concept} exist in the image? Answer:"
"""What a multimodal LLM is asked unless it is told otherwise (METHOD.md section 3)."""

Settings = dict[str, tuple[Any, Any]]
"""Option of the command -> its value in the recipe (None: not known), and its usual value."""


def mending_command(data: str, name: str, recipe: Mapping[str, Any] | None = None) -> str:
    """`cckt cache ...` that makes the column `name` of `data` as `recipe` says.

    Without a recipe (no column is there) it names no choice. What a recipe does not hold stands in capitals
    for the user to fill in: where a file of templates, or the data of --calibrate, lie.
    """
    named = parse_name(name)
    kind, options = (named.kind, named.options) if named else (name, "")
    verb, _, source = kind.partition("/")
    known = _SETTINGS.get(source or verb)
    settings = known(recipe or {}) if known else {}
    chosen = [
        f" {option}" if value is True else f" {option} {shlex.quote(str(value))}"
        for option, (value, usual) in settings.items()
        if value and value != usual
    ]
    return "".join((f"cckt cache {verb} {shlex.quote(data)}{options}", *chosen))


def _text(recipe: Mapping[str, Any]) -> Settings:
    templates = _at(recipe, "templates", "name")
    return {
        **_teacher(recipe),
        "--templates": ("TEMPLATES_FILE" if templates == "own" else templates, "ensemble12"),
        "--synonyms": (_at(recipe, "synonyms"), False),
        "--import": (_at(recipe, "import", "file"), None),
    }


def _images(recipe: Mapping[str, Any]) -> Settings:
    return {
        **_teacher(recipe),
        "--fast": ("fast" in recipe, False),
        "--batch": (_at(recipe, "batch"), 256),
    }


def _crops(recipe: Mapping[str, Any]) -> Settings:
    return {**_images(recipe), "--crop": (_at(recipe, "crop", "rule"), "box")}


def _clip(recipe: Mapping[str, Any]) -> Settings:
    return {"--tau": (_at(recipe, "tau"), 0.07)}


def _mllm(recipe: Mapping[str, Any]) -> Settings:
    keep = _at(recipe, "prefilter", "keep")
    return {
        "--mllm": (True, False),
        "--mllm-model": (_at(recipe, "model", "name"), None),
        "--mllm-prompt": (_at(recipe, "prompt"), QUESTION),
        "--backend": (_at(recipe, "backend"), "transformers"),
        "--precision": (_at(recipe, "model", "dtype"), "fp32"),
        "--prefilter": (f"clip:{keep}" if keep else None, None),
        "--calibrate": ("TRAINING_DATA" if _at(recipe, "calibrated_on") else None, None),
    }


_SETTINGS: dict[str, Callable[[Mapping[str, Any]], Settings]] = {
    "text": _text,
    "images": _images,
    "crops": _crops,
    "clip": _clip,
    "mllm": _mllm,
}


def _teacher(recipe: Mapping[str, Any]) -> Settings:
    return {
        "--teacher": (_at(recipe, "teacher", "name"), None),
        "--precision": (_at(recipe, "teacher", "precision"), "fp32"),
    }


def _at(recipe: Mapping[str, Any], *keys: str) -> Any:
    """What stands in a recipe, which a file of anyone's may hold; None where it does not."""
    value: Any = recipe
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
