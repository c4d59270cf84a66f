"""The full-size recipe on real photos, with the columns of an untrained ViT-B-32."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cckt.cache_builder.columns.crops import cache_crops
from cckt.cache_builder.columns.text import cache_text
from cckt.cache_builder.index import build_index
from cckt.detector.config.config import apply_overrides
from cckt.detector.config.recipes import recipe
from cckt.detector.training.train import train
from tests.places import SHARED

PHOTOS = SHARED / "coco_photos"
TEACHER = "ViT-B-32/random:0"
COMMON = ("model.backbone_weights=none", "train.device=cpu", "train.batch=2")
SMALL = (
    "model.encoder_layers=1",
    "model.decoder_layers=1",
    "data.short_sides=128",
    "data.max_side=256",
    "terms.region_contrast.first_epoch=0",
)
BY_HEART = (
    # ImageNet's weights are not at hand here: the backbone learns from scratch, at the rate of the rest.
    "model.norm=group",
    "train.backbone_lr_factor=1",
    # What would keep a detector from learning photos by heart.
    "model.dropout=0",
    "data.flip=0",
    "data.random_crop=false",
    # What makes it an hour and not a night: smaller photos, two at a time, a higher rate.
    "data.short_sides=320",
    "data.eval_short_side=320",
    "data.max_side=640",
    "data.workers=0",
    "train.lr=2e-4",
    "train.precision=bf16",
    # 1,000 steps, with the lower rate and the contrast from the same share of them on as in the recipe's 36.
    "train.epochs=250",
    "train.lr_drop_epoch=215",
    "terms.region_contrast.first_epoch=215",
    "train.evaluate_every=25",
    # An untrained teacher's crops say nothing about words: the head scores, and the annotations guide.
    "prior.source=oracle",
    "inference.classification=head",
)


def make_folder(folder: Path, most: int | None = None) -> Path:
    """COCO's photos with base boxes, `most` of them in the order of their ids, and their columns."""
    if not PHOTOS.is_dir():
        pytest.skip("../shared/data/coco_photos is absent")
    records = json.loads((PHOTOS / "annotations" / "instances_train2017.json").read_text())
    records["images"] = sorted(records["images"], key=lambda image: image["id"])[:most]
    kept = {image["id"] for image in records["images"]}
    records["annotations"] = [box for box in records["annotations"] if box["image_id"] in kept]
    annotations = folder / "annotations.json"
    annotations.write_text(json.dumps(records))
    build_index(annotations, PHOTOS / "train2017", folder, split="coco-48-17", keep="base")
    cache_text(folder, TEACHER, templates="single", device="cpu")
    cache_crops(folder, TEACHER, device="cpu")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("changes", [SMALL, ("train.accumulate=2",)], ids=["small", "full"])
def test_the_full_recipe_takes_two_steps(tmp_path, changes):
    """Minutes of one core: "full" is the recipe as it is, but for the untrained backbone and the batch."""
    folder = make_folder(tmp_path)
    unhurried = ("data.workers=1", "data.cache_photos=0")
    config = apply_overrides(recipe("coco-48-17-r50"), [*COMMON, *unhurried, *changes])
    metrics = train(config, folder, None, tmp_path / "run", max_steps=2)
    assert metrics["step"] == 2
    assert metrics["skipped"] == metrics["photos_unreadable"] == 0
    assert (tmp_path / "run" / "model.safetensors").is_file()


@pytest.mark.slow
def test_the_full_recipe_learns_eight_photos_by_heart(tmp_path):
    """An hour and more of one core; recorded in benchmarks/README.md."""
    folder = make_folder(tmp_path, most=8)
    config = apply_overrides(recipe("coco-48-17-r50"), [*COMMON, *BY_HEART])
    train(config, folder, folder, tmp_path / "run")
    log = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    evaluations = [line for line in log if line["kind"] == "evaluation"]
    assert [line["step"] for line in evaluations] == list(range(100, 1001, 100))
    assert evaluations[-1]["ap50_base"] > 0.9
    assert evaluations[-1]["ap"] > 0.8
