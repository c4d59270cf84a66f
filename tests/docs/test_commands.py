"""Commands on the pages exist, with their options."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from cckt import cli
from cckt.commands.quickstart import NEXT_STEPS
from tests.docs.pages import PAGES, fenced_blocks, join_continued_lines, page_id, without_fenced_blocks
from tests.places import ROOT


def commands(text: str) -> list[list[str]]:
    """Words of each command: lines of code blocks, and `cckt ...` in running text."""
    joined = join_continued_lines(text)
    lines = [
        line
        for language, block in fenced_blocks(joined)
        if language != "python"
        for line in block.splitlines()
    ]
    lines += re.findall(r"`(cckt [^`\n]+)`", without_fenced_blocks(joined))
    found = []
    for line in lines:
        match = re.search(r"(?:^|\s|-m cckt )cckt( .*)?$|-m cli( .*)$", line.split("#")[0].rstrip())
        if match:
            found.append(shlex.split((match[1] or match[2] or "").split(" && ")[0]))
    return found


def problem_of(words: list[str]) -> str:
    """Return the unknown verb or option of a command as a sentence, or "" if all exist."""
    verb: Any = typer.main.get_command(cli.app)
    rest = list(words)
    while hasattr(verb, "commands") and rest and not rest[0].startswith("-"):
        names = rest[0].split("|")
        unknown = [name for name in names if name not in verb.commands]
        if unknown:
            return f"no verb {unknown[0]!r} in cckt {' '.join(words)}"
        verb, rest = verb.commands[names[0]], rest[1:]
    known = {option for parameter in verb.params for option in [*parameter.opts, *parameter.secondary_opts]}
    known |= {"--help", "--debug"}
    unknown = [word for word in rest if word.startswith("--") and word.split("=")[0] not in known]
    return f"no option {unknown[0]} in cckt {' '.join(words)}" if unknown else ""


def test_commands_are_read_from_blocks_and_from_text() -> None:
    block = "```\npip install . && cckt quickstart\n$ cckt data index \\\n    --out x  # why\n```\n"
    page = block + "and `cckt cache info DATA`."
    assert commands(page) == [["quickstart"], ["data", "index", "--out", "x"], ["cache", "info", "DATA"]]
    assert problem_of(["data", "index", "--out", "x"]) == ""
    assert "no verb 'indx'" in problem_of(["data", "indx"])
    assert "no option --outt" in problem_of(["data", "index", "--outt", "x"])


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_commands_of_a_page_exist(page: Path) -> None:
    problems = [problem_of(words) for words in commands(page.read_text(encoding="utf-8"))]
    assert not list(filter(None, problems))


def test_the_readme_and_quickstart_name_the_commands() -> None:
    readme = commands((ROOT / "README.md").read_text(encoding="utf-8"))
    assert ["quickstart"] in readme
    assert {words[0] for words in readme} >= {"data", "cache", "train", "eval", "predict", "doctor"}
    next_steps = commands(f"```\n{NEXT_STEPS}\n```")
    assert len(next_steps) == 4
    assert not list(filter(None, map(problem_of, next_steps)))
