"""Every `cckt` command in the documents is one that there is, with options that it takes; those that need
nothing are run, and so is every block of Python. Messages that are explained are ones that there are."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import io
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

import cckt
from cckt import cli
from cckt.cache_builder.teacher.clip import load_teacher
from cckt.commands.quickstart import NEXT_STEPS
from tests.commands.front import options
from tests.places import ROOT

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "caches" / "README.md",
    *(ROOT / "docs").glob("*.md"),
]


def commands(text: str) -> list[list[str]]:
    """Words of each command: lines of code blocks, and `cckt ...` in running text."""
    joined = re.sub(r"\\\n\s*", " ", text)
    fenced = re.findall(r"^```([^\n]*)\n(.*?)^```", joined, re.MULTILINE | re.DOTALL)
    lines = [line for language, block in fenced if language != "python" for line in block.splitlines()]
    running = re.sub(r"^```.*?^```", "", joined, flags=re.MULTILINE | re.DOTALL)
    lines += re.findall(r"`(cckt [^`\n]+)`", running)
    found = []
    for line in lines:
        match = re.search(r"(?:^|\s|-m cckt )cckt( .*)?$|-m cli( .*)$", line.split("#")[0].rstrip())
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
    next_steps = commands(f"```\n{NEXT_STEPS}\n```")
    assert len(next_steps) == 4
    assert not [told for words in next_steps if (told := fault(words))]


def test_links_between_the_documents_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
            if "://" not in target and target != "docs/quickstart.png":
                assert (page.parent / target).exists(), f"{page.name}: {target}"


SITE = (
    "README",
    "tutorial",
    "reproducing",
    "api",
    "ablating",
    "training",
    "scaling",
    "troubleshooting",
)
"""Pages of docs/ whose blocks are run."""
PATIENT = {"train": options(), "ablate": options()}
"""What is laid over the commands of a page so that they take seconds: a student of milliseconds."""


def blocks(page: str, language: str) -> list[tuple[str, str]]:
    """(what it needs, "" for nothing; the code) of the fenced blocks of a page."""
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    found = []
    for code in re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        first, _, rest = code.partition("\n")
        needs = re.fullmatch(r"# needs: (.+)", first)
        found.append((needs[1], rest) if needs else ("", code))
    return found


def follow(page: str) -> None:
    """Run the commands of a page, in the folder at hand."""
    for needs, code in blocks(page, "sh"):
        for line in () if needs else code.splitlines():
            left, _, command = line.rpartition(" | ")
            words = shlex.split(command)
            assert words[0] == "cckt", f"{page}: {line!r} is no cckt command: say what it `# needs: `"
            listed = subprocess.run(left, shell=True, capture_output=True, text=True, check=True).stdout
            before, sys.stdin = sys.stdin, io.StringIO(listed)
            try:
                assert cli.run([*words[1:], *PATIENT.get(words[1], ())]) == 0, line
            finally:
                sys.stdin = before


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the tutorial was followed to its end."""
    folder = tmp_path_factory.mktemp("desk")
    with contextlib.chdir(folder):
        follow("tutorial")
    return folder


def test_a_block_says_what_it_needs() -> None:
    needs = [needs for page in SITE for needs, _ in blocks(page, "sh")]
    assert needs.count("") > 8
    assert any("GPU" in one for one in needs)
    for page in SITE:
        text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
        for language, code in re.findall(r"^```([^\n]*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            assert language or "cckt " not in code, f"{page}: a block with commands is marked ```sh"


def test_the_tutorial_leads_to_what_it_says(desk: Path) -> None:
    for made in (
        "runs/mine/model.safetensors",
        "why.html",
        "finds/predictions.json",
        "finds/predictions.csv",
        "finds/classes.txt",
        "shared/mine/README.md",
        "detector.pt2",
        "caches/more/index/index.json",
    ):
        assert (desk / made).is_file(), made


@pytest.mark.parametrize("page", ["training", "scaling"])
def test_what_the_other_pages_do_with_the_tutorials_folders_works(desk: Path, page: str) -> None:
    with contextlib.chdir(desk):
        follow(page)


def test_the_ablations_page_can_be_followed(tmp_path: Path) -> None:
    with contextlib.chdir(tmp_path):
        follow("ablating")
    assert (tmp_path / "ablation" / "table4.md").is_file()
    assert (tmp_path / "ablation" / "table6.json").is_file()
    assert (tmp_path / "ablation" / "options.md").is_file()


def test_every_block_of_python_runs(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copyfile(desk / "demo" / "photos" / "00000000.png", desk / "photo.png")
    shutil.copytree(desk / "demo" / "photos", desk / "photos", dirs_exist_ok=True)
    words = np.random.default_rng(0).normal(size=(2, load_teacher("shapeworld").width)).astype(np.float32)
    np.save(desk / "words.npy", words / np.linalg.norm(words, axis=1, keepdims=True))
    given: dict[str, Any] = {}
    with contextlib.chdir(desk):
        for needs, code in blocks("api", "python"):
            if needs and not _there(needs):
                continue
            exec(compile(code, "docs/api.md", "exec"), given)
    assert (desk / "out" / "predictions.json").is_file()
    assert isinstance(given["found"][0], cckt.Prediction)
    assert capsys.readouterr().out.count("photos/") == 24


def _there(needs: str) -> bool:
    """Whether the package that a block needs happens to be installed."""
    package = re.search(r"cckt\[(\w+)\]", needs)
    return package is not None and bool(importlib.util.find_spec(package[1]))


def test_the_api_brings_the_runs_own_teacher_or_the_one_that_is_named(desk: Path) -> None:
    run = desk / "runs" / "mine"
    assert cckt.Detector.load(run, "cpu").guide is not None
    named = cckt.Detector.load(run, "cpu", teacher="shapeworld")
    (found,) = named.predict(desk / "demo" / "photos" / "00000001.png", "umbrella, mug|cup", min_score=0.0)
    assert [concept.name for concept in found.vocabulary] == ["umbrella", "mug"]
    with pytest.raises(cckt.UserError, match="no such file, expected a run folder"):
        cckt.Detector.load(desk / "nowhere")


def templates() -> list[str]:
    """Every sentence that a UserError of ours is raised with, what is filled in as NUL."""

    def text(node: ast.expr) -> str:
        if isinstance(node, ast.Constant):
            return str(node.value)
        return "".join(map(text, node.values)) if isinstance(node, ast.JoinedStr) else "\0"

    found = []
    for room in ("cache_builder", "detector", "shapeworld", "ablation"):
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("Error", "Interrupted")):
                    found += [text(argument) for argument in node.args[:1]]
    return found


def test_messages_that_are_explained_are_ones_that_there_are() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    explained = re.findall(r"^`(.+)`$", page, re.MULTILINE)
    assert len(explained) > 30
    known = templates()
    for message in explained:
        pattern = re.compile(".*".join(map(re.escape, message.split("…"))), re.DOTALL)
        assert any(pattern.fullmatch(one) for one in known), message
    assert not any(re.fullmatch("nothing says this", one) for one in known)
