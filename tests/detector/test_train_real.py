"""The full-size recipe on real photos. Columns of 92 photos by an untrained ViT-B-32."""

from __future__ import annotations

from pathlib import Path

import pytest

from cache_builder.crops import cache_crops
from cache_builder.index import build_index
from cache_builder.text import cache_text
from detector.config import apply_overrides
from detector.recipes import recipe
from detector.train import train

PHOTOS = Path(__file__).parents[3] / "shared" / "data" / "coco_photos"
SMALL = (
    "model.encoder_layers=1",
    "model.decoder_layers=1",
    "data.short_sides=128",
    "data.max_side=256",
    "train.batch=2",
    "loss.contrast_from_epoch=0",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    if not PHOTOS.is_dir():
        pytest.skip("../shared/data/coco_photos is absent")
    folder = tmp_path_factory.mktemp("coco")
    annotations = next(PHOTOS.glob("annotations/*train*.json"))
    images = next(path for path in PHOTOS.glob("*train*") if path.is_dir())
    build_index(annotations, images, folder, split="coco-48-17", keep="base")
    cache_text(folder, "ViT-B-32/random:0", templates="single", device="cpu")
    cache_crops(folder, "ViT-B-32/random:0", device="cpu")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("changes", [SMALL, ("train.batch=2", "train.accumulate=2")], ids=["small", "full"])
def test_the_full_recipe_takes_two_steps_on_real_photos(folder, tmp_path, changes):
    """Minutes of one core: "full" is the recipe as it is, but for the untrained backbone and the batch."""
    common = ("model.backbone_weights=none", "train.device=cpu", "data.workers=1", "data.cache_photos=0")
    config = apply_overrides(recipe("coco-48-17-r50"), [*common, *changes])
    metrics = train(config, folder, None, tmp_path / "run", max_steps=2)
    assert metrics["step"] == 2
    assert metrics["skipped"] == metrics["photos_unreadable"] == 0
    assert (tmp_path / "run" / "model.safetensors").is_file()
