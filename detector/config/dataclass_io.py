"""Frozen dataclasses <-> mappings, TOML and `a.b=value` overrides, typed by the annotations of their fields.

Knows no option. Handles bool, int, float, str, Literal, X | None (written "none"), tuple[X, ...], nested
dataclasses, and mappings of names to dataclasses (one section per name).
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
from cckt.cache_builder.base.untrusted.text import natural

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")

_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def _hints(cls: type) -> dict[str, Any]:
    """Return field name -> resolved type."""
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def option_names(owner: Any, prefix: str = "") -> list[str]:
    """Return the dotted name of every option of a dataclass or an instance of one: ["train.lr", ...].

    A field that maps names to dataclasses (one section per name) is followed only in an instance.
    """
    cls = owner if isinstance(owner, type) else type(owner)
    names: list[str] = []
    for name, hint in _hints(cls).items():
        value = None if isinstance(owner, type) else getattr(owner, name)
        if dataclasses.is_dataclass(hint):
            names += option_names(hint if value is None else value, f"{prefix}{name}.")
        elif isinstance(value, Mapping):
            for key, section in value.items():
                names += option_names(section, f"{prefix}{name}.{key}.")
        elif get_origin(hint) is not Mapping:
            names.append(prefix + name)
    return names


def choices(cls: type, name: str) -> tuple[str, ...]:
    """Return the allowed values of the field `name` of a dataclass, a Literal."""
    return get_args(_hints(cls)[name])


MOST_LISTED = 40
"""Most options that a message lists."""


def unknown_option(name: str, known: Iterable[str], where: str) -> UserError:
    """Return the error for an unknown option, with the nearest known one; without a near one, with those of
    its section, or the sections."""
    known = sorted(known)
    leaf = name.rsplit(".", 1)[-1]
    # The right name in the wrong section (train.queries) is a better hint than similar letters.
    near = [k for k in known if k.rsplit(".", 1)[-1] == leaf]
    near = near or difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    if near:
        return UserError(f"{where}: unknown option {name!r}; did you mean {near[0]!r}?")
    beside = [k for k in known if k.startswith(name.partition(".")[0] + ".")] or known
    hint = "expected one of " + ", ".join(beside) + "."
    if len(beside) > MOST_LISTED:
        sections = dict.fromkeys(k.partition(".")[0] for k in beside if "." in k)
        hint = (
            f"expected SECTION.OPTION=VALUE with one of the sections {', '.join(sections)}; cckt train "
            "--recipe shapeworld --print-config lists all options."
        )
    return UserError(f"{where}: unknown option {name!r}; {hint}")


def describe(hint: Any) -> str:
    """Return a type in plain words, for messages."""
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
    """Convert `value` (from TOML, JSON or a command line) to the type `hint`; raise UserError naming the
    option."""
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
    """Return the items of a list, of a text such as "(1, 2)", or of a single value."""
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
    if isinstance(value, str) and natural(value.lstrip("+-")) is not None:
        return int(value)  # through a float it would lose digits
    number = _float(value)
    if number != int(number) or not -(2**63) <= number < 2**63:
        raise ValueError
    return value if isinstance(value, int) else int(number)


_PLAIN: Mapping[type, Callable[[Any], Any]] = {bool: _bool, str: _str, float: _float, int: _int}


def to_mapping(instance: Any) -> dict[str, Any]:
    """Return a dataclass as nested dicts of plain JSON values; None becomes "none" (TOML has no null)."""
    return {field.name: _plain_value(getattr(instance, field.name)) for field in dataclasses.fields(instance)}


def _plain_value(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_mapping(value)
    if isinstance(value, Mapping):
        return {key: _plain_value(inner) for key, inner in value.items()}
    if value is None:
        return "none"
    return list(value) if isinstance(value, tuple) else value


def flat(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested mapping as dotted name -> value."""
    values: dict[str, Any] = {}
    for name, value in mapping.items():
        values |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return values


def merged(instance: T, changes: Mapping[str, Any], where: str, prefix: str = "") -> T:
    """Return a copy of a frozen dataclass with a nested mapping applied.

    where: source of the mapping ("--set", a file's name), for messages. Raises UserError for an unknown
    option, a value of another type, or a section that is no mapping.
    """
    hints = _hints(type(instance))
    values: dict[str, Any] = {}
    for key, value in changes.items():
        name = prefix + key
        if key not in hints:
            known = option_names(instance, prefix) + [prefix + k for k in hints]
            raise unknown_option(name, known, where)
        old = getattr(instance, key)
        if dataclasses.is_dataclass(hints[key]):
            values[key] = merged(old, _section(value, name, where), where, f"{name}.")
        elif isinstance(old, Mapping):
            values[key] = _merged_sections(old, _section(value, name, where), where, f"{name}.")
        else:
            values[key] = convert(value, hints[key], name)
    return dataclasses.replace(instance, **values)


def _section(value: Any, name: str, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: option {name} is a section, found {value!r}; set one of its options.")
    return value


def _merged_sections(
    sections: Mapping[str, Any], changes: Mapping[str, Any], where: str, prefix: str
) -> dict[str, Any]:
    """`merged` for a mapping of names to dataclasses: the known names are those of `sections`."""
    result = dict(sections)
    for key, value in changes.items():
        if key not in sections:
            raise unknown_option(prefix + key, [prefix + known for known in sections], where)
        result[key] = merged(sections[key], _section(value, prefix + key, where), where, f"{prefix}{key}.")
    return result


def override(instance: T, assignments: Iterable[str], where: str = "--set") -> T:
    """Return a copy with `section.option=value` texts applied, all at once: only the end result is
    checked."""
    changes: dict[str, Any] = {}
    known = option_names(instance)
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


def toml_text(mapping: Mapping[str, Any], prefix: str = "") -> str:
    """Return nested dicts of plain values as TOML that tomllib reads back as equal dicts."""
    sections = {key: value for key, value in mapping.items() if isinstance(value, Mapping)}
    lines = [f"{key} = {_toml(value)}\n" for key, value in mapping.items() if key not in sections]
    if prefix and (lines or not sections):
        lines.insert(0, f"\n[{prefix}]\n")
    nested = [toml_text(value, f"{prefix}.{key}" if prefix else key) for key, value in sections.items()]
    text = "".join([*lines, *nested])
    return text if prefix else text.lstrip("\n")


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, str):
        # A JSON string is a TOML basic string, except that TOML requires DEL to be escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    assert isinstance(value, (int, float)), f"no TOML for {value!r}"
    return repr(value)
