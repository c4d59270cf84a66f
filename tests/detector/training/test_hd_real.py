"""The full-size recipes of HD-OVD and the hybrid on real photos, from untrained models of every kind."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import safetensors.torch

from cckt.cache_builder.columns.crops import cache_crops
from cckt.cache_builder.columns.images import cache_images
from cckt.cache_builder.columns.nouns.cache import cache_nouns
from cckt.cache_builder.columns.proposals import cache_proposals
from cckt.cache_builder.detectors import DetectorProposer, load_detector
from cckt.cache_builder.index import open_index
from cckt.cache_builder.proposals import open_nouns, open_proposals
from cckt.detector.config.config import apply_overrides
from cckt.detector.config.recipes import recipe
from cckt.detector.training.train import train
from tests.cache_builder.detectors.detector_models import write_detector
from tests.cache_builder.mllm.mllm_models import build
from tests.detector.training.test_train_real import COMMON, TEACHER, make_folder

PHOTOS = 6
ON = ("data.workers=0", "train.warmup_steps=0", "train.log_every=1", "train.batch=1")
"""One photo of 800 px at a time: two of them take 20 GiB with AdaMixer."""
TERMS = ("region_contrast", "instance_contrast", "instance_relation", "text_relation", "image_contrast")
FIRST = tuple(f"terms.{term}.first_epoch=0" for term in TERMS)
"""All terms from the first step; the recipes start some of them after an epoch."""
FIXED = ("terms.novel_aware_classes.noun_weight=fixed", "terms.text_relation.noun_weight=fixed")
"""An untrained teacher has no weight of nouns that could be fitted."""
RECIPES = (
    "hdovd-coco-adamixer-r50",
    "hdovd-coco-fasterrcnn-r50",
    "hdovd-coco-deformable-r50",
    "hdovd-lvis-r50",
    "hybrid-coco-r50",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of COCO with all columns: regions of a tiny detector, nouns of a tiny multimodal LLM."""
    data = make_folder(tmp_path_factory.mktemp("hd-real"), photos=PHOTOS)
    detector = write_detector("owlv2", data / "detector")
    maker = DetectorProposer(load_detector(detector, device="cpu"), "object", saw_novel="no")
    cache_proposals(data, maker, workers=0)
    cache_images(data, TEACHER, device="cpu")
    cache_crops(data, TEACHER, of="proposals", device="cpu")
    cache_nouns(data, build("llava"), teacher=TEACHER, templates="single", device="cpu")
    return data


@pytest.mark.slow
def test_columns_of_real_photos(folder: Path) -> None:
    index = open_index(folder)
    table = open_proposals(folder, index)
    nouns = open_nouns(folder, index, table)
    assert len(index) == PHOTOS
    assert len(table) > PHOTOS
    assert (nouns.ids >= 0).any()
    assert nouns.embeddings.shape == (len(nouns.names), 512)


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_a_full_size_recipe_takes_two_steps(folder: Path, tmp_path: Path, name: str) -> None:
    """Minutes on one core: the recipe itself, but for its untrained backbone and the batch."""
    config = apply_overrides(recipe(name), [*COMMON, *ON, *FIRST, *FIXED])
    metrics = train(config, folder, None, tmp_path / "run", max_steps=2)
    assert metrics["step"] == 2
    assert metrics["skipped"] == metrics["photos_unreadable"] == 0
    weights = safetensors.torch.load_file(tmp_path / "run" / "model.safetensors")
    assert all(math.isfinite(float(one.double().abs().sum())) for one in weights.values())
