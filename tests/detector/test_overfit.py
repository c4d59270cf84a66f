"""The full-size recipe learns eight real photos by heart, with the columns of an untrained ViT-B-32."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cache_builder.crops import cache_crops
from cache_builder.index import build_index
from cache_builder.text import cache_text
from detector.config import apply_overrides
from detector.recipes import recipe
from detector.train import train

PHOTOS = Path(__file__).parents[3] / "shared" / "data" / "coco_photos"
CHANGES = (
    # What is not at hand here: ImageNet's weights. So the backbone learns at the rate of the rest.
    "model.backbone_weights=none",
    "model.norm=group",
    "train.backbone_lr_factor=1",
    # What would keep a detector from learning photos by heart.
    "model.dropout=0",
    "data.flip=0",
    "data.random_crop=false",
    # What makes it three quarters of an hour and not a night: smaller photos, few at a time, a higher rate.
    "data.short_sides=320",
    "data.eval_short_side=320",
    "data.max_side=640",
    "train.batch=2",
    "train.lr=2e-4",
    "train.precision=bf16",
    # 600 steps, with the lower rate and the contrast from the same share of them on as in the recipe's 36.
    "train.epochs=150",
    "train.lr_drop_epoch=129",
    "loss.contrast_from_epoch=129",
    # An untrained teacher's crops and words have nothing in common: the head scores, annotations guide.
    "prior.source=oracle",
    "inference.classification=head",
    "data.workers=0",
    "train.device=cpu",
)


@pytest.mark.slow
def test_the_full_recipe_learns_eight_real_photos_by_heart(tmp_path):
    """Forty minutes of one core."""
    if not PHOTOS.is_dir():
        pytest.skip("../shared/data/coco_photos is absent")
    records = json.loads((PHOTOS / "annotations" / "instances_train2017.json").read_text())
    eight = sorted(image["id"] for image in records["images"])[:8]
    records["images"] = [image for image in records["images"] if image["id"] in eight]
    records["annotations"] = [box for box in records["annotations"] if box["image_id"] in eight]
    annotations = tmp_path / "eight.json"
    annotations.write_text(json.dumps(records))
    folder = tmp_path / "eight"
    build_index(annotations, PHOTOS / "train2017", folder, split="coco-48-17", keep="base")
    cache_text(folder, "ViT-B-32/random:0", templates="single", device="cpu")
    cache_crops(folder, "ViT-B-32/random:0", device="cpu")
    config = apply_overrides(recipe("coco-48-17-r50"), CHANGES)
    metrics = train(config, folder, folder, tmp_path / "run")
    assert metrics["step"] == 600
    assert metrics["evaluation"]["ap50_base"] > 0.9
