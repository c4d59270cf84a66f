"""HD-OVD at the command line: what is refused with one sentence, and what is fine."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.index import open_index
from cckt.detector.evaluation.evaluation_set import check_start
from cckt.detector.runs.run_folder import Facts
from tests.cache_builder.detectors.detector_models import write_detector
from tests.cache_builder.mllm.mllm_models import outspoken
from tests.commands.front import Call, World, coco, index, options, write

FIXED = [f"terms.{term}.noun_weight=fixed" for term in ("novel_aware_classes", "text_relation")]
"""An untrained teacher has no weight of nouns that could be fitted."""
LEVELS = options("data.proposals=2", "data.min_proposal_side=4")
WORDS = "star\nsun\ncloud\nlamp\n"


@pytest.fixture
def seen(world: World, tmp_path: Path) -> Path:
    return Path(shutil.copytree(world.seen, tmp_path / "seen"))


def boxes(path: Path, box: list[float], photos: range = range(1, 7)) -> Path:
    """Write a results file: the same box in each photo."""
    return write(path, [{"image_id": one, "bbox": box, "score": 0.5} for one in photos])


def propose(call: Call, data: Path, file: Path, *more: object) -> None:
    words = ["cache", "proposals", data, "--import", file, "--saw-novel", "no", "--min-side", 4]
    assert call(*words, "--nms", 1, *more).code == 0


def columns(call: Call, world: World, data: Path, words: str = WORDS) -> None:
    """Make images, crops of proposals and nouns."""
    assert call("cache", "images", data, "--teacher", world.teacher).code == 0
    assert call("cache", "crops", data, "--of", "proposals", "--teacher", world.teacher).code == 0
    listed = write(data.parent / "words.txt", words)
    assert call("cache", "nouns", data, "--nouns-from", listed).code == 0


def train(data: Path, out: Path, *more: str, recipe: str = "shapeworld-hdovd") -> list[object]:
    fixed = [word for one in FIXED for word in ("--set", one)]
    folders = ["--train", data, "--out", out, "--max-steps", "2"]
    return ["train", "--recipe", recipe, *folders, *LEVELS, *fixed, *more]


def log(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "train"]


def test_no_proposals(call: Call, world: World, seen: Path, tmp_path: Path) -> None:
    assert f"cckt cache proposals {seen}" in call(*train(seen, tmp_path / "r")).sentence()
    assert not (tmp_path / "r" / "config.toml").exists()
    for words in (
        ["cache", "crops", seen, "--of", "proposals", "--teacher", world.teacher],
        ["cache", "nouns", seen, "--nouns-from", write(tmp_path / "w.txt", WORDS)],
        ["cache", "fit-nouns", seen],
    ):
        assert "cckt cache proposals" in call(*words).sentence()


def test_proposals_without_crops_or_nouns(call: Call, world: World, seen: Path, tmp_path: Path) -> None:
    propose(call, seen, boxes(tmp_path / "b.json", [2, 2, 30, 17]))
    assert "cckt cache crops" in call(*train(seen, tmp_path / "r")).sentence()
    assert call("cache", "crops", seen, "--of", "proposals", "--teacher", world.teacher).code == 0
    assert "cckt cache nouns" in call(*train(seen, tmp_path / "r")).sentence()


def test_proposals_of_another_index(call: Call, world: World, tmp_path: Path) -> None:
    coco(tmp_path)
    for name in ("seen", "other"):
        assert call(*index(tmp_path, name, "base")).code == 0
    seen, other = tmp_path / "seen", tmp_path / "other"
    annotations = json.loads((tmp_path / "coco.json").read_text())
    annotations["annotations"].pop(0)
    write(tmp_path / "coco.json", annotations)
    shutil.rmtree(other)
    assert call(*index(tmp_path, "other", "base")).code == 0
    propose(call, other, boxes(tmp_path / "b.json", [2, 2, 30, 17]))
    for verb in ("text", "crops"):
        assert call("cache", verb, seen, "--teacher", world.teacher).code == 0
    shutil.copytree(other / "proposals", seen / "proposals")
    for words in (
        train(seen, tmp_path / "r"),
        ["cache", "crops", seen, "--of", "proposals", "--teacher", world.teacher],
    ):
        sentence = call(*words).sentence()
        assert sentence.count("sha256:") == 2
        assert "another index" in sentence


def test_a_detector_that_saw_novel_classes(call: Call, world: World, seen: Path, tmp_path: Path) -> None:
    detector = write_detector("rt_detr", tmp_path / "detector")
    words = ["cache", "proposals", seen, "--detector", detector, "--min-side", 1, "--overwrite"]
    # One of its labels is cat, a novel concept: no statement outweighs that.
    made = call(*words, "--saw-novel", "no")
    assert made.code == 0, made.err
    shown = " ".join((made.out + made.err).split())
    assert "training under an open-vocabulary protocol refuses it" in shown
    sentence = call(*train(seen, tmp_path / "r")).sentence()
    assert "was trained on boxes of 1 novel concepts (cat)" in sentence
    assert f"cckt cache proposals {seen} --from RUN --overwrite" in sentence
    file = boxes(tmp_path / "b.json", [2, 2, 30, 17])
    stated = {"yes": "saw novel classes", "unknown": "may have seen novel classes"}
    for answer, message in stated.items():
        words = ["cache", "proposals", seen, "--import", file, "--min-side", 1, "--overwrite"]
        assert call(*words, "--saw-novel", answer).code == 0
        assert message in call(*train(seen, tmp_path / "r")).sentence()
    assert not (tmp_path / "r" / "config.toml").exists()


def own_words(folder: Path) -> Path:
    """Write the world's photos with the two base concepts only: no open-vocabulary protocol."""
    annotations = json.loads((coco(folder) / "coco.json").read_text())
    annotations["categories"] = annotations["categories"][:2]
    annotations["annotations"] = [one for one in annotations["annotations"] if one["category_id"] < 3]
    write(folder / "coco.json", annotations)
    write(folder / "split.json", {"base": ["cup", "box"]})
    return folder


def test_a_run_hands_on_the_makers_of_its_proposals_and_nouns(
    call: Call, world: World, seen: Path, tmp_path: Path
) -> None:
    """A detector that saw everything is welcome for own words; its student is none for a protocol."""
    assert call(*index(own_words(tmp_path / "own"), "data", "all")).code == 0
    data, run = tmp_path / "own" / "data", tmp_path / "student"
    for verb in ("text", "crops"):
        assert call("cache", verb, data, "--teacher", world.teacher).code == 0
    file = boxes(tmp_path / "b.json", [2, 2, 30, 17])
    made = ["cache", "proposals", data, "--import", file, "--min-side", 4, "--nms", 1]
    assert call(*made).code == 0  # --saw-novel unknown
    columns(call, world, data, WORDS + "cats\n")
    assert call(*train(data, run)).code == 0
    facts = Facts.load(run)
    assert [one.maker for one in facts.makers_of_proposals] == ["import", "words"]
    made = ["cache", "proposals", seen, "--from", run, "--min-side", 1]
    outcome = call(*made)
    assert "run student was given the names of 1 novel concepts (cat)" in " ".join(outcome.err.split())
    assert "run student, which was given the names" in call(*train(seen, tmp_path / "r")).sentence()
    sentence = call(*train(seen, tmp_path / "r", "--from", str(run))).sentence()
    assert "was given the names of 1 novel concepts (cat)" in sentence
    assert not (tmp_path / "r" / "config.toml").exists()
    with pytest.raises(UserError, match=r"was trained on proposals or nouns of file b\.json, which may have"):
        check_start(open_index(seen), facts, "ov-coco")
    check_start(open_index(seen), facts, "custom")
    # Without the word, the detector of the proposals is what speaks against the run.
    assert (
        call("cache", "nouns", data, "--nouns-from", write(tmp_path / "w.txt", WORDS), "--overwrite").code
        == 0
    )
    assert call("train", "--resume", run, "--max-steps", "3").code == 2, "other nouns are other data"
    assert call(*train(data, tmp_path / "other")).code == 0
    assert call(*made[:3], "--from", tmp_path / "other", "--min-side", 1, "--overwrite").code == 0
    assert (
        "run other, which saw novel classes, or learned from a maker that may have"
        in call(*train(seen, tmp_path / "r")).sentence()
    )
    # The statement may be corrected, and then the run resumes and is welcome.
    words = ["cache", "proposals", data, "--import", file, "--min-side", 4, "--nms", 1]
    assert call(*words, "--saw-novel", "no", "--overwrite").code == 0
    resumed = call("train", "--resume", tmp_path / "other", "--max-steps", "3")
    assert resumed.code == 0, resumed.err
    assert call(*made[:3], "--from", tmp_path / "other", "--min-side", 1, "--overwrite").code == 0
    assert "cckt cache crops" in call(*train(seen, tmp_path / "r")).sentence()


def test_a_word_list(call: Call, world: World, seen: Path, tmp_path: Path) -> None:
    propose(call, seen, boxes(tmp_path / "b.json", [2, 2, 30, 17]))
    assert call("cache", "crops", seen, "--of", "proposals", "--teacher", world.teacher).code == 0
    empty = write(tmp_path / "w.txt", "12\n--\n\n")
    refused = call("cache", "nouns", seen, "--nouns-from", empty).sentence()
    assert "none of its 3 lines is a usable word, expected a word or phrase" in refused
    absent = call("cache", "nouns", seen, "--nouns-from", tmp_path / "no").sentence()
    assert "cannot be read as text" in absent
    assert not (seen / "proposals" / "nouns").exists()
    columns(call, world, seen, WORDS + "cat\n")
    sentence = call(*train(seen, tmp_path / "r")).sentence()
    assert "was given the names of 1 novel concepts (cat)" in sentence


def test_an_mllm_that_names_nothing(call: Call, seen: Path, tmp_path: Path, world: World) -> None:
    propose(call, seen, boxes(tmp_path / "b.json", [2, 2, 30, 28]))
    model, processor = outspoken()
    model.lm_head.weight.data[:, 0] = 0
    model.lm_head.weight.data[model.config.text_config.eos_token_id, 0] = 2  # it ends every answer at once
    for part in (model, processor):
        part.save_pretrained(tmp_path / "mllm")
    words = ["cache", "nouns", seen, "--mllm-model", tmp_path / "mllm", "--teacher", world.teacher]
    sentence = call(*words).sentence()
    assert "names nothing: none of 6 answers has a noun" in sentence
    assert "give another --prompt or another model" in sentence
    assert not (seen / "proposals" / "nouns").exists()


def test_all_proposals_are_too_small(call: Call, world: World, seen: Path, tmp_path: Path) -> None:
    file = boxes(tmp_path / "b.json", [2, 2, 12, 12])
    words = ["cache", "proposals", seen, "--import", file, "--saw-novel", "no"]
    assert "all of its 6 boxes are under 16 px on a side" in call(*words).sentence()
    assert not (seen / "proposals").exists()
    propose(call, seen, file)
    words = ["cache", "crops", seen, "--of", "proposals", "--teacher", world.teacher]
    assert "all 6 proposals of proposals are under 16 px on a side" in call(*words).sentence()
    assert not (seen / "proposals" / "crops").exists()
    words = ["cache", "nouns", seen, "--mllm-model", "shapeworld", "--teacher", world.teacher]
    assert "all 6 proposals are under 16 px on a side" in call(*words).sentence()


def test_photos_without_proposals_are_fine(call: Call, world: World, seen: Path, tmp_path: Path) -> None:
    propose(call, seen, boxes(tmp_path / "b.json", [2, 2, 30, 17], range(1, 3)))
    columns(call, world, seen)
    run = tmp_path / "r"
    outcome = call(*train(seen, run, "--set", "train.log_every=1", "--max-steps", "3"))
    assert outcome.code == 0, outcome.err
    assert len(log(run)) == 3
    assert all(line["loss_total"] > 0 for line in log(run))


@pytest.mark.parametrize(
    "recipe",
    ["shapeworld-hdovd", "shapeworld-hdovd-fasterrcnn", "shapeworld-hdovd-adamixer", "shapeworld-hybrid"],
)
def test_a_batch_without_a_pair_has_losses_of_zero(
    call: Call, world: World, tmp_path: Path, recipe: str
) -> None:
    """No photo has an object, and no proposal is large enough to be distilled."""
    annotations = json.loads((coco(tmp_path) / "coco.json").read_text())
    annotations["annotations"] = [one for one in annotations["annotations"] if one["category_id"] > 2]
    write(tmp_path / "coco.json", annotations)
    seen, run = tmp_path / "seen", tmp_path / "r"
    assert call(*index(tmp_path, "seen", "base")).code == 0
    propose(call, seen, boxes(tmp_path / "b.json", [2, 2, 30, 17]))
    for verb in ("text", "crops"):
        assert call("cache", verb, seen, "--teacher", world.teacher).code == 0
    columns(call, world, seen)
    small = ["--set", "data.min_proposal_side=500", "--set", "train.log_every=1"]
    outcome = call(*train(seen, run, *small, recipe=recipe))
    assert outcome.code == 0, outcome.err
    for line in log(run):
        for name in ("instance_contrast", "instance_relation", "text_relation", "text_contrast"):
            assert line.get(f"loss_{name}", 0) == 0, name
        if recipe != "shapeworld-hybrid":  # whose region contrast does not exist without objects either
            assert line["loss_novel_aware_classes"] >= 0  # background only
