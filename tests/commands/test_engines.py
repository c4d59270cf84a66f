"""Engines, exact parts and job scripts of `cckt cache`."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.commands.front import Call, World, coco, index


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--engine", "slurm"], "--engine slurm is not known; expected local or ray."),
        (["--address", "auto"], "--address applies only to --engine ray; add it, or remove the option."),
        (["--actors", "2"], "--actors applies only to --engine ray; add it, or remove the option."),
        (["--engine", "ray", "--actors", "0"], "--actors is 0; give at least 1."),
        (
            ["--engine", "ray", "--part", "0/2"],
            "--part does not apply to --engine ray, which divides",
        ),
        (["--exact-part"], "--exact-part needs a part; add --part I/N, or remove it."),
    ],
)
def test_options_that_do_not_fit_are_one_sentence(
    call: Call, world: World, words: list[str], message: str
) -> None:
    outcome = call("cache", "crops", world.seen, "--teacher", world.teacher, *words)
    assert outcome.sentence().startswith(message)


def test_predict_and_pseudo_refuse_unknown_engines(call: Call, world: World, tmp_path: Path) -> None:
    coco(tmp_path)
    options = ["--out", tmp_path / "out", "--engine", "dask"]
    expected = "--engine dask is not known; expected local or ray."
    predict = ["predict", world.run, tmp_path / "photos/0.png", "--vocabulary", "cat"]
    assert call(*predict, *options).sentence() == expected
    assert call("pseudo", world.run, "--data", world.held, *options).sentence() == expected


@pytest.mark.slow
def test_predict_and_pseudo_on_a_cluster_find_the_same(call: Call, world: World, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs ray")
    coco(tmp_path)
    found = {}
    for engine in ("local", "ray"):
        out = tmp_path / engine
        words = ["predict", world.run, tmp_path / "photos", "--vocabulary", "cat, dog", "--min-score", "0"]
        assert call(*words, "--out", out, "--engine", engine, "--device", "cpu").code == 0
        pseudo = ["pseudo", world.run, "--data", world.held, "--min-score", "0.01", "--device", "cpu"]
        outcome = call(*pseudo, "--out", tmp_path / f"{engine}-data", "--engine", engine)
        assert outcome.code == 0, outcome.err
        pictures = {path.name: path.read_bytes() for path in out.glob("*.png")}
        digest = outcome.out.split("sha256:")[1].split()[0]
        found[engine] = ((out / "predictions.json").read_bytes(), pictures, digest)
        assert len(pictures) == 6
    assert found["ray"] == found["local"]


def test_an_address_that_nobody_answers_is_one_sentence(call: Call, world: World, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs ray")
    out = tmp_path / "out"
    words = ["cache", "images", world.seen, "--teacher", world.teacher, "--out", out]
    outcome = call(*words, "--engine", "ray", "--address", "ray://127.0.0.1:9")
    assert outcome.sentence().startswith("--address ray://127.0.0.1:9: found no Ray cluster (")
    assert not out.exists()


def test_an_exact_part_leaves_the_column_unfinished(call: Call, world: World, tmp_path: Path) -> None:
    coco(tmp_path)
    call(*index(tmp_path, "held", "all"))
    words = [
        "cache",
        "images",
        tmp_path / "held",
        "--teacher",
        world.teacher,
        "--part",
        "1/2",
        "--exact-part",
    ]
    outcome = call(*words)
    assert outcome.code == 0
    assert "not finished" in outcome.out


def test_print_sbatch_prints_a_script_that_slurm_can_run(call: Call, world: World, tmp_path: Path) -> None:
    out = tmp_path / "with space"
    words = ["cache", "crops", world.seen, "--teacher", world.teacher, "--flipped", "--out", out]
    outcome = call(*words, "--print-sbatch")
    assert outcome.code == 0
    assert not out.exists()
    script, log = tmp_path / "crops.sh", tmp_path / "log"
    script.write_text(outcome.out)
    fake = tmp_path / "bin/sbatch"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/bash\necho "args: $*" >> {log}\n[ -t 0 ] || cat >> {log}\necho 4711\n')
    fake.chmod(0o755)
    environment = {**os.environ, "PATH": f"{fake.parent}:{os.environ['PATH']}"}
    subprocess.run(["bash", str(script)], check=True, env=environment, stdin=subprocess.DEVNULL)
    lines = log.read_text().splitlines()
    assert lines[0] == "args: --parsable"
    assert "#SBATCH --job-name=crops --array=0-0 --gres=gpu:1 --cpus-per-task=8 --time=02:00:00" in lines
    command = next(line for line in lines if line.startswith("cckt"))
    expected = ["cckt", "cache", "crops", str(world.seen), "--teacher", world.teacher, "--flipped", "--out"]
    found = shlex.split(command)
    assert sorted(found) == sorted([*expected, str(out), "--part", "${SLURM_ARRAY_TASK_ID}/1"])
    assert lines[-1].startswith("args: --dependency=afterany:4711 --wrap cckt cache finish ")
    assert lines[-1].endswith("crops crops-flipped")


@pytest.mark.parametrize(
    ("words", "held"),
    [
        (["images"], "1 of images"),
        (["all"], "1 of crops, 1 of images"),
        (["priors", "--mllm"], "1 of priors/mllm"),
        (["priors"], "1 of priors/clip"),
    ],
)
def test_print_sbatch_counts_the_chunks_of_every_verb(
    call: Call, world: World, words: list[str], held: str
) -> None:
    verb, *options = words
    teacher = [] if verb == "priors" else ["--teacher", world.teacher]
    outcome = call("cache", verb, world.seen, *teacher, *options, "--print-sbatch")
    assert outcome.code == 0
    assert f"# Chunks: {held}. Submit with: bash FILE." in outcome.out
