"""Regions of detectors against the post-processing of transformers, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.columns.proposals import cache_proposals
from cckt.cache_builder.detectors import DetectorProposer, FrozenDetector, load_detector
from cckt.cache_builder.detectors.regions import agnostic_scores
from cckt.cache_builder.index import open_index
from cckt.cache_builder.proposals import Selection, open_proposals
from tests.cache_builder.detectors.detector_models import write_detector
from tests.cache_builder.mllm.mllm_models import photo
from tests.cache_builder.samples import write_photos

FIXED = ("detr", "deformable_detr", "rt_detr", "yolos")
ZERO_SHOT = ("owlv2", "grounding_dino")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("detectors")


def loaded(folder: Path, kind: str) -> FrozenDetector:
    if not (folder / kind).exists():
        write_detector(kind, folder / kind)
    return load_detector(str(folder / kind), device="cpu")


@pytest.mark.parametrize("kind", [*FIXED, *ZERO_SHOT])
def test_boxes_are_those_of_transformers(folder: Path, kind: str) -> None:
    """The maker's own post-processing gives the same boxes in pixels, for a photo that is not square."""
    detector = loaded(folder, kind)
    proposer = DetectorProposer(detector, None if kind in FIXED else "cat, umbrella")
    image = photo(1, (90, 60))
    ((boxes, scores),) = proposer.propose([proposer.prepare(image)])
    processor = detector.processor
    with torch.inference_mode():
        if kind in FIXED:
            output = detector.model(**processor(images=[image], return_tensors="pt"))
            theirs = processor.post_process_object_detection(
                output, threshold=0.0, target_sizes=torch.tensor([[60, 90]])
            )[0]
        else:
            texts = "cat. umbrella." if kind == "grounding_dino" else [["cat", "umbrella"]]
            inputs = processor(images=[image], text=texts, padding=True, return_tensors="pt")
            more = {"input_ids": inputs["input_ids"]} if kind == "grounding_dino" else {}
            theirs = processor.post_process_grounded_object_detection(
                detector.model(**inputs), threshold=0.0, target_sizes=torch.tensor([[60, 90]]), **more
            )[0]
    pixels = boxes * np.array([90, 60, 90, 60])
    for box, score in zip(theirs["boxes"].double().numpy(), theirs["scores"].tolist(), strict=True):
        near = np.abs(pixels - box).max(1)
        assert near.min() < 1e-2, "each of their boxes is one of ours"
        if kind not in ("detr", "yolos"):  # whose score is of one class; ours is of anything
            assert scores[near < 1e-2].max() >= score - 1e-5
    assert len(boxes) == len(scores)
    assert ((scores >= 0) & (scores <= 1)).all()


def test_a_score_is_of_any_class() -> None:
    logits = torch.tensor([[[1.0, -2.0, 0.5]]])
    share = logits.softmax(-1)
    torch.testing.assert_close(agnostic_scores(logits, 2), share[..., 0] + share[..., 1])
    torch.testing.assert_close(agnostic_scores(logits, 3), torch.tensor([[1.0]]).sigmoid())
    torch.testing.assert_close(agnostic_scores(logits, None), torch.tensor([[1.0]]).sigmoid())
    masked = torch.tensor([[[float("-inf"), -1.0]]])
    torch.testing.assert_close(agnostic_scores(masked, None), torch.tensor([[-1.0]]).sigmoid())


def test_a_batch_of_one_size_equals_single_photos(folder: Path) -> None:
    for kind in ("rt_detr", "owlv2"):
        proposer = DetectorProposer(loaded(folder, kind))
        photos = [photo(k, (60, 48)) for k in range(3)]
        for one, (boxes, scores) in zip(photos, proposer.propose(photos), strict=True):
            ((single, alone),) = proposer.propose([one])
            np.testing.assert_allclose(boxes, single, atol=1e-5)
            np.testing.assert_allclose(scores, alone, atol=1e-5)


def test_a_model_that_is_not_told_of_padding_sees_photos_of_other_sizes_alone(folder: Path) -> None:
    """YOLOS would give fractions of the picture that the batch is padded to."""
    proposer = DetectorProposer(loaded(folder, "yolos"))
    photos = [photo(1, (48, 48)), photo(2, (64, 32))]
    for one, (boxes, scores) in zip(photos, proposer.propose(photos), strict=True):
        ((single, alone),) = proposer.propose([one])
        np.testing.assert_allclose(boxes, single, atol=1e-6)
        np.testing.assert_allclose(scores, alone, atol=1e-6)


def test_the_record_names_labels_words_and_statements(folder: Path) -> None:
    fixed = DetectorProposer(loaded(folder, "rt_detr"), trained_on="two classes", saw_novel="no").provenance
    assert (fixed.concepts, fixed.words, fixed.saw_novel) == (("cat", "umbrella"), (), "no")
    assert fixed.trained_on == "two classes"
    shot = DetectorProposer(loaded(folder, "owlv2"), "a cat. dog").provenance
    assert (shot.concepts, shot.words, shot.saw_novel) == ((), ("a cat", "dog"), "unknown")
    assert DetectorProposer(loaded(folder, "owlv2")).provenance.words == ("object",)
    recipe = DetectorProposer(loaded(folder, "owlv2")).recipe
    assert set(recipe) == {"architecture", "config_digest", "preprocessing_digest", "precision"}
    assert json.loads(json.dumps(recipe)) == recipe


def test_a_table_of_a_detector(folder: Path, tmp_path: Path) -> None:
    data = write_photos(tmp_path / "set", photos=3, boxes=1)
    proposer = DetectorProposer(loaded(folder, "owlv2"))
    cache_proposals(data, proposer, selection=Selection(5, min_side=1.0), workers=0)
    table = open_proposals(data, open_index(data))
    assert table.provenance == proposer.provenance
    assert 0 < len(table) <= 15


def test_what_cannot_be_used_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--words applies only to zero-shot detectors; .* is a rt_detr"):
        DetectorProposer(loaded(folder, "rt_detr"), "cat")
    with pytest.raises(UserError, match=r"--words ' \. ': found no word"):
        DetectorProposer(loaded(folder, "owlv2"), " . ")
    with pytest.raises(UserError, match="--saw-novel perhaps: expected yes, no or unknown"):
        DetectorProposer(loaded(folder, "owlv2"), saw_novel="perhaps")
    with pytest.raises(UserError, match="--precision int4"):
        load_detector("x", device="cpu", precision="int4")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match="is a bert, which is no detector"):
        load_detector(str(tmp_path), device="cpu")
    (tmp_path / "config.json").write_text('{"model_type": "omdet-turbo"}')
    with pytest.raises(UserError, match="is a omdet-turbo, whose output cckt cannot read"):
        load_detector(str(tmp_path), device="cpu")
    (tmp_path / "config.json").write_text('{"model_type": "rt_detr"}')
    with pytest.raises(UserError, match="found no usable detector in that folder"):
        load_detector(str(tmp_path), device="cpu")
    code = {"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}
    (tmp_path / "config.json").write_text(json.dumps(code))
    (tmp_path / "own.py").write_text("raise SystemExit('this ran')")
    with pytest.raises(UserError, match="comes with its own code, which cckt does not run"):
        load_detector(str(tmp_path), device="cpu")
