"""The faults of a hostile test that need a certain input: each is one sentence with exit 2, or works."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cckt.cache_builder.base.untrusted.bounded import memory_limit
from tests.commands.front import World, index, options
from tests.faults.test_fuzz import MOST_BYTES, Words, call
from tests.places import ROOT

DIGITS = "9" * 5000
PREDICT = ["predict", "RUN", "PHOTOS", "--vocabulary", "cup", "--out", "OUT"]
NESTED = ("[" * 100_000, '{"a":' * 50_000, f'{{"images": [{{"id": {DIGITS}}}]}}', "a = " + "[" * 9000)
RUN_FILES = ("facts.json", "data.json", "metrics.json", "versions.json", "checkpoints/STEP/files.json")
NAMES = ("n" * 251 + ".png", os.fsdecode(b"\xff\xfe.png"), "\x1b[31m.png", "a\nb.png")


def ended(words: Words) -> tuple[int | str, str]:
    with memory_limit(MOST_BYTES):
        return call(words)


def sentence(words: Words) -> str:
    """Return the message of a command that must be refused."""
    code, err = ended(words)
    assert code == 2, f"exit {code}: {err[-500:]}"
    assert "Traceback" not in err
    return " ".join(err.replace("│", " ").split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cache", "text", "HELD", "--teacher", f"ViT-B-32/random:{DIGITS}"], "is not a seed"),
        (["cache", "text", "HELD", "--teacher", "ViT-B-32/random:²"], "is not a seed"),
        (["cache", "images", "HELD", "--teacher", "TEACHER", "--workers", "-1"], "--workers"),
        (["cache", "images", "HELD", "--teacher", "TEACHER", "--batch", "0"], "--batch"),
        (["cache", "verify", "HELD", "--sample", "-1"], "--sample"),
        (["data", "shapeworld", "--photos", "9" * 12, "--out", "OUT"], "of free disk space"),
        (["data", "shapeworld", "--photos", "-1", "--out", "OUT"], "photos"),
        (["data", "shapeworld", "--photos", "1", "--workers", "0", "--out", "OUT"], "--workers"),
        (["train", "--train", "SEEN", "--out", "OUT", "--epochs", "²"], "--epochs"),
        (["train", "--train", "SEEN", "--out", "OUT", "--epochs", DIGITS], "--epochs"),
        (["train", "--train", "SEEN", "--out", "OUT", "--set", "train.batch=²"], "train.batch"),
        (["train", "--train", "SEEN", "--out", "OUT", "--set", f"train.batch={DIGITS}"], "train.batch"),
        (["train", "--train", "SEEN", "--out", "OUT", "--set", "train.lr=1e999"], "train.lr"),
        (["train", "--train", "SEEN", "--out", "OUT", "--set", "model.decoder_layers=1000000"], "layers"),
        (["train", "--train", "SEEN", "--out", "OUT", "--set", "model.queries=1000000000"], "queries"),
        (["train", "--train", "SEEN", "--out", "OUT", "--set", "data.workers=100000"], "workers"),
        (["predict", "RUN", "", "--vocabulary", "cup", "--out", "OUT"], "empty name"),
        ([*PREDICT, "--top", DIGITS], "--top"),
        ([*PREDICT, "--min-score", "nan"], "--min-score"),
        (["data", "split", "COCO", "--share", "nan", "--out", "OUT"], "--share"),
        (["data", "split", "COCO", "--share", "0.5", "--seed", "-1", "--out", "OUT"], "--seed"),
        (["data", "shapeworld", "--photos", "1", "--workers", "999999", "--out", "OUT"], "--workers"),
        (
            ["cache", "images", "HELD", "--teacher", "TEACHER", "--workers", "999999", "--out", "OUT"],
            "--workers",
        ),
        (["cache", "pull", "HELD", "OUT", "--workers", "0"], "--workers"),
        (["eval", "RUN", "--data", "HELD", "--resamples", "-1", "--out", "OUT"], "--resamples"),
        (["eval", "RUN", "--data", "HELD", "--resamples", "9" * 12, "--out", "OUT"], "--resamples"),
        ([*PREDICT, "--every", "0"], "--every"),
        ([*PREDICT, "--tile", "-1"], "--tile"),
        (["export", "RUN", "--format", "hf-folder", "--size", "64x64", "--out", "OUT"], "--size"),
        (["cache", "all", "HELD", "--teacher", "TEACHER", "--tau", "0", "--out", "OUT"], "--tau"),
        (["cache", "priors", "HELD", "--tau", "nan"], "--tau"),
    ],
)
def test_numbers_out_of_range(world: World, tmp_path: Path, words: list[str], message: str) -> None:
    known = {"HELD": world.held, "SEEN": world.seen, "RUN": world.run, "TEACHER": world.teacher}
    known |= {"OUT": tmp_path / "new", "PHOTOS": world.folder / "photos", "COCO": world.folder / "coco.json"}
    given: Words = [known.get(word, word) for word in words]
    if words[0] == "train":
        given[1:1] = ["--recipe", "shapeworld", "--max-steps", "1", *options()]
    assert message in sentence(given)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("text", NESTED, ids=range(4))
def test_deep_nesting_and_huge_integers(world: World, tmp_path: Path, text: str) -> None:
    for name in ("file.json", "file.toml", "file.txt"):
        (tmp_path / name).write_text(text)
    out = tmp_path / "new"
    file, photos = tmp_path / "file.json", world.folder / "photos"
    for words in (
        ["data", "index", "--annotations", file, "--images", photos, "--out", out],
        [
            "data",
            "index",
            "--annotations",
            world.folder / "coco.json",
            "--images",
            photos,
            "--split",
            file,
            "--out",
            out,
        ],
        ["data", "split", file, "--share", "0.5", "--out", out],
        ["eval", "--data", world.held, "--detections", file],
        ["train", "--config", tmp_path / "file.toml", "--train", world.seen, "--out", out],
        ["cache", "proposals", world.held, "--import", file, "--out", out],
    ):
        assert "file." in sentence(words)
    assert not out.exists()


@pytest.mark.parametrize("name", RUN_FILES)
@pytest.mark.parametrize("value", [None, [], 5, {}, {"a": 1}, {"step": "²", "files": []}])
def test_a_file_of_a_run_edited_by_hand(world: World, tmp_path: Path, name: str, value: object) -> None:
    run = tmp_path / "run"
    shutil.copytree(world.run, run)
    (run / "digests.json").unlink()
    (checkpoint,) = (run / "checkpoints").iterdir()
    (run / name.replace("STEP", checkpoint.name)).write_text(json.dumps(value))
    for words in (
        ["predict", run, world.folder / "photos/0.png", "--vocabulary", "cup", "--out", tmp_path / "new"],
        ["train", "--resume", run],
        ["doctor", "--run", run],
    ):
        code, err = ended(words)
        assert code in (0, 2), f"{words}: {code} {err[-500:]}"
        assert "Traceback" not in err


@pytest.mark.parametrize(
    "table",
    [
        np.zeros((0, 0), np.float32),
        np.zeros(4, np.float32),
        np.zeros((4, 8), np.float32),
        np.full((4, 8), np.nan, np.float32),
        np.full((4, 8), np.inf, np.float32),
        np.ones((4, 8), np.complex64),
        np.array([["a"] * 8] * 4),
        np.ones((3, 8), np.float32),
        np.ones((4, 8, 2), np.float32),
    ],
    ids=str,
)
def test_odd_tables_are_not_imported(world: World, tmp_path: Path, table: np.ndarray) -> None:
    np.save(tmp_path / "table.npy", table)
    words: Words = [
        "cache",
        "text",
        world.held,
        "--import",
        tmp_path / "table.npy",
        "--out",
        tmp_path / "new",
    ]
    assert "table.npy" in sentence(words)
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(os.name != "posix", reason="needs names as on POSIX")
def test_a_text_option_must_be_utf8_and_a_file_need_not(world: World, tmp_path: Path) -> None:
    """Python keeps other bytes of the command line as lone surrogates."""
    other = os.fsdecode(b"\xff\xfe")
    photo = world.folder / "photos/0.png"
    words: Words = ["predict", world.run, photo, "--teacher", world.teacher, "--out", tmp_path / "out"]
    refused = sentence([*words, "--vocabulary", other])
    assert r"--vocabulary: found '\udcff\udcfe', which is not UTF-8" in refused
    figures = tmp_path / f"{other}.json"
    code, err = ended([*words, "--vocabulary", "cup", "--json", figures])
    assert code == 0, err
    assert json.loads(figures.read_text())["photos"] == 1


@pytest.mark.parametrize("name", NAMES, ids=range(4))
def test_names_of_photos(world: World, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    shutil.copy(world.folder / "photos/0.png", folder / name)
    words: Words = [
        "predict",
        world.run,
        folder,
        "--vocabulary",
        "cup",
        "--min-score",
        "0",
        "--teacher",
        world.teacher,
    ]
    for format in ("coco", "csv", "yolo", "voc"):
        code, err = ended([*words, "--format", format, "--out", tmp_path / format])
        assert code in (0, 2), f"{format}: {code} {err[-500:]}"
        assert "\x1b" not in err


def test_a_folder_that_cannot_be_read(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As lost+found, which only root reads; tests may be root, so the system call refuses."""
    folder = tmp_path / "photos"
    shutil.copytree(world.folder / "photos", folder)
    (folder / "lost+found").mkdir()
    real = os.scandir

    def refusing(path: object = ".") -> object:
        if "lost+found" in os.fsdecode(path):  # type: ignore[arg-type]
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "scandir", refusing)
    words: Words = [
        "predict",
        world.run,
        folder,
        "--vocabulary",
        "cup",
        "--recursive",
        "--teacher",
        world.teacher,
    ]
    code, err = ended([*words, "--out", tmp_path / "new"])
    assert code in (0, 2), err
    assert "Traceback" not in err


def test_a_word_of_ten_thousand_letters_is_drawn_at_once(world: World, tmp_path: Path) -> None:
    words: Words = [
        "predict",
        world.run,
        world.folder / "photos/0.png",
        "--min-score",
        "0",
        "--teacher",
        world.teacher,
    ]
    code, err = ended([*words, "--vocabulary", "w" * 10_000, "--out", tmp_path / "new"])
    assert code in (0, 2), err  # `call` ends what computes for long


def test_an_ascii_terminal(world: World, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cckt", "doctor", "--data", str(world.held)],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONIOENCODING": "ascii",
            "LC_ALL": "C",
            "PYTHONUTF8": "0",
        },
        capture_output=True,
        check=False,
    )
    assert done.returncode in (0, 2), done.stderr
    assert b"Traceback" not in done.stderr
    assert b"internal error" not in done.stderr


def test_photos_that_are_gone(world: World, tmp_path: Path) -> None:
    """A finished column is kept, and an evaluation without any photo is refused."""
    shutil.copytree(world.folder / "photos", tmp_path / "photos")
    shutil.copy(world.folder / "coco.json", tmp_path)
    shutil.copy(world.folder / "split.json", tmp_path)
    assert ended(index(tmp_path, "held", "all"))[0] == 0
    for column in ("text", "images"):
        assert ended(["cache", column, tmp_path / "held", "--teacher", world.teacher])[0] == 0
    before = (tmp_path / "held/images/zarr.json").read_bytes()
    (tmp_path / "photos").rename(tmp_path / "elsewhere")
    images = ["cache", "images", tmp_path / "held", "--teacher", world.teacher, "--overwrite"]
    assert "photos" in sentence(images)
    assert (tmp_path / "held/images/zarr.json").read_bytes() == before
    assert "photos" in sentence(["eval", world.run, "--data", tmp_path / "held", "--priors", "none"])
