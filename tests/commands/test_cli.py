"""Help, global options, exit codes and messages of the command line."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from cckt import __version__, cli
from cckt.cache_builder.runner import Interrupted
from cckt.detector.inference import input_set
from tests.commands.front import Call, World
from tests.places import ROOT


def commands(group: Any = None, names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the names and the object of every command and group."""
    group = group or typer.main.get_command(cli.app)
    yield names, group
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*names, name))


def python(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python in the repository."""
    return subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_no_arguments_and_help_show_the_usage(call: Call) -> None:
    for words in ([], ["--help"], ["data", "--help"], ["cache", "--help"], ["train", "--help"]):
        outcome = call(*words)
        assert "Usage: cckt" in outcome.out + outcome.err
        assert outcome.code == (0 if words else 2)


def test_help_lists_the_commands_in_the_order_of_use(call: Call) -> None:
    out = call("--help").out
    places = [out.index(f"│ {verb} ") for verb in ("quickstart", "data", "cache", "train", "eval", "predict")]
    assert places == sorted(places)


def test_every_command_has_help_under_both_names_and_describes_its_options(call: Call) -> None:
    found = dict(commands())
    assert len(found) == 31, "expected 28 commands, 2 groups and cckt itself"
    for names, command in found.items():
        assert call(*names, "-h").out == call(*names, "--help").out != ""
        texts = [command.help, *(parameter.help for parameter in command.params)]
        assert all(texts), f"{names}: a help text is missing"
        for text in texts:
            assert text[0].isupper() or text.split()[0].strip(":,.") in KEYWORDS, f"{names}: {text}"
            assert re.search(r"[.)]$", text.split("\n\n")[0]), f"{names}: {text}"


KEYWORDS = {
    *("all", "auto", "box", "clip", "coco", "coco-48-17", "hotcoco", "onnx", "ov-coco"),
    *("finetune", "levels", "local", "options", "proposals", "retention", "shapeworld"),
    *("crops", "parquet", "single", "table4", "table5", "table6"),
}
"""Values with which a help text may begin."""


def test_help_loads_no_heavy_library() -> None:
    """A limit in seconds would fail on a busy machine."""
    heavy = {"torch", "torchvision", "numpy", "scipy", "PIL", "transformers", "open_clip", "timm", "zarr"}
    code = "import sys; from cckt import cli; print(cli.run(['--help']), *(set(sys.modules) & HEAVY))"
    assert python("-c", code.replace("HEAVY", str(heavy))).stdout.splitlines()[-1] == "0"


def test_version(call: Call) -> None:
    outcome = call("--version")
    assert (outcome.code, outcome.out, outcome.err) == (0, f"cckt {__version__}\n", "")
    assert python("-m", "cckt", "--version").stdout == outcome.out


def test_completion_offers_the_commands() -> None:
    words = {"_CCKT_COMPLETE": "complete_bash", "COMP_WORDS": "cckt ca", "COMP_CWORD": "1"}
    assert python("-m", "cckt", **words).stdout.split() == ["cache"]
    shown = python("-m", "cckt", "--show-completion", "bash")
    assert "_CCKT_COMPLETE" in shown.stdout + python("-m", "cckt", "--show-completion").stdout


def test_quiet_hides_progress_and_keeps_results_notes_and_errors(
    call: Call, world: World, tmp_path: Path
) -> None:
    words = ["cache", "images", world.held, "--teacher", world.teacher, "--out", tmp_path, "--overwrite"]
    assert "6 photos in" in call(*words).err
    for place in (0, 2, len(words)):
        outcome = call(*words[:place], "--quiet", *words[place:])
        assert (outcome.code, outcome.err) == (0, "")
        assert "column images: 6 rows" in outcome.out
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "broken.png").write_text("not a photo")
    (photos / "0.png").write_bytes((world.folder / "photos" / "0.png").read_bytes())
    predict = ["predict", world.run, photos, "--vocabulary", "cup", "--out", tmp_path / "p", "--quiet"]
    noted = call(*predict)
    assert "broken.png" in noted.err
    assert "in 0." not in noted.err, "expected no closing line of a stage"
    assert "no data set is named" in call("eval", "--quiet").sentence()


def test_parser_errors_are_user_errors(call: Call) -> None:
    for words in (["nothing"], ["predict"], ["train", "--max-steps", "many"], ["cache", "crops", "x"]):
        outcome = call(*words)
        assert outcome.code == 2
        assert "Traceback" not in outcome.err
        assert "Usage" in outcome.err


def test_an_internal_error_is_one_line_and_debug_raises_it(
    call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(*given: object) -> list[Path]:
        raise RuntimeError("a wheel came off\nand rolled away")

    monkeypatch.setattr(input_set, "find_photos", broken)
    words = ["predict", "run", "photo.jpg", "--vocabulary", "cup", "--out", str(tmp_path)]
    outcome = call(*words)
    assert outcome.code == 1
    assert "internal error: RuntimeError: a wheel came off; please report it" in outcome.err
    assert "--debug" in outcome.err
    assert outcome.err.count("\n") == 1
    for place in (0, len(words)):
        with pytest.raises(RuntimeError, match="a wheel came off"):
            cli.run([*words[:place], "--debug", *words[place:]])


@pytest.mark.parametrize(
    ("stop", "code", "sentence"),
    [
        (KeyboardInterrupt(), 130, "stopped"),
        (Interrupted("Stopped by Ctrl-C after 3 chunks.", 2), 130, "after 3 chunks"),
        (Interrupted("Stopped by SIGTERM after 3 chunks.", 15), 143, "SIGTERM"),
    ],
)
def test_a_signal_has_a_message_and_its_exit_code(
    call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stop: BaseException, code: int, sentence: str
) -> None:
    def stopped(*given: object) -> list[Path]:
        raise stop

    monkeypatch.setattr(input_set, "find_photos", stopped)
    outcome = call("predict", "run", "photo.jpg", "--vocabulary", "cup", "--out", tmp_path)
    assert outcome.code == code
    assert sentence in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize(
    ("words", "place"),
    [
        (["predict", "RUN", "", "--vocabulary", "cup", "--out", "o"], "an argument"),
        (["predict", "RUN", "--no-pictures", "", "--vocabulary", "cup", "--out", "o"], "an argument"),
        (["predict", "RUN", "a.jpg", "--vocabulary", "cup", "--out", ""], "--out"),
        (["export", "RUN", "--out="], "--out"),
        (["data", "shapeworld", "--photos", "1", "--out", ""], "--out"),
        (["train", "--recipe", "shapeworld", "--train", "", "--out", "o"], "--train"),
        (["eval", "RUN", "--data", "d", "--json", ""], "--json"),
        (["cache", "info", ""], "an argument"),
    ],
)
def test_an_empty_file_name_is_refused(call: Call, words: list[str], place: str) -> None:
    assert call(*words).sentence().startswith(f"{place}: found an empty name, expected a file or folder")


@pytest.mark.parametrize("url", ["s3://bucket/a", "memory://a", "file:///tmp/a"])
def test_a_url_is_refused_where_only_a_folder_can_be(
    call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for words in (["data", "shapeworld", "--photos", "1"], ["report", "RUN"], ["quickstart"]):
        assert (
            f"--out {url}: found a URL, expected a path on this machine"
            in call(*words, "--out", url).sentence()
        )
    assert not list(tmp_path.iterdir())


def test_a_url_is_a_place_for_columns(call: Call, tmp_path: Path) -> None:
    sentence = call("cache", "text", tmp_path, "--teacher", "shapeworld", "--out", "memory://a").sentence()
    assert "found a URL" not in sentence


@pytest.mark.parametrize(
    "words",
    [
        ["cache", "text", "DATA", "--teacher", "shapeworld", "--out", "memory://a"],
        ["cache", "pull", "DATA", "memory://a"],
        ["cache", "images", "DATA", "--teacher", "shapeworld", "--reuse-from", "memory://a"],
        ["cache", "info", "memory://a"],
    ],
)
def test_a_place_that_ends_with_the_command_is_refused(call: Call, words: list[str]) -> None:
    assert "memory://a: found a place in the memory of this process" in call(*words).sentence()


@pytest.mark.parametrize("option", ["--out", "--reuse-from"])
def test_an_empty_place_of_columns_is_refused(call: Call, option: str) -> None:
    sentence = call("cache", "images", "d", "--teacher", "shapeworld", option, "").sentence()
    assert sentence.startswith(f"{option}: found an empty name")


def test_figures_replace_only_figures(call: Call, tmp_path: Path) -> None:
    """Whether the file can be written is known before the work."""
    words = ["data", "shapeworld", "--photos", "1", "--workers", "1", "--out", tmp_path / "w"]
    for name, content in (("a.json", "{}\n"), ("b.txt", "precious"), ("coco.json", '{"images": []}')):
        (tmp_path / name).write_text(content)
        sentence = call(*words, "--json", tmp_path / name).sentence()
        assert f"--json: found a file {tmp_path / name} that is not figures of cckt" in sentence
        assert (tmp_path / name).read_text() == content
    assert "is not figures of cckt" in call(*words, "--json", tmp_path).sentence()
    no = tmp_path / "no/such.json"
    assert f"--json {no}: its folder does not exist" in call(*words, "--json", no).sentence()
    assert not (tmp_path / "w").exists()
    (tmp_path / "empty.json").touch()
    for path in (tmp_path / "empty.json", tmp_path / "w/figures.json", tmp_path / "w/figures.json"):
        assert call(*words, "--json", path).code == 0
        assert json.loads(path.read_text())["cckt"] == __version__
        assert json.loads(path.read_text())["images"] == 1


def test_faults_of_disks_and_paths_are_user_errors(call: Call, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    long = tmp_path / ("n" * 300)
    for out, reason in ((tmp_path / "file" / "below", "is a file"), (long, "the name is too long")):
        for words in (["data", "shapeworld", "--photos", "1"], ["quickstart"]):
            assert reason in call(*words, "--out", out).sentence(), words
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.name != "posix", reason="needs a limit of file sizes")
def test_a_disk_that_takes_no_more_leaves_no_part_of_a_file(tmp_path: Path) -> None:
    words = ["data", "shapeworld", "--photos", "1", "--workers", "1", "--out", tmp_path / "w"]
    ended = subprocess.run(
        [sys.executable, "-m", "cckt", *map(str, words)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.splitlines()[-1].startswith(f"cckt: {tmp_path}/w/photos/00000000.png: could not be")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["world.json"]


def test_a_broken_pipe_within_a_command_is_an_internal_error(
    call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(*given: object) -> list[Path]:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(input_set, "find_photos", broken)
    outcome = call("predict", "run", "photo.jpg", "--vocabulary", "cup", "--out", tmp_path)
    assert outcome.code == 1
    assert "BrokenPipeError" in outcome.err


@pytest.mark.skipif(os.name != "posix", reason="needs pipes as on POSIX")
@pytest.mark.parametrize("words", [["--version"], ["--help"], ["doctor", "--json", "-"]])
def test_a_closed_pipe_ends_quietly(words: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "cckt", *words], stdout=writer, stderr=subprocess.PIPE, check=False
        )
    finally:
        os.close(writer)
    assert ended.returncode in (0, 141), ended.stderr
    assert b"Traceback" not in ended.stderr
    assert b"internal error" not in ended.stderr
    assert b"Exception ignored" not in ended.stderr
