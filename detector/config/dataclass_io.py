"""Frozen dataclasses <-> mappings, TOML and `a.b=value` overrides, typed by the annotations of their fields.

It knows nothing of what the options mean. Handles bool, int, float, str, Literal, X | None (written
"none"), tuple[X, ...] and nested dataclasses.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from cckt.cache_builder.base.errors import UserError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")

_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def _hints(cls: type) -> dict[str, Any]:
    """Field name -> resolved type."""
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def option_names(cls: type, prefix: str = "") -> list[str]:
    """Every leaf option, dotted: ["train.lr", ...]."""
    names: list[str] = []
    for name, hint in _hints(cls).items():
        if dataclasses.is_dataclass(hint):
            assert isinstance(hint, type)
            names += option_names(hint, f"{prefix}{name}.")
        else:
            names.append(prefix + name)
    return names


def choices(cls: type, name: str) -> tuple[str, ...]:
    """What the field `name` of a dataclass may be, a Literal."""
    return get_args(_hints(cls)[name])


def unknown_option(name: str, known: Iterable[str], where: str) -> UserError:
    """The error for a key no one knows, with the nearest one that is known."""
    known = sorted(known)
    leaf = name.rsplit(".", 1)[-1]
    # A right name under the wrong section (train.queries) is nearer than any likeness of letters.
    near = [k for k in known if k.rsplit(".", 1)[-1] == leaf]
    near = near or difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else "expected one of " + ", ".join(known) + "."
    return UserError(f"{where}: unknown option {name!r}; {hint}")


def describe(hint: Any) -> str:
    """A type in words a person expects to read."""
    origin = get_origin(hint)
    if origin is Literal:
        return "one of " + ", ".join(repr(choice) for choice in get_args(hint))
    if origin in (Union, types.UnionType):
        inner = [describe(arg) for arg in get_args(hint) if arg is not type(None)]
        return " or ".join([*inner, "'none'"] if type(None) in get_args(hint) else inner)
    if origin is tuple:
        return f"a list, each {describe(get_args(hint)[0])}"
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    return words.get(hint, str(hint))


def convert(value: Any, hint: Any, name: str) -> Any:
    """`value` (from TOML, JSON or a command line) as the type `hint`; else UserError naming the option."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is tuple:
        return tuple(convert(item, args[0], name) for item in _items(value))
    try:
        if origin in (Union, types.UnionType):
            return _one_of(value, args, name)
        if origin is Literal:
            return args[args.index(value)]
        return _PLAIN[hint](value)
    except (ValueError, OverflowError):
        raise UserError(f"option {name}: found {value!r}, expected {describe(hint)}.") from None


def _items(value: Any) -> Iterable[Any]:
    """A list, a text such as "(1, 2)", or one thing."""
    if isinstance(value, str):
        return [part.strip() for part in value.strip().strip("()[]").split(",") if part.strip()]
    return value if isinstance(value, (list, tuple)) else [value]


def _one_of(value: Any, hints: Sequence[Any], name: str) -> Any:
    if type(None) in hints and (value is None or (isinstance(value, str) and value.lower() == "none")):
        return None
    for hint in hints:
        with suppress(UserError):
            if hint is not type(None):
                return convert(value, hint, name)
    raise ValueError


def _bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _TRUE + _FALSE:
        return value.lower() in _TRUE
    raise ValueError


def _str(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise ValueError


def _float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)) or not math.isfinite(float(value)):
        raise ValueError
    return float(value)


def _int(value: Any) -> int:
    if isinstance(value, str) and value.lstrip("+-").isdecimal():
        return int(value)  # by way of a float it would lose digits
    number = _float(value)
    if number != int(number):
        raise ValueError
    return value if isinstance(value, int) else int(number)


_PLAIN: Mapping[type, Callable[[Any], Any]] = {bool: _bool, str: _str, float: _float, int: _int}


def to_mapping(instance: Any) -> dict[str, Any]:
    """A dataclass as nested dicts of plain JSON values; None becomes "none" (TOML has no null)."""
    result: dict[str, Any] = {}
    for field in dataclasses.fields(instance):
        value = getattr(instance, field.name)
        if dataclasses.is_dataclass(value):
            result[field.name] = to_mapping(value)
        elif value is None:
            result[field.name] = "none"
        else:
            result[field.name] = list(value) if isinstance(value, tuple) else value
    return result


def merged(instance: T, changes: Mapping[str, Any], where: str, prefix: str = "") -> T:
    """A copy of a frozen dataclass with a nested mapping laid over it.

    where: what the mapping came from ("--set", a file's name), for the error of an unknown option.
    """
    hints = _hints(type(instance))
    values: dict[str, Any] = {}
    for key, value in changes.items():
        name = prefix + key
        if key not in hints:
            known = [prefix + leaf for leaf in option_names(type(instance))] + [prefix + k for k in hints]
            raise unknown_option(name, known, where)
        if dataclasses.is_dataclass(hints[key]):
            if not isinstance(value, Mapping):
                raise UserError(
                    f"{where}: option {name} is a section, found {value!r}; set one of its options."
                )
            values[key] = merged(getattr(instance, key), value, where, f"{name}.")
        else:
            values[key] = convert(value, hints[key], name)
    return dataclasses.replace(instance, **values)


def override(instance: T, assignments: Iterable[str], where: str = "--set") -> T:
    """A copy with `section.option=value` texts applied, all at once, so that checks see the end result."""
    changes: dict[str, Any] = {}
    known = option_names(type(instance))
    for text in assignments:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals:
            raise UserError(
                f"{where}: found {text!r}, expected section.option=value, such as train.epochs=12."
            )
        if name not in known:
            raise unknown_option(name, known, where)
        here = changes
        *sections, leaf = name.split(".")
        for section in sections:
            here = here.setdefault(section, {})
        here[leaf] = value.strip()
    return merged(instance, changes, where)


def toml_text(mapping: Mapping[str, Any]) -> str:
    """Nested dicts of plain values (one level of sections) as TOML that tomllib reads back the same."""
    lines = [f"{key} = {_toml(value)}" for key, value in mapping.items() if not isinstance(value, Mapping)]
    for section, values in mapping.items():
        if isinstance(values, Mapping):
            lines += ["", f"[{section}]", *(f"{key} = {_toml(value)}" for key, value in values.items())]
    return "\n".join(lines).lstrip("\n") + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, str):
        # A JSON string is a TOML basic string, but for DEL, which TOML wants escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    assert isinstance(value, (int, float)), f"no TOML for {value!r}"
    return repr(value)
