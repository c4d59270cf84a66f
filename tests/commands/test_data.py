"""`cckt data`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cache_builder.index.formats.test_voc import write_voc, xml
from tests.cache_builder.index.formats.test_yolo import write_yolo
from tests.commands.front import Call, coco, index


def test_index_reports_what_it_dropped_and_why(call: Call, tmp_path: Path) -> None:
    coco(tmp_path)
    outcome = call(*index(tmp_path, "seen", "base"), "--json", tmp_path / "report.json")
    assert outcome.code == 0
    assert "6 boxes of 12 annotations: 6 base, 0 novel" in outcome.out
    assert "6 dropped: novel concept (keep base)" in outcome.out
    assert json.loads((tmp_path / "report.json").read_text())["dropped"]["novel"] == 6


def test_json_on_stdout_sends_the_lines_to_stderr(call: Call, tmp_path: Path) -> None:
    coco(tmp_path)
    outcome = call(*index(tmp_path, "held", "all"), "--json", "-")
    assert json.loads(outcome.out)["boxes"] == 12
    assert "12 boxes of 12 annotations" in outcome.err


def test_several_annotation_files_are_merged(call: Call, tmp_path: Path) -> None:
    coco(tmp_path)
    whole = json.loads((tmp_path / "coco.json").read_text())
    paths = []
    for part in range(2):
        images = [one for one in whole["images"] if one["id"] % 2 == part]
        ids = {one["id"] for one in images}
        boxes = [one for one in whole["annotations"] if one["image_id"] in ids]
        paths.append(tmp_path / f"part{part}.json")
        paths[-1].write_text(json.dumps({**whole, "images": images, "annotations": boxes}))
    words = [word for path in paths for word in ("--annotations", path)]
    outcome = call(
        "data", "index", *words, "--images", tmp_path / "photos", "--out", tmp_path / "both", "--json", "-"
    )
    assert json.loads(outcome.out)["boxes"] == 12
    one = call(*index(tmp_path, "held", "all"), "--split", "all-base", "--json", "-")
    assert json.loads(outcome.out)["digest"] == json.loads(one.out)["digest"]


def test_other_formats_are_read_by_their_option(call: Call, tmp_path: Path) -> None:
    yolo = write_yolo(tmp_path / "yolo", {"a": "0 0.5 0.5 0.5 0.5\n"})
    outcome = call("data", "index", "--yolo", yolo, "--out", tmp_path / "a", "--json", "-")
    assert json.loads(outcome.out)["boxes"] == 1, outcome.err
    voc = write_voc(tmp_path / "voc", xml("a.jpg", ("cat", (1, 1, 9, 9))))
    outcome = call("data", "index", "--voc", voc, "--out", tmp_path / "b", "--json", "-")
    assert json.loads(outcome.out)["boxes"] == 1, outcome.err
    photos = ["--images", voc / "JPEGImages", "--names", "cat, dog"]
    outcome = call("data", "index", *photos, "--out", tmp_path / "c")
    assert "2 concepts: 2 base" in outcome.out
    assert "no boxes: this data set serves cckt cache images and cckt pseudo, not training" in outcome.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no source is named; give --annotations FILE.json with --images FOLDER, --yolo DATA.YAML"),
        (["--yolo", "a", "--voc", "b"], "--yolo and --voc name several sources, expected one"),
        (["--annotations", "a", "--subset", "val"], "--subset applies only to --yolo and --voc; remove it."),
        (["--yolo", "a", "--unlabelled"], "--unlabelled applies only to --annotations and --images"),
        (["--yolo", "a", "--images", "b"], "--images does not apply to --yolo"),
        (["--images", "a", "--names", " , "], "--names ' , ': found no name, expected some, separated by"),
        (["--voc", "a", "--names", "cat"], "--names applies only to --images without annotations"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    call: Call, tmp_path: Path, words: list[str], message: str
) -> None:
    assert message in call("data", "index", *words, "--out", tmp_path / "out").sentence()


def test_split_writes_two_files_that_index_reads(call: Call, tmp_path: Path) -> None:
    coco(tmp_path)
    parts = tmp_path / "parts"
    outcome = call("data", "split", tmp_path / "coco.json", "--share", "0.4", "--out", parts, "--json", "-")
    figures = json.loads(outcome.out)
    assert figures["train_images"] + figures["val_images"] == 6
    for name in ("train", "val"):
        words = ["--annotations", parts / f"{name}.json", "--images", tmp_path / "photos"]
        outcome = call("data", "index", *words, "--out", tmp_path / name, "--json", "-")
        assert json.loads(outcome.out)["images"] == figures[f"{name}_images"]
