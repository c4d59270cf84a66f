"""Read data.yaml of a YOLO folder: the names of the classes, the folder, and the photos of a subset."""

from __future__ import annotations

import os
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from cckt.cache_builder.base.errors import UserError, brief, counted
from cckt.cache_builder.base.untrusted.regular_files import read_regular, read_regular_text
from cckt.cache_builder.index.formats.image_folder import list_images

SUBSETS = ("train", "val", "test")
"""Keys of data.yaml whose values are folders or lists of photos."""

_TAG = "tag:yaml.org,2002:"
_NO_TEXT = frozenset(_TAG + kind for kind in ("bool", "int", "float", "timestamp", "value", "merge"))
"""Tags of words without quotes that YAML takes for something else than text; None stays None."""


class _KeyTwiceError(yaml.YAMLError):  # type: ignore[misc]
    """A key that one table has twice: YAML forbids it, and PyYAML would take the last."""

    def __init__(self, key: object, line: int) -> None:
        super().__init__(f"line {line}: found the key {brief(key)} twice")


class _CardLoader(yaml.SafeLoader):  # type: ignore[misc]
    """A safe loader of data.yaml that keeps class names as they are written.

    Plain YAML would make other words of some names: False of `no`, 90 of `1:30`, 1.5 of `1.50`.
    """

    def construct_document(self, node: yaml.Node) -> Any:
        """Return the value of the whole text, with the items of `names` as text.

        Raises _KeyTwiceError for a key that one table has twice; keys of a table that it merges may return.
        """
        self._refuse_twins(node)
        if isinstance(node, yaml.MappingNode):
            node.value = [
                (key, _as_written(value) if getattr(key, "value", None) == "names" else value)
                for key, value in node.value
            ]
        return super().construct_document(node)

    def _refuse_twins(self, root: yaml.Node) -> None:
        """Look through all tables before any is merged into another, each once: aliases share them."""
        waiting, known = [root], set()
        while waiting:
            node = waiting.pop()
            if node in known or not isinstance(node, yaml.CollectionNode):
                continue
            known.add(node)
            if isinstance(node, yaml.SequenceNode):
                waiting += reversed(node.value)
                continue
            keys = set()
            for key_node, _ in node.value:
                if isinstance(key_node, yaml.ScalarNode) and key_node.tag != f"{_TAG}merge":
                    key = self.construct_object(key_node)
                    if isinstance(key, Hashable) and key in keys:
                        raise _KeyTwiceError(key, key_node.start_mark.line + 1)
                    keys |= {key} if isinstance(key, Hashable) else set()
            waiting += [part for pair in reversed(node.value) for part in reversed(pair)]


def _as_written(names: yaml.Node) -> yaml.Node:
    """Return a node of class names whose items are the text that is written. `null` and nothing stay None.

    An alias may share the nodes with other keys, so they are not changed.
    """

    def text(node: yaml.Node) -> yaml.Node:
        if isinstance(node, yaml.ScalarNode) and node.tag in _NO_TEXT:
            return yaml.ScalarNode(f"{_TAG}str", node.value, node.start_mark, node.end_mark)
        return node

    if isinstance(names, yaml.SequenceNode):
        items: list[Any] = [text(name) for name in names.value]
    elif isinstance(names, yaml.MappingNode):
        items = [(key, text(name)) for key, name in names.value]
    else:
        return names
    return type(names)(names.tag, items, names.start_mark, names.end_mark)


def read_card(path: Path) -> dict[str, Any]:
    """Return what data.yaml holds. Raises UserError unless it is YAML with keys that differ."""
    try:
        card = yaml.load(read_regular(path), _CardLoader)
    except OSError as fault:
        raise UserError(
            f"{path} cannot be read ({fault.strerror}): give the data.yaml of the YOLO folder"
        ) from None
    except _KeyTwiceError as fault:
        raise UserError(f"{path}, {fault}, expected it once; remove or rename one of them") from None
    # ValueError and OverflowError: dates such as 2001-99-99
    except (yaml.YAMLError, RecursionError, ValueError, OverflowError) as fault:
        raise UserError(f"{path} is not YAML ({' '.join(str(fault).split())}); repair it") from None
    if not isinstance(card, dict):
        raise UserError(f"{path} holds {brief(card)}, expected keys such as 'train' and 'names'")
    return card


def class_names(card: dict[str, Any], path: Path) -> dict[int, str]:
    """Return number -> name of the classes, from a list of names or a table of numbers and names."""
    names = card.get("names")
    table = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(table, dict) or not table:
        raise UserError(f"{path}: 'names' is {brief(names)}, expected a list of class names or number: name")
    for number, name in table.items():
        if type(number) is not int or not isinstance(name, str) or not name.strip():
            raise UserError(
                f"{path}: 'names' has {brief(number)}: {brief(name)}, expected a number and a name; correct "
                "it, with quotes around a name such as 'null'"
            )
    if "nc" in card and card["nc"] != len(table):
        raise UserError(
            f"{path}: 'nc' is {brief(card['nc'])} and 'names' has {counted(len(table), 'name')}; correct one "
            "of them"
        )
    return {number: " ".join(name.split()) for number, name in table.items()}


def keypoint_shape(card: dict[str, Any], path: Path) -> tuple[int, int] | None:
    """Return the number of keypoints of each box and the values of each, 2 or 3; None without any."""
    if "kpt_shape" not in card:
        return None
    shape = card["kpt_shape"]
    if isinstance(shape, list) and len(shape) == 2 and all(type(one) is int for one in shape):
        number, values = shape
        if number > 0 and values in (2, 3):
            return number, values
    raise UserError(
        f"{path}: 'kpt_shape' is {brief(shape)}, expected the number of keypoints and their values (2 or 3), "
        "such as [17, 3]; correct it, or remove it where the labels have no keypoints"
    )


def root_of(path: Path, card: dict[str, Any]) -> Path:
    """Return the folder of the data set: that of data.yaml, or its entry 'path' where that exists."""
    entry = card.get("path")
    if isinstance(entry, str) and (path.parent / entry).is_dir():
        return (path.parent / entry).resolve()
    return path.parent.resolve()


def image_files(card: dict[str, Any], subset: str, root: Path, path: Path) -> list[str]:
    """Return the ascending names of the images of a subset, relative to the root."""
    known = [key for key in SUBSETS if card.get(key)]
    entry = card.get(subset) or (None if known else _usual_folder(root, subset))
    if not entry:
        raise UserError(
            f"{path} has no entry {subset!r}, expected a folder there (it has {', '.join(known) or 'none'}); "
            "name another one with --subset"
        )
    names: list[str] = []
    for one in entry if isinstance(entry, list) else [entry]:
        place = None if isinstance(one, dict | list | set) else _inside(root, str(one))
        if place is None:
            raise UserError(
                f"{path}: the entry {subset!r} is {brief(one)}, which is no folder or list of photos inside "
                f"{root}; correct it"
            )
        if (root / place).is_dir():
            names += list_images(root, place)
            continue
        for line in _lines(root / place):
            if line.strip():
                image = _inside(root, line.strip(), as_given=True)
                if image is None:
                    raise UserError(f"{root / place} lists {line.strip()!r}, which is no file inside {root}")
                names.append(image)
    if not names:
        raise UserError(f"{path}: {subset!r} holds no images, expected files such as a.jpg in {brief(entry)}")
    return sorted(set(names))


def list_files(card: dict[str, Any], root: Path) -> set[Path]:
    """Return the lists of photos that data.yaml names for any subset."""
    entries = [card.get(subset) for subset in SUBSETS]
    names = [one for entry in entries for one in (entry if isinstance(entry, list) else [entry])]
    places = [_inside(root, one) for one in names if isinstance(one, str)]
    return {root / place for place in places if place is not None and (root / place).is_file()}


def _lines(path: Path) -> list[str]:
    """Return the lines of a list of photos."""
    try:
        return read_regular_text(path).splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{path} is no text, expected the name of a photo on each line; correct it") from None


def _usual_folder(root: Path, subset: str) -> str | None:
    """Return the folder of the images of a data.yaml without folders, as supervision writes it."""
    places = (f"images/{subset}", f"{subset}/images", *(["images"] if subset == "train" else []))
    return next((place for place in places if (root / place).is_dir()), None)


def _inside(root: Path, entry: str, *, as_given: bool = False) -> str | None:
    """Return a path of data.yaml relative to the root; None where it does not exist or leaves the root.

    as_given: keep symbolic links, by whose names labels are found, instead of the files they lead to. Exports
    of some tools begin with `../`, though the folder is at the root.
    """
    for candidate in (entry, entry.removeprefix("../")) if "\0" not in entry else ():
        place = (root / candidate).resolve()
        if place.exists() and place.is_relative_to(root):
            given = Path(os.path.normpath(root / candidate))
            # `link/../a.jpg` is another file without its `..`
            if as_given and given.is_relative_to(root) and given.resolve() == place:
                return given.relative_to(root).as_posix()
            return place.relative_to(root).as_posix()
    return None
