"""The detector in a person's hands: photos, vocabularies, priors, refusals, files."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.vocabulary import Vocabulary
from cckt.detector.config.config import changed, save_config
from cckt.detector.inference.predict import Detector
from cckt.detector.inference.prediction import Prediction, write_coco, write_csv, write_yolo
from tests.detector.evaluation.evaluation_world import make_run, small_config, unit_rows


class SmallGuide:
    """Reads words into random directions, and is sure of the first concept."""

    name, weight_digest = "small", "sha256:aa"

    def text(self, vocabulary):
        return unit_rows(len(vocabulary))

    def presence(self, photos, text):
        return np.tile(np.linspace(0.95, 0.1, len(text)), (len(photos), 1))


@pytest.fixture
def run(tmp_path):
    torch.manual_seed(0)
    return make_run(tmp_path / "run", small_config())


@pytest.fixture
def detector(run):
    return Detector.load(run, device="cpu", guide=SmallGuide())


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 50, 3), dtype=np.uint8)).save(path)
    return path


def test_no_photo_gives_no_prediction(detector):
    assert detector.predict([], "forklift") == []


@pytest.mark.parametrize("vocabulary", ["", [], Vocabulary([])])
def test_an_empty_vocabulary_is_refused(detector, photo, vocabulary):
    with pytest.raises(UserError, match="vocabulary is empty"):
        detector.predict(photo, vocabulary)


def test_a_prediction_is_in_pixels_of_the_photo_and_knows_what_is_novel(detector, photo):
    (found,) = detector.predict(photo, "forklift, CAT, puppy|dog", min_score=0.0)
    assert len(found) == 10  # the run's inference.top
    assert (found.size, found.source) == ((50, 30), str(photo))
    assert (found.boxes_xyxy >= 0).all()
    assert (found.boxes_xyxy <= [50, 30, 50, 30]).all()
    assert (np.diff(found.scores) <= 0).all()
    assert [concept.split for concept in found.vocabulary] == ["novel", "base", "base"]
    assert found.novel.tolist() == [name == "forklift" for name in found.names]
    assert found.present == (0,)


def test_paths_pictures_and_batches_give_the_same(detector, photo, tmp_path):
    other = tmp_path / "other.png"
    Image.new("L", (50, 30), 80).save(other)
    by_path = detector.predict([photo, other, photo], "forklift, cat", batch=1)
    by_image = detector.predict([Image.open(p) for p in (photo, other, photo)], ["forklift", "cat"], batch=3)
    for one, another in zip(by_path, by_image, strict=True):
        np.testing.assert_allclose(one.scores, another.scores, atol=1e-4)
        # Two finds whose scores are equal but for rounding may change places.
        lefts = [np.sort(found.boxes_xyxy, axis=0) for found in (one, another)]
        np.testing.assert_allclose(*lefts, atol=2e-2)
    assert by_path[1].size == (50, 30)


def test_photos_are_read_when_they_are_needed(detector, photo):
    def photos():
        yield photo
        raise AssertionError("the second photo was not asked for")

    assert len(next(detector.stream(photos(), "cat", batch=1))) >= 0


def test_min_score_and_top_cut(detector, photo):
    (every,) = detector.predict(photo, "a, b, c", min_score=0.0, top=18)
    assert len(every) == 18
    middle = float(every.scores[9])
    (some,) = detector.predict(photo, "a, b, c", min_score=middle, top=18)
    assert len(some) == (every.scores >= middle).sum() < 18


def test_priors_come_from_the_guide_a_list_or_nobody(detector, photo):
    def boxes(**options):
        (found,) = detector.predict(photo, "a, b, c", min_score=0.0, top=18, **options)
        return found.present, found.boxes_xyxy

    assert boxes()[0] == (0,)
    assert boxes(priors="none")[0] is None
    assert boxes(present=["c", 1])[0] == (2, 1)
    assert not np.allclose(boxes()[1], boxes(priors="none")[1])
    np.testing.assert_array_equal(boxes(present=[0])[1], boxes(priors="guide")[1])


def test_restricted_predictions_name_only_what_is_present(detector, photo):
    (found,) = detector.predict(
        photo, "a, b, c", min_score=0.0, top=18, present=["b"], restrict_to_present=True
    )
    assert found.names == ["b"] * 6


def test_a_run_that_is_set_up_restricted_predicts_so_where_it_knows_what_is_there(run, photo):
    config = changed(small_config(), "inference", restrict_to_present=True)
    save_config(changed(config, "prior", rho=0.7), run / "config.toml")
    for guide, narrow in ((SmallGuide(), True), (None, False)):
        detector = Detector.load(run, device="cpu", guide=guide)
        (found,) = detector.predict(photo, "a, b, c", min_score=0.0, top=18, text=unit_rows(3))
        assert (set(found.concepts.tolist()) == {0}) == narrow
    (found,) = detector.predict(
        photo, "a, b, c", min_score=0.0, top=18, text=unit_rows(3), present=["b"], restrict_to_present=False
    )
    assert len(set(found.concepts.tolist())) > 1


def test_chance_fills_up_a_photos_priors_whatever_its_batch(run, photo):
    save_config(changed(small_config(), "prior", fill="random", limit=4), run / "config.toml")
    detector = Detector.load(run, device="cpu", guide=SmallGuide())
    words = ", ".join("abcdefghij")
    one, all_ = (detector.predict([photo] * 5, words, min_score=0.0, batch=batch) for batch in (1, 5))
    assert [found.present for found in one] == [found.present for found in all_]
    assert len({found.present for found in one}) > 1


def test_without_a_guide_text_must_be_given_and_fit(run, photo):
    detector = Detector.load(run, device="cpu")
    with pytest.raises(UserError, match=r"give --teacher small \(the run's\), or text embeddings"):
        detector.predict(photo, "cat")
    with pytest.raises(UserError, match=r"shape \(2, 16\), expected \(1, 16\)"):
        detector.predict(photo, "cat", text=unit_rows(2))
    with pytest.raises(UserError, match="no direction"):
        detector.predict(photo, "cat", text=np.zeros((1, 16), np.float32))
    with pytest.raises(UserError, match="priors on the fly need"):
        detector.predict(photo, "cat", text=unit_rows(1), priors="guide")
    with pytest.raises(UserError, match="needs to know what is present"):
        detector.predict(photo, "cat", text=unit_rows(1), restrict_to_present=True)
    (found,) = detector.predict(photo, "cat", text=torch.from_numpy(unit_rows(1)) * 3, min_score=0.0)
    assert len(found) == 6
    assert found.present is None


def test_wrong_words_about_what_is_present_are_refused(detector, photo):
    with pytest.raises(UserError, match="no concept named 'bot'; did you mean 'boat'"):
        detector.predict(photo, "boat", present=["bot"])
    with pytest.raises(UserError, match="rows 0 to 0"):
        detector.predict(photo, "boat", present=[1])
    with pytest.raises(UserError, match="priors 'clip' is not known"):
        detector.predict(photo, "boat", priors="clip")


def test_another_teachers_guide_is_refused(run):
    guide = SmallGuide()
    guide.weight_digest = "sha256:cc"
    with pytest.raises(UserError, match=r"weights sha256:cc, but the run learnt from small \(sha256:aa\)"):
        Detector.load(run, guide=guide)


def test_a_bad_photo_stops_or_is_noted(detector, photo, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"text")
    with pytest.raises(UserError, match=r"bad\.jpg: is not an image"):
        detector.predict([photo, bad], "cat")
    with pytest.raises(UserError, match=r"nowhere\.jpg: does not exist"):
        detector.predict(tmp_path / "nowhere.jpg", "cat")
    first, second, third = detector.predict([photo, bad, photo], "cat", strict=False)
    assert (len(second), second.size) == (0, (0, 0))
    assert "is not an image" in second.fault
    np.testing.assert_allclose(first.boxes_xyxy, third.boxes_xyxy, atol=1e-3)


def test_the_threshold_is_the_runs_own(run):
    assert Detector.load(run).threshold == 0.5
    figures = {"figures": {"best_f1": {"score": 0.83}}}
    (run / "metrics.json").write_text(json.dumps({"evaluation": figures}))
    assert Detector.load(run).threshold == 0.83


def prediction(*rows, source="a/b.jpg"):
    boxes = np.array([row[:4] for row in rows], np.float32).reshape(-1, 4)
    scores, concepts = (
        np.array([row[4] for row in rows], np.float32),
        np.array([row[5] for row in rows], np.int64),
    )
    return Prediction(boxes, scores, concepts, Vocabulary.free("cat, big dog"), (40, 20), source)


def test_distinct_keeps_the_best_name_of_a_box():
    assert len(prediction().distinct()) == 0
    found = prediction(
        (0, 0, 10, 10, 0.6, 0), (0, 0, 10, 9, 0.9, 1), (20, 0, 30, 10, 0.5, 0), (0, 0, 3, 3, 0.4, 0)
    )
    assert found.distinct().scores.tolist() == pytest.approx([0.9, 0.5, 0.4])


def test_files_of_no_prediction(tmp_path):
    assert write_coco([], tmp_path / "c.json").read_text() == "[]"
    assert len(write_csv([], tmp_path / "c.csv").read_text().splitlines()) == 1
    assert [path.name for path in write_yolo([], tmp_path / "labels")] == ["classes.txt"]


def test_files_say_where_what_was_found(tmp_path):
    found = [prediction((4, 2, 12, 12, 0.75, 1)), prediction(source="c.jpg")]
    (record,) = json.loads(write_coco(found, tmp_path / "c.json", [7, 8]).read_text())
    assert record == {"image_id": 7, "category_id": 2, "bbox": [4.0, 2.0, 8.0, 10.0], "score": 0.75}
    first, second, classes = write_yolo(found, tmp_path / "yolo")
    assert first.read_text() == "1 0.200000 0.350000 0.200000 0.500000 0.750000\n"
    assert (second.name, second.read_text()) == ("c.txt", "")
    assert classes.read_text() == "cat\nbig dog\n"
    (line,) = csv.DictReader(write_csv(found, tmp_path / "c.csv").open())
    assert (line["concept"], line["novel"], line["right"]) == ("big dog", "1", "12.00")


def test_yolo_refuses_two_photos_of_one_name(tmp_path):
    with pytest.raises(UserError, match="found 'b' more than once"):
        write_yolo([prediction(), prediction(source="other/b.png")], tmp_path)
    with pytest.raises(UserError, match="without a name"):
        write_yolo([prediction(source="")], tmp_path)


def test_supervision_is_asked_for_when_it_is_needed(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "supervision", None)
    with pytest.raises(UserError, match=r"pip install 'cckt\[supervision\]'"):
        prediction().to_supervision()
