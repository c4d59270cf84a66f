"""Refuse a teacher whose files would have Python code of their own executed.

A teacher is data: a configuration, weights and a tokenizer. Libraries also accept code: transformers executes
the Python files that `auto_map` names wherever `trust_remote_code` is true, and open_clip passes
`tokenizer_kwargs` of a configuration on to transformers. No option permits that for a teacher.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.untrusted.regular_files import read_regular
from cckt.cache_builder.base.untrusted.text import parse_json

TRUST, CODE, KERNEL = "trust_remote_code", "auto_map", "attn_implementation"
"""Keys of a JSON file: permit code (where true), name the code, and name code on the hub (as OWNER/NAME)."""

READ_BY_TRANSFORMERS = ("config.json", "tokenizer_config.json")
"""Files of a folder in which transformers looks for `auto_map`."""


def refuse_code_of_config(teacher: str, config: Mapping[str, Any], source: Path | str) -> None:
    """Raise UserError if an open_clip configuration permits or names code, at any level.

    config: the content of open_clip_config.json, or only its `model_cfg`. source: its file or repository, for
    the message. Where it names a text tower in a local folder, the files of that folder are checked too.
    """
    _refuse(teacher, config, source)
    tower = text_tower_folder(config)
    if tower is not None:
        refuse_code_of_folder(teacher, tower)


def text_tower_folder(config: Mapping[str, Any]) -> Path | None:
    """Return the local folder of the text tower that an open_clip configuration names, if it names one."""
    text = config.get("model_cfg", config).get("text_cfg")
    tower = text.get("hf_model_name") if isinstance(text, Mapping) else None
    return Path(tower) if isinstance(tower, str) and tower and Path(tower).is_dir() else None


def refuse_code_of_folder(teacher: str, folder: Path) -> None:
    """Raise UserError if a file that transformers reads in `folder` permits or names code.

    A file that is missing or is not JSON passes: the library that reads it reports that.
    """
    for name in READ_BY_TRANSFORMERS:
        try:
            content = parse_json(read_regular(folder / name))
        except (OSError, ValueError):
            continue
        _refuse(teacher, content, folder / name)


def _refuse(teacher: str, content: Any, source: Path | str) -> None:
    for path, value in _leaves(content):
        key = next((key for key in path if key in (TRUST, CODE, KERNEL)), None)
        if key is None or (key == TRUST and not value) or (key == KERNEL and "/" not in str(value)):
            continue
        raise UserError(
            f"teacher {teacher}: {source} has {'.'.join(path)} = {value!r}, which would execute Python code "
            f"that comes with the teacher; expected a teacher without code, remove the key {key!r} or name "
            "another teacher."
        )


def _leaves(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Path and value of every entry of a JSON value that holds no further entries."""
    if isinstance(tree, Mapping) and tree:
        for key, value in tree.items():
            yield from _leaves(value, (*path, str(key)))
    elif isinstance(tree, list) and tree:
        for position, value in enumerate(tree):
            yield from _leaves(value, (*path, str(position)))
    else:
        yield path, tree
