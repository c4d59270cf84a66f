"""User errors at the command line: exit code 2 and one message with the next step."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cckt.detector.runs.file_digests import accept
from tests.cache_builder.samples import write_teacher
from tests.commands.front import Call, World, coco, index, options, write


def changed(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the annotations of `coco(folder)`."""
    path = folder / "coco.json"
    annotations = json.loads(path.read_text())
    change(annotations)
    write(path, annotations)


def test_a_missing_file_or_folder(call: Call, world: World, tmp_path: Path) -> None:
    nothing, predict = tmp_path / "nothing", ["--vocabulary", "cup", "--out", tmp_path / "p"]
    lines = [
        ["data", "index", "--annotations", nothing, "--images", tmp_path, "--out", tmp_path / "d"],
        ["cache", "text", nothing, "--teacher", world.teacher],
        ["cache", "text", world.held, "--import", nothing],
        ["cache", "verify", nothing],
        ["cache", "info", nothing],
        ["train", "--recipe", "shapeworld", "--train", nothing, "--out", tmp_path / "r", *options()],
        [*world.train(tmp_path / "r"), "--config", nothing],
        ["eval", nothing, "--data", world.held],
        ["eval", world.run, "--data", nothing],
        ["eval", "--detections", nothing, "--data", world.held],
        ["predict", nothing, world.folder / "photos", *predict],
        ["predict", world.run, nothing, *predict],
        ["doctor", "--data", nothing],
    ]
    for words in lines:
        outcome = call(*words)
        assert outcome.sentence()
        assert "nothing" in outcome.err + outcome.out, outcome.err
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{ broken", "not valid JSON"),
        ("[1, 2]", "COCO"),
        ('{"images": []}', "'annotations'"),
    ],
)
def test_json_that_is_not_coco(call: Call, tmp_path: Path, text: str, words: str) -> None:
    write(coco(tmp_path) / "coco.json", text)
    assert words in call(*index(tmp_path, "data", "all")).sentence()


def test_boxes_outside_or_negative_are_counted_and_no_error(call: Call, tmp_path: Path) -> None:
    def spoil(annotations: dict[str, Any]) -> None:
        boxes = [[-9, -9, 5, 5], [50, 50, 40, 40], [5, 5, -3, 4], [5, 5, 0, 0]]
        for record, box in zip(annotations["annotations"], boxes, strict=False):
            record["bbox"] = box

    changed(coco(tmp_path), spoil)
    outcome = call(*index(tmp_path, "data", "all"))
    assert outcome.code == 0
    assert "9 boxes of 12 annotations" in outcome.out
    assert "2 dropped: width or height not above 0" in outcome.out
    assert "1 dropped: outside their photo" in outcome.out
    assert "1 clipped to their photo" in outcome.out


@pytest.mark.parametrize("part", ["images", "annotations", "categories"])
def test_duplicate_ids(call: Call, tmp_path: Path, part: str) -> None:
    changed(coco(tmp_path), lambda annotations: annotations[part][1].update(id=annotations[part][0]["id"]))
    assert "more than once" in call(*index(tmp_path, "data", "all")).sentence()


def test_a_split_that_does_not_fit_the_categories(call: Call, tmp_path: Path) -> None:
    coco(tmp_path)
    write(tmp_path / "split.json", {"base": ["cup", "zebra"], "novel": ["cat"]})
    assert "zebra" in call(*index(tmp_path, "data", "all")).sentence()
    words = [str(word) for word in index(tmp_path, "data", "all")]
    words[words.index("--split") + 1] = "coco-48-17"
    assert "split coco-48-17 does not fit" in call(*words).sentence()
    words[words.index("coco-48-17")] = "coco-48"
    assert "did you mean" in call(*words).sentence()


def test_a_file_name_outside_the_images_folder(call: Call, tmp_path: Path) -> None:
    changed(coco(tmp_path), lambda annotations: annotations["images"][0].update(file_name="../../secret.png"))
    assert "leaves the images folder" in call(*index(tmp_path, "data", "all")).sentence()


def test_an_unknown_teacher(call: Call, world: World) -> None:
    for teacher, words in (
        ("ViT-B-32/laion2b", "ViT-B-32/laion"),
        ("ViT-B-99/openai", "the nearest are"),
        ("ViT-B-32/random:x", "is not a seed"),
        ("local-dir:nowhere", "is not a folder"),
        ("nobody", "is not known"),
    ):
        assert words in call("cache", "crops", world.seen, "--teacher", teacher).sentence()
    assert "no teacher is named" in call("cache", "text", world.held).sentence()


def test_another_teacher_than_that_of_the_column(call: Call, world: World, tmp_path: Path) -> None:
    other = write_teacher(tmp_path / "other", seed=1)
    refused = call("cache", "text", world.seen, "--teacher", other).sentence()
    assert "another recipe" in refused
    assert "--overwrite" in refused
    verified = call("cache", "verify", world.seen, "text", "--teacher", other).sentence()
    assert verified.count("sha256:") == 2
    words = ["--vocabulary", "cup", "--out", tmp_path / "p", "--teacher", other]
    assert "give that teacher" in call("predict", world.run, world.folder / "photos", *words).sentence()
    mixed = tmp_path / "seen"
    shutil.copytree(world.seen, mixed)
    assert call("cache", "crops", mixed, "--teacher", other, "--overwrite").code == 0
    train = ["train", "--recipe", "shapeworld", "--train", mixed, "--out", tmp_path / "r", *options()]
    command = f"cckt cache crops {mixed} --teacher {world.teacher} --overwrite"
    assert f"make it again with {command}" in call(*train).sentence()
    assert "columns of several teachers" in call("doctor", "--data", mixed).out


def test_a_column_of_another_index(call: Call, world: World, tmp_path: Path) -> None:
    coco(tmp_path)
    changed(tmp_path, lambda annotations: annotations["annotations"].pop())
    for name in ("seen", "held"):
        shutil.copytree(world.folder / name, tmp_path / name)
        call(*index(tmp_path, name, "base" if name == "seen" else "all"))
    other = World(tmp_path, tmp_path / "seen", tmp_path / "held", tmp_path / "run", world.teacher)
    for words in (other.train(tmp_path / "r"), ["eval", world.run, "--data", other.held]):
        sentence = call(*words).sentence()
        assert sentence.count("sha256:") == 2
        assert "cckt cache" in sentence
    grown = call("cache", "images", other.held, "--teacher", world.teacher)
    assert grown.code == 0, grown.err
    assert "6 rows copied from the older column, 0 made" in grown.out
    assert "made for another index" in call("doctor", "--data", other.held).out


def test_an_unfinished_column(call: Call, world: World, tmp_path: Path) -> None:
    from cckt.cache_builder.index import open_index
    from cckt.cache_builder.store import ColumnSpec, open_writer

    data = tmp_path / "held"
    shutil.copytree(world.held, data)
    shutil.rmtree(data / "text")
    opened = open_index(data)
    open_writer(data, ColumnSpec("text", "concepts", 4, 24, dtype="float32", index_digest=opened.digest))
    outcome = call("eval", world.run, "--data", data).sentence()
    assert f"cckt cache text {data}" in outcome
    assert "lacks 1 of 1 chunks" in call("cache", "finish", data, "text").sentence()
    assert "not finished" in call("doctor", "--val", data).out


def test_an_unknown_recipe_or_option(call: Call, world: World, tmp_path: Path) -> None:
    folders = ["--train", world.seen, "--out", tmp_path / "r"]
    assert "did you mean 'shapeworld'" in call("train", "--recipe", "shapewrld", *folders).sentence()
    assert "no recipe is named" in call("train", *folders).sentence()
    recipe = ["train", "--recipe", "shapeworld", *folders]
    for option, words in (
        ("train.epoch=3", "train.epochs"),
        ("trains.epochs=3", "train"),
        ("train.epochs=many", "train.epochs"),
        ("train.epochs", "="),
        ("model.hidden=33", "model.hidden"),
        ("train.batch=0", "train.batch"),
    ):
        assert words in call(*recipe, "--set", option).sentence()
    assert (
        "anything" in call(*recipe, "--config", write(tmp_path / "c.toml", "[anything]\na = 1\n")).sentence()
    )
    assert "TOML" in call(*recipe, "--config", write(tmp_path / "c.toml", "not toml")).sentence()


def test_weights_for_another_width_of_the_teacher(call: Call, world: World, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert call(*world.train(run)).code == 0
    facts = json.loads((run / "facts.json").read_text())
    write(run / "facts.json", facts | {"embedding_dim": 5})
    accept(run)
    assert "another vocabulary size, teacher or model" in call("eval", run, "--data", world.held).sentence()


def test_a_run_folder_that_is_in_use_or_is_missing(call: Call, world: World, tmp_path: Path) -> None:
    assert "already holds a run" in call(*world.train(world.run)).sentence()
    assert "a run folder made by cckt train" in call(*world.train(tmp_path / "r", "--resume")).sentence()
    changed_option = call(*world.train(world.run, "--resume", "--set", "train.lr=0.5")).sentence()
    assert "train.lr" in changed_option


@pytest.mark.parametrize("vocabulary", ["", " ", ","])
def test_an_empty_vocabulary(call: Call, world: World, tmp_path: Path, vocabulary: str) -> None:
    words = [
        "predict",
        world.run,
        world.folder / "photos",
        "--vocabulary",
        vocabulary,
        "--out",
        tmp_path / "p",
    ]
    assert "vocabulary" in call(*words).sentence()
    assert not (tmp_path / "p").exists()


def test_a_vocabulary_with_a_repeated_name(call: Call, world: World, tmp_path: Path) -> None:
    words = [
        "predict",
        world.run,
        world.folder / "photos",
        "--vocabulary",
        "cup, cat|cup",
        "--out",
        tmp_path / "p",
    ]
    assert "twice" in call(*words).sentence()


def test_novel_boxes_in_training_data(call: Call, world: World, tmp_path: Path) -> None:
    coco(tmp_path)
    call(*index(tmp_path, "seen", "all"))
    for verb in ("text", "crops"):
        call("cache", verb, tmp_path / "seen", "--teacher", world.teacher)
    words = [
        "train",
        "--recipe",
        "shapeworld",
        "--train",
        tmp_path / "seen",
        "--out",
        tmp_path / "r",
        *options(),
    ]
    assert "--keep base" in call(*words).sentence()
    outcome = call("doctor", "--data", tmp_path / "seen")
    assert "6 of 12 boxes are of concepts that are not base" in outcome.out
    assert "checks failed; each line marked ✗" in outcome.sentence()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["eval", "RUN"], "no data set is named"),
        (["eval", "--data", "HELD"], "expected either a run folder or --detections"),
        (["eval", "RUN", "--data", "HELD", "--priors", "magic"], "--priors magic is not known"),
        (["eval", "RUN", "--data", "HELD", "--classification", "x"], "--classification x is not known"),
        (["eval", "RUN", "--data", "HELD", "--engine", "x"], "--engine x"),
        (["cache", "crops", "SEEN", "--teacher", "TEACHER", "--part", "3/3"], "--part is '3/3'"),
        (["cache", "crops", "SEEN", "--teacher", "TEACHER", "--crop", "round"], "--crop round is not known"),
        (["cache", "crops", "SEEN", "--teacher", "TEACHER", "--batch", "0"], "--batch is 0"),
        (
            ["cache", "crops", "SEEN", "--teacher", "TEACHER", "--device", "abacus"],
            "--device: found 'abacus'",
        ),
        (["cache", "crops", "SEEN", "--teacher", "TEACHER", "--precision", "int1"], "--precision int1"),
        (["cache", "text", "SEEN", "--teacher", "TEACHER", "--templates", "none"], "--templates none"),
        (
            ["cache", "priors", "HELD", "--prefilter", "clip:3"],
            "--prefilter applies only to a multimodal LLM; add --mllm",
        ),
        (
            ["cache", "priors", "HELD", "--mllm", "--name", "b"],
            "--name applies only to CLIP priors; you passed --mllm. Remove it.",
        ),
        (["cache", "priors", "HELD", "--mllm", "--mllm-prompt", "Is it?"], "{concept}"),
        (["cache", "priors", "HELD", "--mllm-model", "OUT"], "--mllm-model"),
        (["eval", "RUN", "--data", "HELD", "--protocol", "x"], "--protocol x"),
        (
            ["eval", "RUN", "--data", "HELD", "--out", "RUN/config.toml"],
            "is a file; name a folder",
        ),
        (
            ["eval", "RUN", "--data", "HELD", "--against", "OUT/none"],
            "none: no such run folder or results file",
        ),
        (
            ["eval", "RUN", "--data", "HELD", "--against", "RUN", "--out", "OUT"],
            "--out applies only to a single run; you passed --against. Remove it.",
        ),
        (
            ["eval", "RUN", "--data", "HELD", "--against", "RUN", "--resamples", "0"],
            "--resamples 0: expected at least 1 with --against",
        ),
        (
            ["eval", "--detections", "F", "--data", "HELD", "--priors", "clip"],
            "--priors applies only to a run; you passed --detections. Remove it.",
        ),
        (
            ["report", "RUN", "--data", "HELD", "--out", "OUT"],
            "found a folder, expected a file; give one such as",
        ),
        (["report", "RUN", "--data", "HELD", "--photos", "-1"], "--photos -1: expected 0 or more"),
        (
            ["export", "RUN", "--vocabulary", "cup", "--format", "torch", "--out", "OUT"],
            "expected a file",
        ),
        (
            ["predict", "RUN", "PHOTOS", "--vocabulary", "cup", "--out", "RUN/config.toml"],
            "is a file; name a folder",
        ),
        (
            ["predict", "RUN", "PHOTOS", "--vocabulary", "cup", "--out", "OUT", "--classification", "x"],
            "classification 'x': expected one of similarity, head, product",
        ),
        (
            ["predict", "RUN", "PHOTOS", "--vocabulary", "cup", "--out", "OUT", "--min-score", "7"],
            "min_score 7: expected a number from 0 to 1",
        ),
        (["cache", "info", "SEEN", "images"], "no column images"),
        (["cache", "diff", "SEEN", "HELD", "crops"], "There is no column crops"),
        (["data", "shapeworld", "--photos", "0", "--out", "OUT"], "at least 1 photo"),
        (["data", "shapeworld", "--photos", "1", "--seed", "-1", "--out", "OUT"], "--seed -1"),
        (["predict", "RUN", "PHOTOS", "--vocabulary", "cup", "--out", "OUT", "--priors", "x"], "--priors x"),
        (["cache", "text", "HELD", "--teacher", "TEACHER", "--json", "OUT/no/such/file"], "--json"),
    ],
)
def test_options_that_do_not_apply_or_are_out_of_range(
    call: Call, world: World, tmp_path: Path, words: list[str], sentence: str
) -> None:
    places = {"RUN": world.run, "HELD": world.held, "SEEN": world.seen, "TEACHER": world.teacher}
    places |= {"PHOTOS": world.folder / "photos", "OUT": tmp_path}
    within = {"OUT/": f"{tmp_path}/", "RUN/": f"{world.run}/"}
    filled = [
        str(places.get(word, within[word[:4]] + word[4:] if word[:4] in within else word)) for word in words
    ]
    assert sentence in call(*filled).sentence()
