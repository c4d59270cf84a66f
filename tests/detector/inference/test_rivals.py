"""The base concepts that a user does not name compete with the words, and are never shown."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from cckt.cache_builder.vocabulary import Concept, Vocabulary
from cckt.detector.config.config import changed
from cckt.detector.inference.calibration import ScoreCalibration
from cckt.detector.inference.postprocess import SAME_OBJECT
from cckt.detector.inference.predict import Predictor
from cckt.detector.inference.rivals import BaseText
from cckt.detector.inference.stages.score_scale import own_scoring
from cckt.detector.inference.vocabulary import with_splits
from cckt.detector.runs.base_text import save_base_text
from cckt.detector.runs.run_folder import Facts
from tests.detector.evaluation.evaluation_world import WIDTH, make_run, small_config, unit_rows

BASE = ["cat", "dog", "kite", "boat"]


class NamedGuide:
    """A guide whose embedding depends only on the name, and whose priors depend only on the embedding."""

    name, weight_digest = "small", "sha256:aa"

    def text(self, vocabulary):
        return np.concatenate([unit_rows(1, zlib.crc32(one.name.lower().encode())) for one in vocabulary])

    def presence(self, photos, text):
        return np.tile(1 / (1 + np.exp(-8 * text[:, 0])), (len(photos), 1))


@pytest.fixture
def run(tmp_path):
    torch.manual_seed(0)
    made = make_run(
        tmp_path / "run", changed(small_config(), "inference", softmax=True, prior_weight=0.5, nms=0.5)
    )
    facts = replace(Facts.load(made), names=BASE, category_ids=[1, 2, 3, 4], n_classes=4)
    facts.save(made)
    return made


@pytest.fixture
def detector(run):
    return Predictor.load(run, device="cpu", guide=NamedGuide())


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 50, 3), dtype=np.uint8)).save(path)
    return path


def boxes_of(found, name):
    boxes = found.boxes_xyxy.round(2).tolist()
    return {tuple(box) for box, one in zip(boxes, found.names, strict=True) if one == name}


@pytest.mark.parametrize("name", [*BASE, "forklift"])
def test_a_score_does_not_depend_on_which_base_concepts_are_named(detector, photo, name):
    vocabularies = [name, f"{name}, {next(one for one in BASE if one != name)}"]
    vocabularies += [", ".join([name, *(one for one in BASE if one != name)])]
    vocabularies += [", ".join([*(one for one in reversed(BASE) if one != name), name])]
    options = {"min_score": 0.0, "top": 100, "multi_label": True}
    found = [detector.predict(photo, words, **options)[0] for words in vocabularies]
    single = found[0]
    assert len(single)
    for other in found[1:]:
        rows = [row for row, one in enumerate(other.names) if one == name]
        np.testing.assert_allclose(other.scores[rows], single.scores, atol=1e-6)
        np.testing.assert_allclose(other.boxes_xyxy[rows], single.boxes_xyxy, atol=1e-3)
    unguided = {"priors": "none", **options}
    alone, among = (detector.predict(photo, name, rivals=one, **unguided)[0] for one in (False, True))
    assert alone.scores.sum() > among.scores.sum()


def test_a_region_of_a_rival_is_no_detection_and_a_rival_is_never_shown(detector, photo):
    every = detector.predict(photo, BASE, min_score=0.0)[0]
    assert len(set(every.names)) > 1
    for name in BASE:
        (found,) = detector.predict(photo, name, min_score=0.0)
        assert found.vocabulary.names == [name]
        assert set(found.names) <= {name}
        assert set(found.present or ()) <= {0}
        assert boxes_of(found, name) == boxes_of(every, name)
        (alone,) = detector.predict(photo, name, min_score=0.0, rivals=False)
        assert len(found) < len(alone)


def test_all_base_concepts_leave_no_rival(detector, photo):
    (found,) = detector.predict(photo, BASE, min_score=0.0)
    (without,) = detector.predict(photo, BASE, min_score=0.0, rivals=False)
    np.testing.assert_array_equal(found.scores, without.scores)


@pytest.mark.parametrize(
    ("words", "rivals"),
    [
        ("forklift", BASE),
        ("CAT", ["dog", "kite", "boat"]),
        ("puppy|dog, ship|boat", ["cat", "kite"]),
        ("cats", ["dog", "kite", "boat"]),
        ("hound, glider", ["cat", "boat"]),  # synonyms of the training index
        (", ".join(BASE), []),
    ],
)
def test_a_named_base_concept_is_not_its_own_rival(run, words, rivals):
    facts = replace(Facts.load(run), synonyms=[[], ["hound"], ["Glider"], []])
    base = BaseText(facts, NamedGuide())
    for concept in with_splits(Vocabulary.free(words), facts.annotated):
        assert concept.split == ("novel" if concept.name == "forklift" else "base")
    expected = NamedGuide().text(Vocabulary.free(rivals)) if rivals else np.zeros((0, WIDTH))
    np.testing.assert_allclose(base.rivals_of(Vocabulary.free(words))[0], expected, atol=1e-6)


def test_the_saved_texts_of_the_training_come_before_those_of_a_guide(run):
    """They have the synonyms and prompts of the training, on which the calibration was fitted."""
    saved = unit_rows(4)
    base = BaseText(Facts.load(run), NamedGuide(), saved)
    np.testing.assert_array_equal(base.rivals_of(Vocabulary.free("dog"))[0], saved[[0, 2, 3]])


def test_rivals_that_only_pseudo_boxes_made_base_count_as_novel(run):
    base = BaseText(replace(Facts.load(run), made_base=["kite"]), NamedGuide())
    assert base.rivals_of(Vocabulary.free("dog"))[1] == [True, False, True]
    assert BaseText(Facts.load(run), None).rivals_of(Vocabulary.free("dog"))[1] == []


def test_scores_that_no_priors_weigh_are_not_calibrated_by_those_that_are(run, photo):
    """The run's own evaluation weighed its scores by priors."""
    calibration = ScoreCalibration((2.0, 1.0), (2.0, 1.0), 0.4, 0.6)
    weighed = Predictor.load(run, device="cpu", guide=NamedGuide())
    weighed.scale = replace(weighed.scale, calibration=calibration)
    plain = Predictor.load(run, device="cpu", guide=NamedGuide())
    for options in ({"priors": "none"}, {"present": ["cat"]}):
        first, second = (
            one.predict(photo, "cat, dog", min_score=0.0, **options)[0] for one in (plain, weighed)
        )
        np.testing.assert_array_equal(first.scores, second.scores)
    assert not weighed.notes_for(0)
    assert "scored in another way" in weighed.notes_for(0, None, "none")[0]
    alone = changed(weighed.model.config, "prior", source="none")
    assert own_scoring(alone).prior_weight == 0


def test_priors_that_nothing_reads_are_told(run):
    guided = Predictor.load(run, device="cpu", guide=NamedGuide())
    assert not any("reads priors" in one for one in guided.notes_for(0, None, "guide"))
    config = changed(guided.model.config, "guidance", enabled=False)
    config = changed(config, "inference", prior_weight=0.0, restrict_to_present=False)
    guided.model = replace(guided.model, config=config)
    assert any("nothing in this run reads priors" in one for one in guided.notes_for(0, None, "guide"))
    assert not any("reads priors" in one for one in guided.notes_for(0))


def test_concepts_of_a_data_set_are_compared_letter_by_letter(run):
    """They may be "cat" and "cats", one of them novel."""
    words = Vocabulary([Concept(1, "cats"), Concept(2, "dog")])
    facts = Facts.load(run)
    assert [word.split for word in with_splits(words, facts.annotated)] == ["novel", "base"]
    assert BaseText(facts, NamedGuide()).rows_of(words) == [0, 2, 3]


def test_the_base_text_of_the_guide_is_computed_once(run):
    guide, calls = NamedGuide(), []
    text = guide.text
    guide.text = lambda words: calls.append(len(words)) or text(words)
    base = BaseText(Facts.load(run), guide)
    for words in ("forklift", "cat", "dog"):
        base.rivals_of(Vocabulary.free(words))
    assert calls == [4]


def test_without_a_guide_the_rivals_come_from_the_run_folder(run, detector, photo):
    text = NamedGuide().text(Vocabulary.free("forklift"))
    bare = Predictor.load(run, device="cpu")
    assert any("no text embeddings of its base concepts" in note for note in bare.notes)
    options = {"min_score": 0.0, "multi_label": True}
    (few,) = bare.predict(photo, "forklift", text=text, **options)
    (alone,) = bare.predict(photo, "forklift", text=text, rivals=False, **options)
    np.testing.assert_array_equal(few.scores, alone.scores)
    save_base_text(run, NamedGuide().text(Vocabulary.free(BASE)))
    known = Predictor.load(run, device="cpu")
    assert not known.notes
    (found,) = known.predict(photo, "forklift", text=text, **options)
    (expected,) = detector.predict(photo, "forklift", priors="none", **options)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)


def test_one_detection_remains_of_an_object_unless_multi_label(detector, photo):
    words = [*BASE, "forklift", "pallet"]
    (found,) = detector.predict(photo, words, min_score=0.0)
    (every,) = detector.predict(photo, words, min_score=0.0, multi_label=True, top=100)
    assert len(found) < len(every)
    assert len(found.distinct(SAME_OBJECT)) == len(found)


def test_scores_are_calibrated_only_with_rivals(run, photo):
    plain = Predictor.load(run, device="cpu", guide=NamedGuide())
    figures = {"best_f1": {"score": 0.9, "f1": 0.5}}
    figures["calibration"] = {"base": [2.0, 1.0], "novel": [2.0, 1.0], "threshold": 0.4, "f1": 0.6}
    (run / "metrics.json").write_text(json.dumps({"evaluation": {"figures": figures}}))
    detector = Predictor.load(run, device="cpu", guide=NamedGuide())
    assert detector.threshold == 0.4
    assert detector.scale.own.score == 0.9
    raw, known = (one.predict(photo, "cat, dog", min_score=0.0)[0] for one in (plain, detector))
    odds = np.log(raw.scores / (1 - raw.scores)) * 2 + 1
    np.testing.assert_allclose(known.scores, 1 / (1 + np.exp(-odds)), atol=1e-4)
    first, second = (
        one.predict(photo, "cat, dog", min_score=0.0, rivals=False)[0] for one in (plain, detector)
    )
    np.testing.assert_array_equal(first.scores, second.scores)
    (shown,) = detector.predict(photo, "cat, dog")
    assert len(shown) == (known.scores >= 0.4).sum()
