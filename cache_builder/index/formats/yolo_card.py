"""data.yaml of a YOLO folder: its classes, with names as they are written, and the shape of its keypoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from cckt.cache_builder.base.errors import UserError, brief, counted
from cckt.cache_builder.base.untrusted.regular_files import read_regular
from cckt.cache_builder.base.untrusted.text import natural


def read_card(path: Path) -> dict[str, Any]:
    try:
        content = read_regular(path)
        card = yaml.safe_load(content)
    except OSError as fault:
        raise UserError(
            f"{path} cannot be read ({fault.strerror}): give the data.yaml of the YOLO folder"
        ) from None
    # ValueError and OverflowError: dates such as 2001-99-99
    except (yaml.YAMLError, RecursionError, ValueError, OverflowError) as fault:
        raise UserError(f"{path} is not YAML ({' '.join(str(fault).split())}); repair it") from None
    if not isinstance(card, dict):
        raise UserError(f"{path} holds {brief(card)}, expected keys such as 'train' and 'names'")
    if "names" in card:
        card["names"] = _names_as_written(content, path)
    return card


def _names_as_written(content: bytes, path: Path) -> object:
    """Return the entry 'names' with names as they are written: YAML reads `no` as false, and 010 as 8."""
    root = yaml.compose(content, yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode), "expected a table, which was read before"
    node = [value for key, value in root.value if key.value == "names"][-1]
    if isinstance(node, yaml.SequenceNode) and all(isinstance(one, yaml.ScalarNode) for one in node.value):
        return [_text_of(one) for one in node.value]
    if not isinstance(node, yaml.MappingNode) or not all(
        isinstance(one, yaml.ScalarNode) for pair in node.value for one in pair
    ):
        return yaml.safe_load(content)["names"]
    table: dict[object, str | None] = {}
    for key, value in node.value:
        number = natural(key.value)
        if number is not None and number in table:
            raise UserError(f"{path}: 'names' has the number {number} twice, expected once; correct it")
        table[key.value if number is None else number] = _text_of(value)
    return table


def _text_of(node: yaml.ScalarNode) -> str | None:
    """Return a scalar as text; None for an empty one that is not quoted."""
    return None if node.style is None and node.value in ("", "~", "null") else str(node.value)


def class_names(card: dict[str, Any], path: Path) -> dict[int, str]:
    """Return number -> name of the classes, from a list of names or a table of numbers and names."""
    names = card.get("names")
    table = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(table, dict) or not table:
        raise UserError(f"{path}: 'names' is {brief(names)}, expected a list of class names or number: name")
    for number, name in table.items():
        if type(number) is not int or not isinstance(name, str | int | float) or not str(name).strip():
            raise UserError(
                f"{path}: 'names' has {brief(number)}: {brief(name)}, expected a number and a name"
            )
    if "nc" in card and card["nc"] != len(table):
        raise UserError(
            f"{path}: 'nc' is {brief(card['nc'])} and 'names' has {counted(len(table), 'name')}; correct one "
            "of them"
        )
    return {number: " ".join(str(name).split()) for number, name in table.items()}


def keypoint_values(card: dict[str, Any], path: Path) -> int:
    """Return how many numbers of keypoints follow the box in each line; 0 where labels are no poses."""
    shape = card.get("kpt_shape")
    if shape is None:
        return 0
    if not isinstance(shape, list) or [type(one) for one in shape] != [int, int] or shape[1] not in (2, 3):
        raise UserError(
            f"{path}: 'kpt_shape' is {brief(shape)}, expected the number of keypoints and 2 or 3; correct it"
        )
    return int(shape[0] * shape[1])
