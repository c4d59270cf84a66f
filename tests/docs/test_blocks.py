"""Code blocks of the pages run."""

from __future__ import annotations

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
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cckt
from cckt import cli
from cckt.cache_builder.teacher.clip import load_teacher
from tests.commands.front import options
from tests.docs.pages import docs_page, fenced_blocks, join_continued_lines
from tests.places import ROOT

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
