"""Check the pages: commands exist, code blocks run, links and file names resolve, lines are short.

The fixed words of the messages in docs/troubleshooting.md are compared with the messages of the program.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import io
import json
import pickle
import re
import shlex
import shutil
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

import cckt
from cckt import cli
from cckt.cache_builder.teacher.clip import load_teacher
from cckt.commands.quickstart import NEXT_STEPS
from tests.architecture.source import ROOMS
from tests.commands.front import options
from tests.places import ROOT

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "caches" / "README.md",
    ROOT / "benchmarks" / "README.md",
    ROOT / "shapeworld" / "README.md",
]
OTHERS_FILES = ROOT / "docs" / "method" / "hd_ovd.md"
"""A page that names files of other repositories."""
FORMER_PAGES = re.compile(r"\b(METHOD|HIERARCHICAL|DESIGN)(\.md|'s)")
"""Documents that are not part of the repository. docs/method/ replaces them."""
LINE_LENGTH = 120


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def fenced_blocks(text: str) -> list[tuple[str, str]]:
    """(language, code) of every fenced block of a page."""
    return re.findall(r"^```([^\n]*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def without_fenced_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def join_continued_lines(text: str) -> str:
    """Join lines that end with a backslash, as a shell does."""
    return re.sub(r"\\\n\s*", " ", text)


# Commands


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


# Lines, links and file names


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_lines_of_a_page_are_short(page: Path) -> None:
    """No line is exempt: a long command continues after a backslash, a wide table has notes below it."""
    lines = page.read_text(encoding="utf-8").splitlines()
    assert not [(number, len(line)) for number, line in enumerate(lines, 1) if len(line) > LINE_LENGTH]


def anchor(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def links(page: Path) -> list[tuple[str, str]]:
    """(path relative to the page, anchor) of the links of a page, without those to other sites."""
    targets = re.findall(r"\]\(([^)\s]+)\)", without_fenced_blocks(page.read_text(encoding="utf-8")))
    local = [target for target in targets if "://" not in target]
    return [(path, mark) for path, _, mark in (target.partition("#") for target in local)]


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_of_a_page_have_targets(page: Path) -> None:
    for path, mark in links(page):
        target = page.parent / path if path else page
        assert target.exists(), path
        if mark:
            text = without_fenced_blocks(target.read_text(encoding="utf-8"))
            assert mark in map(anchor, re.findall(r"^#+ (.+)$", text, re.MULTILINE)), f"{path}#{mark}"


MADE_BY_USERS = {
    ".grow/",
    ".kept/",
    "caches/more/",
    "convert.py",
    "demo/",
    "photos/",
    "quickstart/predictions/",
    "tensorboard/",
    "train2017/",
}
"""Folders and files on the pages that a user has or that a command makes."""


def named_files(text: str) -> Iterator[str]:
    """Files and folders that a page names in backticks, and scripts that its blocks run.

    A name is a word that ends in .py, .md or a slash, without placeholders such as OUT/TABLE.md or *.
    """
    joined = join_continued_lines(text)
    spans = re.findall(r"`([^`\n]+)`", without_fenced_blocks(joined))
    for _, block in fenced_blocks(joined):
        spans += re.findall(r"\bpython (\S+\.py)\b", block)
    for word in (word for span in spans for word in span.split()):
        if re.fullmatch(r"[\w./-]*\w(\.py|\.md|/)", word) and not re.search(r"\b[A-Z]+\b(?!\.md)", word):
            yield word


def exists_near(name: str, folder: Path) -> bool:
    """Whether a file exists relative to `folder` or to a folder above it, up to the repository root."""
    above = [folder, *folder.parents]
    return any((place / name).exists() for place in above[: above.index(ROOT) + 1])


def test_file_names_are_read_from_pages() -> None:
    text = "`a.py`, `docs/b.md --x`, `c/`, `OUT/TABLE.md`, `d/*.py`, `README.md`\n"
    page = f"{text}```\npython e.py --f g.md\n```\n"
    assert list(named_files(page)) == ["a.py", "docs/b.md", "c/", "README.md", "e.py"]


@pytest.mark.parametrize("page", [page for page in PAGES if page != OTHERS_FILES], ids=page_id)
def test_files_that_a_page_names_exist(page: Path) -> None:
    names = set(named_files(page.read_text(encoding="utf-8"))) - MADE_BY_USERS
    assert not sorted(name for name in names if not exists_near(name, page.parent))


def python_files() -> list[Path]:
    folders = (*ROOMS, "cckt", "benchmarks", "tests")
    return [
        *ROOT.glob("*.py"),
        *(path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))),
    ]


def prose(path: Path) -> Iterator[str]:
    """Docstrings and comments of a Python file."""
    source = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            yield node.value.value
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


FILES_OF_USERS = {"OUT/TABLE.md", "detector.py", "evil.py"}
"""Files in docstrings and comments that a user may have or that a command writes."""


def test_files_that_docstrings_and_comments_name_exist() -> None:
    wrong = []
    for path in python_files():
        for name in re.findall(r"(?<![\w/.<*-])[\w./-]*\w\.(?:py|md)\b", "\n".join(prose(path))):
            if name not in FILES_OF_USERS and not exists_near(name, path.parent):
                wrong.append(f"{path.relative_to(ROOT)}: {name}")
    assert not wrong


def test_no_file_mentions_documents_outside_the_repository() -> None:
    texts = [*python_files(), *PAGES, ROOT / "pyproject.toml", ROOT / ".ci" / "run"]
    wrong = [path for path in texts if FORMER_PAGES.search(path.read_text(encoding="utf-8"))]
    assert not [page_id(path) for path in wrong]


# Blocks that are run


RUN_PAGES = (
    "README",
    "tutorial",
    "data_formats",
    "reproducing",
    "api",
    "ablating",
    "training",
    "scaling",
    "troubleshooting",
)
"""Pages of docs/ whose blocks are run."""
SMALL_MODEL = {"train": options(), "ablate": options()}
"""Options that are added to the commands of a page, so that they take seconds."""


def blocks(page: Path, language: str) -> list[tuple[str, str]]:
    """(requirement of the block or "", code) of the fenced blocks of a page in a language."""
    found = []
    for written, code in fenced_blocks(page.read_text(encoding="utf-8")):
        if written == language:
            first, _, rest = code.partition("\n")
            needs = re.fullmatch(r"# needs: (.+)", first)
            found.append((needs[1], rest) if needs else ("", code))
    return found


def smaller(words: list[str]) -> list[str]:
    """Return a command of a page with fewer photos and a small model, so that it takes seconds."""
    if words[:2] == ["data", "shapeworld"]:
        at = words.index("--photos") + 1
        return [*words[:at], str(min(24, max(12, int(words[at]) // 10))), *words[at + 1 :]]
    if "--epochs" in words and words[words.index("--epochs") + 1] == "auto":
        at = words.index("--epochs")
        return [*words[:at], *words[at + 2 :]]
    return words


def docs_page(name: str) -> Path:
    return ROOT / "docs" / f"{name}.md"


def follow(page: str) -> None:
    """Run the commands of a page in the current folder."""
    for needs, code in blocks(docs_page(page), "sh"):
        for line in () if needs else join_continued_lines(code).splitlines():
            left, _, command = line.rpartition(" | ")
            words = shlex.split(command)
            assert words[0] == "cckt", f"{page}: {line!r} is not a cckt command; add a line `# needs: ...`"
            listed = subprocess.run(left, shell=True, capture_output=True, text=True, check=True).stdout
            before, sys.stdin = sys.stdin, io.StringIO(listed)
            try:
                assert cli.run([*smaller(words[1:]), *SMALL_MODEL.get(words[1], ())]) == 0, line
            finally:
                sys.stdin = before


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every command of the tutorial was run."""
    folder = tmp_path_factory.mktemp("workspace")
    with contextlib.chdir(folder):
        follow("tutorial")
    return folder


def test_a_block_states_its_requirement() -> None:
    needs = [needs for page in RUN_PAGES for needs, _ in blocks(docs_page(page), "sh")]
    assert needs.count("") > 8
    assert any("GPU" in one for one in needs)
    for page in RUN_PAGES:
        for language, code in fenced_blocks(docs_page(page).read_text(encoding="utf-8")):
            assert language or "cckt " not in code, f"{page}: a block with commands needs the language sh"


def test_the_tutorial_makes_the_files_that_it_names(workspace: Path) -> None:
    for made in (
        "runs/mine/model.safetensors",
        "why.html",
        "finds/predictions.json",
        "finds/predictions.csv",
        "finds/classes.txt",
        "labels/coco/predictions.json",
        "labels/yolo/data.yaml",
        "labels/voc/Annotations",
        "caches/labelled/index/index.json",
        "shared/mine/README.md",
        "detector.pt2",
        "caches/more/index/index.json",
    ):
        assert (workspace / made).exists(), made


@pytest.mark.parametrize("page", ["data_formats", "training", "scaling"])
def test_other_pages_run_on_the_folders_of_the_tutorial(workspace: Path, page: str) -> None:
    with contextlib.chdir(workspace):
        follow(page)


def test_the_commands_of_the_ablating_page_run(tmp_path: Path) -> None:
    with contextlib.chdir(tmp_path):
        follow("ablating")
    assert (tmp_path / "ablation" / "table4.md").is_file()
    assert (tmp_path / "ablation" / "table6.json").is_file()
    assert (tmp_path / "ablation" / "options.md").is_file()


def run_python(page: Path) -> dict[str, Any]:
    """Run the Python blocks of a page in the current folder; return the names that they define."""
    names: dict[str, Any] = {}
    for needs, code in blocks(page, "python"):
        if not needs or installed(needs):
            exec(compile(code, str(page), "exec"), names)
    return names


def installed(needs: str) -> bool:
    """Whether the package of an optional dependency, `cckt[package]`, is installed."""
    package = re.search(r"cckt\[(\w+)\]", needs)
    return package is not None and bool(importlib.util.find_spec(package[1]))


def test_every_python_block_of_the_api_page_runs(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copyfile(workspace / "demo" / "photos" / "00000000.png", workspace / "photo.png")
    shutil.copytree(workspace / "demo" / "photos", workspace / "photos", dirs_exist_ok=True)
    words = np.random.default_rng(0).normal(size=(2, load_teacher("shapeworld").width)).astype(np.float32)
    np.save(workspace / "words.npy", words / np.linalg.norm(words, axis=1, keepdims=True))
    with contextlib.chdir(workspace):
        names = run_python(docs_page("api"))
    assert (workspace / "out" / "predictions.json").is_file()
    assert isinstance(names["found"][0], cckt.Prediction)
    assert capsys.readouterr().out.count("photos/") == 24


def test_the_python_blocks_of_the_readmes_run(workspace: Path) -> None:
    shutil.copyfile(workspace / "demo" / "photos" / "00000000.png", workspace / "photo.jpg")
    shutil.copytree(workspace / "caches" / "mine", workspace / "caches" / "coco-train", dirs_exist_ok=True)
    with contextlib.chdir(workspace):
        run_python(ROOT / "README.md")
        names = run_python(ROOT / "caches" / "README.md")
    assert names["text"].shape[1] == load_teacher("shapeworld").width


def test_the_api_loads_the_teacher_of_the_run_or_a_named_one(workspace: Path) -> None:
    run = workspace / "runs" / "mine"
    assert cckt.Detector.load(run, "cpu").guide is not None
    named = cckt.Detector.load(run, "cpu", teacher="shapeworld")
    photo = workspace / "demo" / "photos" / "00000001.png"
    (found,) = named.predict(photo, "umbrella, mug|cup", min_score=0.0)
    assert [concept.name for concept in found.vocabulary] == ["umbrella", "mug"]
    with pytest.raises(cckt.UserError, match="no such file, expected a run folder"):
        cckt.Detector.load(workspace / "nowhere")


@pytest.mark.parametrize("protocol", range(6))
def test_the_script_for_proposals_of_others_reads_pickles_of_arrays_only(
    tmp_path: Path, protocol: int
) -> None:
    ((_, script),) = blocks(docs_page("proposals"), "python")
    names: dict[str, Any] = {"__name__": "convert"}
    exec(compile(script, "convert.py", "exec"), names)
    (tmp_path / "a.json").write_text(json.dumps({"images": [{"id": 7, "file_name": "7.jpg"}]}))
    for proposals in (
        {"7.jpg": np.array([[1, 2, 4, 6, 0.5]], np.float32)},
        {7: np.array([[1, 2, 4, 6]])},
        [[(1.0, 2.0, 4.0, 6.0)]],
    ):
        (tmp_path / "p.pkl").write_bytes(pickle.dumps(proposals, protocol))
        names["convert"](tmp_path / "p.pkl", tmp_path / "a.json", tmp_path / "boxes.json")
        (box,) = json.loads((tmp_path / "boxes.json").read_text())
        assert box == {"image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 1}
    (tmp_path / "p.pkl").write_bytes(pickle.dumps([Path("x")], protocol))
    with pytest.raises(pickle.UnpicklingError, match="is not allowed"):
        names["convert"](tmp_path / "p.pkl", tmp_path / "a.json", tmp_path / "boxes.json")


# Messages


def message_templates() -> list[str]:
    """Sentences of the errors that the program raises, with NUL for inserted values."""

    def text(node: ast.expr) -> str:
        if isinstance(node, ast.Constant):
            return str(node.value)
        return "".join(map(text, node.values)) if isinstance(node, ast.JoinedStr) else "\0"

    found = []
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("Error", "Interrupted")):
                    found += [text(argument) for argument in node.args[:1]]
    return found


def matching(message: str, known: list[str]) -> list[str]:
    """Templates that contain the fixed words of a message, separated by …, in their order."""
    words = filter(None, (part.strip() for part in message.split("…")))
    pattern = re.compile(".*".join(map(re.escape, words)), re.DOTALL | re.IGNORECASE)
    return [one for one in known if pattern.search(one)]


def test_the_program_has_the_messages_that_are_explained() -> None:
    page = docs_page("troubleshooting").read_text(encoding="utf-8")
    explained = re.findall(r"^`(.+)`$", page, re.MULTILINE)
    assert len(explained) > 30
    known = message_templates()
    for message in explained:
        assert matching(message, known), f"no message has these words: {message}"
        assert len(matching(message, known)) <= 3, f"several messages have these words: {message}"
    assert not matching("… no message … has these words …", known)
