"""Messages of the program: commands run as they stand, counts agree with their nouns, cut lists say so."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from cckt import cli
from cckt.cache_builder.base.errors import counted, listed, quoted
from tests.architecture.source import ROOMS
from tests.places import ROOT

FILES = [
    *(path for room in (*ROOMS, "cckt/quickstart") for path in sorted((ROOT / room).rglob("*.py"))),
    ROOT / "cli.py",
    ROOT / "cckt" / "api.py",
]
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def texts(tree: ast.AST) -> Iterator[tuple[int, str, list[str]]]:
    """Yield (line, text, expressions) of every string that is no docstring and in no assertion.

    The text has \\0 for each inserted value, and `expressions` their sources.
    """
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Assert) or (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant | ast.JoinedStr)
        ):
            continue
        if isinstance(node, ast.JoinedStr):
            parts = [one.value if isinstance(one, ast.Constant) else "\0" for one in node.values]
            values = [one for one in node.values if isinstance(one, ast.FormattedValue)]
            yield node.lineno, "".join(map(str, parts)), [_source(one) for one in values]
            for one in values:
                yield from texts(one)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value, []
        else:
            yield from texts(node)


def _source(value: ast.FormattedValue) -> str:
    spec = "" if value.format_spec is None else ast.unparse(value.format_spec).strip("f'\"")
    return f"{ast.unparse(value.value)}{':' + spec if spec else ''}"


# Commands

PLACEHOLDER = re.compile(r"[A-Z][A-Z_]*(\.json|\.txt)?")
"""What a user fills in."""
ONE_OF = {
    ("train",): ("--resume", "--train", "--print-config", "--recipe"),
    ("eval",): ("--data",),
    ("cache", "text"): ("--teacher", "--import"),
    ("cache", "proposals"): ("--from", "--detector", "--import"),
}
"""Options of which a command needs one, as the program itself checks."""
PLAIN = {"name", "writer.spec.name", "count", "options", "source"}
"""Inserted values that need no quotes: names of columns, numbers, options that are quoted already."""


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each command of a message with an option or an argument, without `cckt`."""
    for rest in re.split(r"\bcckt (?=[a-z])", text)[1:]:
        verb: Any = typer.main.get_command(cli.app)
        words: list[str] = []
        takes_value, more = False, False
        for raw in rest.split():
            word = raw.strip("`('\"").rstrip("`;,.:)'\"")
            if hasattr(verb, "commands"):
                if word not in verb.commands:
                    break
                verb = verb.commands[word]
            elif word.startswith("--"):
                option = next((one for one in verb.params if word.split("=")[0] in one.opts), None)
                takes_value, more = option is not None and not getattr(option, "is_flag", False), True
            elif takes_value or "\0" in word or PLACEHOLDER.fullmatch(word):
                takes_value, more = False, True
            else:
                break
            words.append(word)
            if raw[-1:] in "`;,.:)" and not raw.endswith("..."):
                break
        if more and not hasattr(verb, "commands"):
            yield words


def problem_of(words: list[str]) -> str:
    """Return why a command cannot run as it stands; "" if it can."""
    verb: Any = typer.main.get_command(cli.app)
    path: list[str] = []
    while hasattr(verb, "commands"):
        path.append(words[len(path)])
        verb = verb.commands[path[-1]]
    rest = words[len(path) :]
    given = {word.split("=")[0] for word in rest if word.startswith("--")}
    known = {option: one for one in verb.params for option in (*one.opts, *one.secondary_opts)}
    unknown = sorted(given - known.keys())
    if unknown:
        return f"no option {unknown[0]}"
    values = sum(not getattr(known[word], "is_flag", False) for word in rest if word in known)
    operands = sum(not word.startswith("--") for word in rest) - values
    for one in verb.params:
        if one.required and one.param_type_name == "option" and not given & set(one.opts):
            return f"lacks {one.opts[0]}"
    needed = sum(one.required and one.param_type_name == "argument" for one in verb.params)
    if operands < needed:
        return f"has {operands} arguments, needs {needed}"
    if not given & set(ONE_OF.get(tuple(path), given or ("",))) and tuple(path) in ONE_OF:
        return f"lacks one of {', '.join(ONE_OF[tuple(path)])}"
    return ""


def test_commands_are_found_and_judged() -> None:
    (words,) = commands("none yet; run `cckt cache all \0 --teacher \0`, or another")
    assert words == ["cache", "all", "\0", "--teacher", "\0"]
    assert problem_of(words) == ""
    assert not list(commands("this serves cckt cache images and cckt pseudo, not training"))
    for text, problem in (
        ("run cckt cache all \0", "lacks --teacher"),
        ("run cckt cache text \0.", "lacks one of --teacher, --import"),
        ("mark with cckt cache verify --repair and again", "has 0 arguments, needs 1"),
        ("cckt data index --annotations A.json --annotations B.json.", "lacks --out"),
        ("cckt eval RUN --dat DATA", "no option --dat"),
        ("continue with cckt train --resume \0, or", ""),
    ):
        assert [problem_of(one) for one in commands(text)] == [problem], text


def test_commands_in_messages_run_as_they_stand() -> None:
    """Every argument and required option is there; what only the user knows is in capitals."""
    wrong, found = [], 0
    for path, tree in TREES.items():
        for line, text, _ in texts(tree):
            for words in commands(text):
                found += 1
                if problem_of(words):
                    wrong.append(
                        f"{path.relative_to(ROOT)}:{line}: cckt {' '.join(words)}: {problem_of(words)}"
                    )
    assert found > 15
    assert not wrong


def test_paths_in_commands_are_quoted() -> None:
    wrong = []
    for path, tree in TREES.items():
        for line, text, values in texts(tree):
            at = 0
            for part in re.split(r"\bcckt (?=[a-z])", text):
                inserted = values[at : at + part.count("\0")]
                at += part.count("\0")
                if part is text or part == text.partition("cckt ")[0]:
                    continue
                for words in commands(f"cckt {part}"):
                    for one in inserted[: sum(word.count("\0") for word in words)]:
                        if not one.startswith(("quoted(", "shlex.")) and one not in PLAIN:
                            wrong.append(f"{path.relative_to(ROOT)}:{line}: {one}")
    assert not wrong


# Counts

NOUNS = """
annotations answers boxes categories checks chunks columns concepts crops detections epochs files frames
images lines names nouns objects photos problems proposals questions rows sentences steps templates tensors
units words
"""
COUNT = re.compile(rf"\0 (?:(\w[\w-]*) )?(?:{'|'.join(NOUNS.split())})\b")
NO_ADJECTIVES = {"has", "have", "holds", "in", "leaves", "makes", "names", "copies", "without", "only"}
MORE_THAN_ONE = {
    *(
        "tried",
        "counts",
        "alone",
        "boxes",
        "images",
        "names",
        "self.rows",
        "self.n_chunks",
        "subject",
        "path",
    ),
    *(
        "option",
        "source",
        "model",
        "mllm.name",
        "import_file",
        "part.path",
        "len(tensors)",
        "self.images_without_boxes",
    ),
    "_text(figures.get('photos', '–'))",
    "_text(figures.get('boxes', '–'))",
    "len(self)",
    "plan.train_photos",
}
"""Inserted values before such a word that are no counts, are never 1, or stand in a `repr`."""


def test_counts_have_the_singular() -> None:
    """A number that may be 1 is written by `counted`; "3 of 5 photos" and constants need not be."""
    wrong = []
    for path, tree in TREES.items():
        for line, text, values in texts(tree):
            for match in COUNT.finditer(text):
                value = values[text[: match.start()].count("\0")]
                before = text[: match.start()]
                exempt = before.endswith(
                    ("of ", "of the ", "of its ", "than ", "at least ", "at most ", "all ")
                )
                if exempt or match[1] in NO_ADJECTIVES or value in MORE_THAN_ONE or value.isupper():
                    continue
                if re.search(r"^counted\(|:[,.\dgf]+$", value):
                    continue
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {{{value}}}{match[0][1:]}")
    assert not wrong


@pytest.mark.parametrize(("number", "text"), [(0, "0 boxes"), (1, "1 box"), (2, "2 boxes")])
def test_a_count_has_the_form_of_its_number(number: int, text: str) -> None:
    assert counted(number, "box", "boxes") == text


# Lists


def _is_cut(node: ast.AST) -> bool:
    slices = (one.slice for one in ast.walk(node) if isinstance(one, ast.Subscript))
    return any(isinstance(one, ast.Slice) and one.lower is None and one.upper is not None for one in slices)


def test_lists_in_messages_say_how_many_they_leave_out() -> None:
    """A list that is cut is written by `listed`."""
    wrong = []
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "join"
                and isinstance(node.func.value, ast.Constant)
                and node.func.value.value in (", ", "; ", " and ")
                and any(map(_is_cut, node.args))
            ):
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}")
    assert not [one for one in wrong if "self.names[:3]" not in one and "items[:most]" not in one]


def test_a_list_states_the_number_of_the_others() -> None:
    assert listed([]) == ""
    assert listed(["cat", "dog"], 2) == "cat, dog"
    assert listed(range(100), 2) == "0, 1 and 98 more"


def test_a_path_is_one_word() -> None:
    assert quoted(Path("a b/c")) == "'a b/c'"
    assert quoted("s3://bucket/x") == "s3://bucket/x"
