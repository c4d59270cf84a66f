"""Predict on images: vocabularies, priors, thresholds, refused arguments, files."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.vocabulary import Concept, Vocabulary
from cckt.detector.config.config import changed, save_config
from cckt.detector.inference.calibration import ScoreCalibration
from cckt.detector.inference.predict import Predictor
from cckt.detector.inference.prediction import Prediction
from cckt.detector.inference.vocabulary import require_teacher_of_run
from cckt.detector.runs.run_folder import Facts
from tests.detector.evaluation.evaluation_world import (
    layers_of,
    make_deep_run,
    make_run,
    small_config,
    unit_rows,
)


class SmallGuide:
    """A guide with random text embeddings and the highest prior for the first concept."""

    name, weight_digest = "small", "sha256:aa"

    def text(self, vocabulary):
        return unit_rows(len(vocabulary))

    def presence(self, photos, text):
        return np.tile(np.linspace(0.95, 0.1, len(text)), (len(photos), 1))


ALONE = {"rivals": False, "multi_label": True}
"""The scores of the network for the named concepts, all detections kept."""


@pytest.fixture
def run(tmp_path):
    torch.manual_seed(0)
    return make_run(tmp_path / "run", small_config())


@pytest.fixture
def detector(run):
    return Predictor.load(run, device="cpu", guide=SmallGuide())


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 50, 3), dtype=np.uint8)).save(path)
    return path


def test_no_images_give_no_predictions(detector):
    assert detector.predict([], "forklift") == []


@pytest.mark.parametrize("vocabulary", ["", [], Vocabulary([])])
def test_an_empty_vocabulary_is_refused(detector, photo, vocabulary):
    with pytest.raises(UserError, match="vocabulary is empty"):
        detector.predict(photo, vocabulary)


def test_a_prediction_is_in_pixels_of_the_image_and_marks_novel_concepts(detector, photo):
    (found,) = detector.predict(photo, "forklift, CAT, puppy|dog", min_score=0.0, **ALONE)
    assert len(found) == 10  # the run's inference.top
    assert (found.size, found.source) == ((50, 30), str(photo))
    assert (found.boxes_xyxy >= 0).all()
    assert (found.boxes_xyxy <= [50, 30, 50, 30]).all()
    assert (np.diff(found.scores) <= 0).all()
    assert [concept.split for concept in found.vocabulary] == ["novel", "base", "base"]
    assert found.novel.tolist() == [name == "forklift" for name in found.names]
    assert found.present == (0,)


def test_paths_images_and_batches_give_the_same_predictions(detector, photo, tmp_path):
    other = tmp_path / "other.png"
    Image.new("L", (50, 30), 80).save(other)
    by_path = detector.predict([photo, other, photo], "forklift, cat", batch=1)
    by_image = detector.predict([Image.open(p) for p in (photo, other, photo)], ["forklift", "cat"], batch=3)
    for one, another in zip(by_path, by_image, strict=True):
        np.testing.assert_allclose(one.scores, another.scores, atol=1e-4)
        # Two detections with equal scores up to rounding may change places.
        lefts = [np.sort(found.boxes_xyxy, axis=0) for found in (one, another)]
        np.testing.assert_allclose(*lefts, atol=2e-2)
    assert by_path[1].size == (50, 30)


def test_images_are_read_batch_by_batch(detector, photo):
    def photos():
        yield photo
        raise AssertionError("the second image was read")

    assert len(next(detector.stream(photos(), "cat", batch=1))) >= 0


def test_min_score_and_top_limit_the_detections(detector, photo):
    (every,) = detector.predict(photo, "a, b, c", min_score=0.0, top=18, **ALONE)
    assert len(every) == 18
    middle = float(every.scores[9])
    (some,) = detector.predict(photo, "a, b, c", min_score=middle, top=18, **ALONE)
    assert len(some) == (every.scores >= middle).sum() < 18


def test_priors_come_from_the_guide_or_a_list_or_are_off(detector, photo):
    def boxes(**options):
        (found,) = detector.predict(photo, "a, b, c", min_score=0.0, top=18, **ALONE, **options)
        return found.present, found.boxes_xyxy

    assert boxes()[0] == (0,)
    assert boxes(priors="none")[0] is None
    assert boxes(present=["c", 1])[0] == (2, 1)
    assert not np.allclose(boxes()[1], boxes(priors="none")[1])
    np.testing.assert_array_equal(boxes(present=[0])[1], boxes(priors="guide")[1])


def test_restricted_predictions_have_only_present_concepts(detector, photo):
    (found,) = detector.predict(
        photo, "a, b, c", min_score=0.0, top=18, present=["b"], restrict_to_present=True, **ALONE
    )
    assert found.names == ["b"] * 6


def test_a_restricted_config_applies_only_with_present_concepts(run, photo):
    config = changed(small_config(), "inference", restrict_to_present=True)
    save_config(changed(config, "prior", rho=0.7), run / "config.toml")
    for guide, narrow in ((SmallGuide(), True), (None, False)):
        detector = Predictor.load(run, device="cpu", guide=guide)
        (found,) = detector.predict(photo, "a, b, c", min_score=0.0, top=18, text=unit_rows(3), **ALONE)
        assert (set(found.concepts.tolist()) == {0}) == narrow
    (found,) = detector.predict(
        photo,
        "a, b, c",
        min_score=0.0,
        top=18,
        text=unit_rows(3),
        present=["b"],
        restrict_to_present=False,
        **ALONE,
    )
    assert len(set(found.concepts.tolist())) > 1


def test_a_random_fill_does_not_depend_on_the_batch(run, photo):
    save_config(changed(small_config(), "prior", fill="random", limit=4), run / "config.toml")
    detector = Predictor.load(run, device="cpu", guide=SmallGuide())
    words = ", ".join("abcdefghij")
    shades = [Image.new("RGB", (50, 30), (40 * number, 90, 60)) for number in range(5)]
    one, all_ = (detector.predict(shades, words, min_score=0.0, batch=batch, **ALONE) for batch in (1, 5))
    assert [found.present for found in one] == [found.present for found in all_]
    assert len({found.present for found in one}) > 1
    later = detector.predict(shades[2:], words, min_score=0.0, batch=1, **ALONE)
    assert [found.present for found in later] == [found.present for found in one[2:]], "as after a stop"


def test_without_a_guide_text_is_required_and_checked(run, photo):
    detector = Predictor.load(run, device="cpu")
    with pytest.raises(UserError, match=r"give --teacher small \(the run's teacher\), or text embeddings"):
        detector.predict(photo, "cat")
    with pytest.raises(UserError, match=r"shape \(2, 16\), expected \(1, 16\)"):
        detector.predict(photo, "cat", text=unit_rows(2))
    with pytest.raises(UserError, match="is zero or non-finite"):
        detector.predict(photo, "cat", text=np.zeros((1, 16), np.float32))
    with pytest.raises(UserError, match="priors of new images need"):
        detector.predict(photo, "cat", text=unit_rows(1), priors="guide")
    with pytest.raises(UserError, match="needs present concepts"):
        detector.predict(photo, "cat", text=unit_rows(1), restrict_to_present=True)
    (found,) = detector.predict(photo, "cat", text=torch.from_numpy(unit_rows(1)) * 3, min_score=0.0, **ALONE)
    assert len(found) == 6
    assert found.present is None


def test_unknown_present_concepts_are_refused(detector, photo):
    with pytest.raises(UserError, match="no concept named 'bot'; did you mean 'boat'"):
        detector.predict(photo, "boat", present=["bot"])
    with pytest.raises(UserError, match="rows 0 to 0"):
        detector.predict(photo, "boat", present=[1])
    with pytest.raises(UserError, match="priors 'clip' is not known"):
        detector.predict(photo, "boat", priors="clip")


def test_a_guide_of_another_teacher_is_refused(run):
    guide = SmallGuide()
    guide.weight_digest = "sha256:cc"
    with pytest.raises(
        UserError, match=r"weights sha256:cc, but the run was trained with small \(sha256:aa\)"
    ):
        Predictor.load(run, guide=guide)


def test_a_guide_with_the_weights_of_the_run_in_another_architecture_is_refused(run):
    facts = Facts.load(run)
    recipe = {
        **facts.text_recipe,
        "teacher": {**facts.text_recipe["teacher"], "architecture": {"embed_dim": 4}},
    }
    old = replace(facts, text_recipe=recipe)
    guide = SmallGuide()
    require_teacher_of_run(guide, old)  # an architecture that is not known
    guide.architecture = {"embed_dim": 4, "newer": 1}
    require_teacher_of_run(guide, old)
    guide.architecture = {"embed_dim": 4, "quick_gelu": True}
    with pytest.raises(
        UserError, match=r"the run's teacher small, but differs in quick_gelu, so .*cache all DATA"
    ):
        require_teacher_of_run(guide, old)


def test_an_unreadable_image_is_refused_or_becomes_a_fault(detector, photo, tmp_path):
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


def test_the_threshold_comes_from_the_runs_own_evaluation(run):
    assert Predictor.load(run).threshold == 0.5
    figures = {"figures": {"best_f1": {"score": 0.83}}}
    (run / "metrics.json").write_text(json.dumps({"evaluation": figures}))
    assert Predictor.load(run).threshold == 0.83


def test_predictions_come_from_the_last_decoder_layer(photo, tmp_path):
    predictor = Predictor.load(make_deep_run(tmp_path / "deep"), device="cpu", guide=SmallGuide())
    (found,) = predictor.predict(photo, "a, b, c", min_score=0.0, top=18, **ALONE)
    image = predictor.model.preprocess(Image.open(photo))
    boxes, scores = layers_of(predictor.model, [image], torch.from_numpy(unit_rows(3)), [[0]])
    best = [layer.flatten().sort(descending=True) for layer in scores[:, 0]]
    np.testing.assert_allclose(found.scores, best[-1].values, atol=1e-5)
    assert not np.allclose(found.scores, best[0].values, atol=1e-3)
    lefts = [np.sort(layer[:, 0].clamp(0, 1) * 50) for layer in boxes[:, 0].repeat_interleave(3, 1)]
    np.testing.assert_allclose(np.sort(found.boxes_xyxy[:, 0]), lefts[-1], atol=1e-2)
    assert not np.allclose(lefts[0], lefts[-1], atol=1e-2)


def test_a_typed_vocabulary_stays_typed_for_the_guide(detector, photo):
    seen = []
    detector.guide.text = lambda words: seen.append(words) or unit_rows(len(words))
    concepts = Vocabulary([Concept(1, "tv", ("television",))])
    for vocabulary in ("tv|television", ["tv|television"], Vocabulary.free("tv|television"), concepts):
        detector.predict(photo, vocabulary)
    assert [words.typed for words in seen if words.names == ["tv"]] == [True, True, True, False]


def prediction(*rows, source="a/b.jpg"):
    boxes = np.array([row[:4] for row in rows], np.float32).reshape(-1, 4)
    scores, concepts = (
        np.array([row[4] for row in rows], np.float32),
        np.array([row[5] for row in rows], np.int64),
    )
    return Prediction(boxes, scores, concepts, Vocabulary.free("cat, big dog"), (40, 20), source)


def test_distinct_keeps_the_best_detection_of_a_box():
    assert len(prediction().distinct()) == 0
    found = prediction(
        (0, 0, 10, 10, 0.6, 0), (0, 0, 10, 9, 0.9, 1), (20, 0, 30, 10, 0.5, 0), (0, 0, 3, 3, 0.4, 0)
    )
    assert found.distinct().scores.tolist() == pytest.approx([0.9, 0.5, 0.4])


def test_supervision_is_required_only_by_to_supervision(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "supervision", None)
    with pytest.raises(UserError, match=r"pip install 'cckt\[supervision\]'"):
        prediction().to_supervision()


def test_scores_by_another_classification_are_those_of_the_network(run, photo):
    calibration = ScoreCalibration((2.0, -1.0), (2.0, -1.0), 0.4, 0.5)
    detector = Predictor.load(run, device="cpu", guide=SmallGuide())
    detector.scale = replace(detector.scale, calibration=calibration)
    for classification, calibrated in ((None, True), ("head", False)):
        options = {"classification": classification, "min_score": 0.0}
        (found,) = detector.predict(photo, "forklift, cat", **options)
        plain = Predictor.load(run, device="cpu", guide=SmallGuide())
        (raw,) = plain.predict(photo, "forklift, cat", **options)
        expected = np.sort(calibration.apply(raw.scores, raw.novel) if calibrated else raw.scores)
        np.testing.assert_allclose(np.sort(found.scores), expected, atol=1e-6)


def test_priors_weigh_scores_of_a_run_without_guidance_as_in_its_evaluation(tmp_path, photo):
    torch.manual_seed(0)
    config = changed(small_config(guidance=False), "prior", source="clip")
    found = {}
    for weight in (0.0, 0.5):
        weighed = make_run(tmp_path / f"run-{weight}", changed(config, "inference", prior_weight=weight))
        detector = Predictor.load(weighed, device="cpu", guide=SmallGuide())
        (by_config,), (none,) = (
            detector.predict(photo, "forklift, cat", priors=priors, min_score=0.0, **ALONE)
            for priors in ("config", "none")
        )
        assert none.present is None
        found[weight] = by_config.present is not None, np.allclose(by_config.scores, none.scores)
    assert found == {0.0: (False, True), 0.5: (True, False)}
