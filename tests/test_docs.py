"""Every `cckt` command in the documents is one that there is, with options that it takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

import cli

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "caches" / "README.md",
    *(ROOT / "docs").glob("*.md"),
]


def commands(text: str) -> list[list[str]]:
    """Words of each command: lines of code blocks, and `cckt ...` in running text."""
    joined = re.sub(r"\\\n\s*", " ", text)
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", joined, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    running = re.sub(r"^```.*?^```", "", joined, flags=re.MULTILINE | re.DOTALL)
    lines += re.findall(r"`(cckt [^`\n]+)`", running)
    found = []
    for line in lines:
        match = re.search(r"(?:^|\s|-m cli )cckt( .*)?$|-m cli( .*)$", line.split("#")[0].rstrip())
        if match:
            found.append(shlex.split((match[1] or match[2] or "").split(" && ")[0]))
    return found


def fault(words: list[str]) -> str:
    """What is wrong with a command; "" for nothing."""
    verb: Any = typer.main.get_command(cli.app)
    rest = list(words)
    while hasattr(verb, "commands") and rest and not rest[0].startswith("-"):
        names = rest[0].split("|")
        unknown = [name for name in names if name not in verb.commands]
        if unknown:
            return f"no verb {unknown[0]!r} in cckt {' '.join(words)}"
        verb, rest = verb.commands[names[0]], rest[1:]
    known = {option for parameter in verb.params for option in parameter.opts} | {"--help", "--debug"}
    unknown = [word for word in rest if word.startswith("--") and word.split("=")[0] not in known]
    return f"no option {unknown[0]} in cckt {' '.join(words)}" if unknown else ""


def test_the_reader_of_commands_sees_what_there_is() -> None:
    block = "```\npip install . && cckt quickstart\n$ cckt data index --out x  # why\n```\n"
    page = block + "and `cckt cache info DATA`."
    assert commands(page) == [["quickstart"], ["data", "index", "--out", "x"], ["cache", "info", "DATA"]]
    assert fault(["data", "index", "--out", "x"]) == ""
    assert "no verb 'indx'" in fault(["data", "indx"])
    assert "no option --outt" in fault(["data", "index", "--outt", "x"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_documents_exist(page: Path) -> None:
    faults = [told for words in commands(page.read_text(encoding="utf-8")) if (told := fault(words))]
    assert not faults


def test_the_readme_gives_commands_and_quickstart_says_what_is_next() -> None:
    readme = commands((ROOT / "README.md").read_text(encoding="utf-8"))
    assert ["quickstart"] in readme
    assert {words[0] for words in readme} >= {"data", "cache", "train", "eval", "predict", "doctor"}
    next_steps = commands(f"```\n{cli.NEXT}\n```")
    assert len(next_steps) == 4
    assert not [told for words in next_steps if (told := fault(words))]


def test_links_between_the_documents_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
            if "://" not in target and target != "docs/quickstart.png":
                assert (page.parent / target).exists(), f"{page.name}: {target}"
