"""`cckt predict`."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.cache_builder.index.photo_files.samples import save_photo
from tests.commands.front import Call, Outcome, World, write


def test_predict_uses_the_teacher_of_the_run(call: Call, world: World, tmp_path: Path) -> None:
    broken = world.folder / "mixed"
    shutil.copytree(world.folder / "photos", broken, dirs_exist_ok=True)
    write(broken / "broken.jpg", "not a photo")
    out = tmp_path / "finds"
    words = ["--vocabulary", "cup, cat|kitten", "--out", out, "--min-score", "0", "--json", "-"]
    outcome = call("predict", world.run, broken, *words)
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["photos"] == 7
    assert "broken.jpg" in outcome.err
    known = json.loads((out / "predictions.json").read_text())
    results = known["annotations"]
    assert {one["image_id"] for one in results} <= {one["id"] for one in known["images"]}
    assert {one["category_id"] for one in results} == {1, 2}
    assert [one["name"] for one in known["categories"]] == ["cup", "cat"]
    pictures = sorted(out.glob("*.jpg"))
    assert len(pictures) == 6
    assert Image.open(pictures[0]).width >= 512


def test_predict_without_priors_or_pictures(call: Call, world: World, tmp_path: Path) -> None:
    photo = world.folder / "photos" / "0.png"
    words = ["--vocabulary", "cup", "--out", tmp_path, "--priors", "none", "--no-pictures"]
    assert call("predict", world.run, photo, *words).code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["predict.json", "predictions.json"]


def test_predict_reads_patterns_and_lists_and_writes_each_format(
    call: Call, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = world.folder / "photos"
    common: list[Any] = ["--vocabulary", "cup, cat", "--min-score", "0", "--no-pictures"]
    outcome = call("predict", world.run, f"{photos}/[01].png", *common, "--out", tmp_path, "--format", "csv")
    assert outcome.code == 0, outcome.err
    assert "images/s" in outcome.out
    rows = list(csv.DictReader((tmp_path / "predictions.csv").open()))
    assert {Path(row["photo"]).name for row in rows} == {"0.png", "1.png"}
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{photos}/3.png\n{photos}/4.png\n"))
    assert call("predict", world.run, "-", *common, "--out", tmp_path, "--format", "yolo").code == 0
    assert sorted(path.name for path in (tmp_path / "labels").iterdir()) == ["3.txt", "4.txt"]
    outcome = call("predict", world.run, photos, *common, "--out", tmp_path, "--format", "kitti")
    assert "--format kitti is not known; expected coco, yolo, voc or csv" in outcome.sentence()


def test_results_of_somebody_else_are_not_replaced(call: Call, world: World, tmp_path: Path) -> None:
    (tmp_path / "predictions.json").write_text("precious")
    words = ["predict", world.run, world.folder / "photos", "--vocabulary", "cup", "--out", tmp_path]
    assert "predictions.json" in call(*words).sentence()
    assert (tmp_path / "predictions.json").read_text() == "precious"
    assert call("eval", world.run, "--data", world.held, "--out", tmp_path / "e").code == 0
    (tmp_path / "e" / "metrics.json").write_text("{}")
    assert "metrics.json" in call("eval", world.run, "--data", world.held, "--out", tmp_path / "e").sentence()


def test_predictions_of_a_data_set_are_scored_like_its_evaluation(
    call: Call, world: World, tmp_path: Path
) -> None:
    asked = ["--multi-label", "--no-rivals", "--min-score", "0", "--no-pictures", "--batch", "1"]
    done = call("predict", world.run, "--data", world.held, *asked, "--out", tmp_path / "finds")
    assert done.code == 0, done.err
    figures = []
    scored = ["--detections", tmp_path / "finds" / "predictions.json", "--data", world.held]
    for words in ([world.run, "--data", world.held, "--set", "inference.batch=1"], scored):
        outcome = call("eval", *words, "--resamples", "0", "--json", "-")
        assert outcome.code == 0, outcome.err
        figures.append(json.loads(outcome.out))
    assert figures[0]["detections"] == figures[1]["detections"]
    assert figures[0]["ap50_all"] == pytest.approx(figures[1]["ap50_all"], abs=0.02)


def test_predictions_are_read_back_as_a_data_set(call: Call, world: World, tmp_path: Path) -> None:
    photos = world.folder / "photos"
    done = call(
        "predict", world.run, photos, "--vocabulary", "cup, cat", "--min-score", "0", "--out", tmp_path / "f"
    )
    assert done.code == 0, done.err
    read = ["--annotations", tmp_path / "f" / "predictions.json", "--images", photos]
    outcome = call("data", "index", *read, "--out", tmp_path / "again")
    assert outcome.code == 0, outcome.err


def test_confirmed_predictions_have_the_scores_of_the_teacher(
    call: Call, world: World, tmp_path: Path
) -> None:
    words = ["--vocabulary", "cup, cat", "--no-pictures", "--min-score", "0", "--confirm", "2"]
    outcome = call("predict", world.run, world.folder / "photos", *words, "--out", tmp_path)
    assert outcome.code == 0, outcome.err
    assert f"cckt eval {world.run} --data DATA --confirm 2 once" in outcome.err
    known = json.loads((tmp_path / "predictions.json").read_text())
    per_photo = [sum(a["image_id"] == one["id"] for a in known["annotations"]) for one in known["images"]]
    assert max(per_photo) <= 2
    scored = call("eval", world.run, "--data", world.held, "--confirm", "2", "--json", "-")
    assert json.loads(scored.out)["figures"]["confirm"] == 2
    again = call("predict", world.run, world.folder / "photos", *words, "--out", tmp_path)
    assert "not calibrated" not in again.err
    wrong = call(
        "predict", world.run, world.folder / "photos", *words[:-1], "1001", "--out", tmp_path / "new"
    )
    assert "from 1 to 1000" in wrong.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--vocabulary", "cup"], "no photos are named; give files or folders of photos, or --data"),
        (["PHOTOS"], "no concepts are named; give --vocabulary"),
        (["PHOTOS", "--data", "HELD"], "and --data"),
        (["PHOTOS", "--vocabulary", "cup", "--scores"], "--scores applies only to --format yolo"),
        (["PHOTOS", "--vocabulary", "cup", "--nms", "2"], "nms 2: expected a number from 0 to 1"),
        (["PHOTOS", "--vocabulary", "cup", "--text", "PHOTOS/0.png"], "cannot be read"),
        (["FOLDER", "--vocabulary", "cup"], "found no photo, only folders, expected photos; give photos"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    call: Call, world: World, tmp_path: Path, words: list[str], message: str
) -> None:
    (tmp_path / "folder" / "below").mkdir(parents=True)
    places = {"PHOTOS": str(world.folder / "photos"), "HELD": str(world.held)}
    places["FOLDER"] = str(tmp_path / "folder")
    given = [places.get(word, word.replace("PHOTOS", places["PHOTOS"])) for word in words]
    assert message in call("predict", world.run, *given, "--out", tmp_path / "out").sentence()


def test_a_table_of_text_embeddings_replaces_those_of_the_teacher(
    call: Call, world: World, tmp_path: Path
) -> None:
    width = json.loads((world.run / "facts.json").read_text())["embedding_dim"]
    np.save(tmp_path / "text.npy", np.eye(2, width, dtype=np.float32))
    common = ["--vocabulary", "cup, cat", "--no-pictures", "--min-score", "0", "--top", "1", "--recursive"]
    common += ["--set", "inference.nms=0.4", "--text", tmp_path / "text.npy"]
    outcome = call("predict", world.run, world.folder / "photos", *common, "--out", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    np.save(tmp_path / "text.npy", np.eye(3, width, dtype=np.float32))
    refused = call("predict", world.run, world.folder / "photos", *common, "--out", tmp_path / "out")
    assert "found the shape (3, " in refused.sentence()


def test_results_of_two_settings_are_never_in_one_folder(call: Call, world: World, tmp_path: Path) -> None:
    photos, out = world.folder / "photos", tmp_path / "finds"

    def predict(*words: object) -> Outcome:
        return call("predict", world.run, *words, "--out", out, "--min-score", "0", "--crops")

    cup, top = ("--vocabulary", "cup"), ("--top", "1")
    assert predict(photos / "0.png", *cup, *top).code == 0
    made = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert out / "predict.json" in made
    for words, name in (
        ([*cup, "--top", "2"], "--top"),
        (["--vocabulary", "cat", *top], "--vocabulary"),
        ([*cup, *top, "--no-pictures"], "--no-pictures"),
        ([*cup, *top, "--set", "prior.rho=0.5"], "--set"),
        (["--vocabulary", "cat", "--top", "2"], "--vocabulary, --top"),
    ):
        sentence = predict(photos / "0.png", *words).sentence()
        assert f"holds results of cckt predict that differ in {name}, as {out}/predict.json says" in sentence
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == made
    # Another format without pictures has files of its own. A lower batch, the same folder by another name,
    # and other photos are no other settings.
    assert predict(photos / "0.png", *cup, *top, "--batch", "1").code == 0
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == made
    assert predict(photos / "1.png", *cup, *top).code == 0
    assert (
        call(
            "predict",
            world.run,
            photos,
            "--vocabulary",
            "cat",
            "--out",
            out,
            "--no-pictures",
            "--format",
            "csv",
        ).code
        == 0
    )
    assert json.loads((out / "predict.json").read_text())["cckt predict"].keys() == {"coco", "csv"}
    (out / "predict.json").write_text("precious")
    assert "predict.json that is not the settings" in predict(photos / "0.png", *cup, *top).sentence()


def test_results_of_earlier_commands_in_the_folder_are_named(
    call: Call, world: World, tmp_path: Path
) -> None:
    photos, out = world.folder / "photos", tmp_path / "finds"

    def predict(*words: object) -> str:
        common = ["--vocabulary", "cup", "--out", out, "--min-score", "0", "--top", "2"]
        done = call("predict", world.run, *words, *common)
        assert done.code == 0, done.err
        notes = [line for line in done.err.splitlines() if "also holds" in line]
        return "".join(notes).replace(f"  {out} also holds results of earlier commands: ", "")

    some = [photos / "0.png", photos / "1.png", photos / "2.png"]
    assert predict(*some, "--crops", "--format", "yolo") == ""
    assert predict(*some, "--crops", "--format", "yolo") == "", "the same results again"
    assert predict(some[0], "--crops", "--format", "yolo") == (
        "2 files in labels, 2 files in images, 2 pictures, 4 crops"
    )
    assert predict(some[0], "--no-pictures") == (
        "data.yaml, 3 files in labels, 3 files in images, 3 pictures, 6 crops"
    )
    assert predict(some[1], "--no-pictures", "--format", "voc").startswith(
        "predictions.json, data.yaml, 3 files in labels, 3 files in images"
    )
    (out / "mine.txt").write_text("notes")
    assert predict(some[2], "--no-pictures", "--format", "voc").startswith(
        "predictions.json, data.yaml, 3 files in labels, 1 file in Annotations, 3 files"
    )


def test_photos_in_subfolders_are_said(call: Call, world: World, tmp_path: Path) -> None:
    (tmp_path / "photos" / "more").mkdir(parents=True)
    shutil.copy(world.folder / "photos" / "0.png", tmp_path / "photos")
    shutil.copy(world.folder / "photos" / "1.png", tmp_path / "photos" / "more")
    words = ["--vocabulary", "cup", "--min-score", "0", "--no-pictures", "--out", tmp_path / "out"]
    done = call("predict", world.run, tmp_path / "photos", *words)
    assert done.code == 0, done.err
    assert "photos: 1 more photo is in subfolders; add --recursive to include them" in done.err
    assert " in 1 photo, " in done.out
    done = call("predict", world.run, tmp_path / "photos", *words, "--recursive")
    assert "subfolders" not in done.err
    assert " in 2 photos, " in done.out


def test_a_photo_on_its_side_is_detected_as_a_viewer_shows_it_and_read_back(
    call: Call, world: World, tmp_path: Path
) -> None:
    save_photo(tmp_path / "photos" / "a.jpg", (60, 40), orientation=6)
    words = ["--vocabulary", "cup, cat", "--min-score", "0", "--out", tmp_path / "finds", "--no-pictures"]
    assert call("predict", world.run, tmp_path / "photos", *words).code == 0
    file = tmp_path / "finds" / "predictions.json"
    known = json.loads(file.read_text())
    assert [(one["width"], one["height"]) for one in known["images"]] == [(40, 60)]
    assert any(one["bbox"][1] + one["bbox"][3] > 40 for one in known["annotations"]), "below the stored photo"
    told = call(
        "data", "index", "--annotations", file, "--images", tmp_path / "photos", "--out", tmp_path / "d"
    )
    assert told.code == 0, told.err
    assert "their boxes are of the photo as turned (--exif apply)" in told.out


def test_a_photo_that_was_mended_is_read_again(call: Call, world: World, tmp_path: Path) -> None:
    photo, out = tmp_path / "photo.png", tmp_path / "out"
    photo.write_text("hello")
    words = ("predict", world.run, photo, "--vocabulary", "cup", "--teacher", world.teacher, "--out", out)
    assert "give another photo" in call(*words).sentence()
    assert not out.exists(), "nothing was predicted, so nothing is kept for another command"
    shutil.copy(world.folder / "photos/0.png", photo)
    assert call(*words).code == 0
    assert (out / "predictions.json").is_file()
