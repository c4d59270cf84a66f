"""The full-size recipes on real photos, with the columns of an untrained ViT-B-32."""

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
EIGHT_PHOTOS = (
    # ImageNet's weights are not available to tests: the backbone trains from scratch, with the full rate.
    "model.norm=group",
    "train.backbone_lr_factor=1",
    # Without regularisation and augmentation, which keep a detector from memorising photos.
    "model.dropout=0",
    "data.flip=0",
    "data.random_crop=false",
    # An hour instead of a night: smaller photos, two per step, a higher rate.
    "data.short_sides=320",
    "data.eval_short_side=320",
    "data.max_side=640",
    "data.workers=0",
    "train.lr=2e-4",
    "train.precision=bf16",
    # 1,000 steps; the lower rate and the contrast start at the same share of them as in the recipe.
    "train.epochs=250",
    "train.lr_drop_epoch=215",
    "terms.region_contrast.first_epoch=215",
    "train.evaluate_every=25",
    # The crops of an untrained teacher are unrelated to its text: score with the head, guide by annotations.
    "prior.source=oracle",
    "inference.classification=head",
)


def make_folder(folder: Path, photos: int | None = None, *, shapes: int | None = None) -> Path:
    """Index and columns of COCO's photos with base boxes.

    photos: only the first ones, by id. shapes: only one photo of each size, for this number of sizes.
    """
    if not PHOTOS.is_dir():
        pytest.skip("../shared/data/coco_photos is absent")
    records = json.loads((PHOTOS / "annotations" / "instances_train2017.json").read_text())
    images = sorted(records["images"], key=lambda image: image["id"])[:photos]
    if shapes is not None:
        first = {(image["width"], image["height"]): image for image in reversed(images)}
        images = sorted(first.values(), key=lambda image: image["id"])[:shapes]
        assert len(images) == shapes
    records["images"] = images
    kept = {image["id"] for image in images}
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
    """Minutes on one core. "full" is the recipe itself, except for the untrained backbone and the batch."""
    folder = make_folder(tmp_path)
    reading = ("data.workers=1", "data.cache_photos=0")
    config = apply_overrides(recipe("coco-48-17-r50"), [*COMMON, *reading, *changes])
    metrics = train(config, folder, None, tmp_path / "run", max_steps=2)
    assert metrics["step"] == 2
    assert metrics["skipped"] == metrics["photos_unreadable"] == 0
    assert (tmp_path / "run" / "model.safetensors").is_file()


@pytest.mark.slow
def test_the_swin_recipe_trains_and_evaluates_photos_of_six_shapes(tmp_path):
    """Three minutes on two cores: Swin-B itself, with a small transformer and small photos."""
    folder = make_folder(tmp_path, shapes=6)
    sizes = ("data.short_sides=101,117,131", "data.max_side=229", "data.eval_short_side=119")
    rest = ("train.batch=3", "data.workers=0", "prior.source=oracle", "inference.batch=4")
    config = apply_overrides(recipe("coco-48-17-swinb"), [*COMMON, *SMALL, *sizes, *rest])
    metrics = train(config, folder, folder, tmp_path / "run", max_steps=2)
    assert metrics["step"] == 2
    assert metrics["skipped"] == metrics["photos_unreadable"] == 0
    assert metrics["evaluation"]["figures"]["photos_unreadable"] == 0
    assert 0 <= metrics["evaluation"]["ap50_base"] <= 1


@pytest.mark.slow
def test_the_full_recipe_memorises_eight_photos(tmp_path):
    """More than an hour on one core; recorded in benchmarks/README.md."""
    folder = make_folder(tmp_path, 8)
    config = apply_overrides(recipe("coco-48-17-r50"), [*COMMON, *EIGHT_PHOTOS])
    train(config, folder, folder, tmp_path / "run")
    log = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    evaluations = [line for line in log if line["kind"] == "evaluation"]
    assert [line["step"] for line in evaluations] == list(range(100, 1001, 100))
    assert evaluations[-1]["ap50_base"] > 0.9
    assert evaluations[-1]["ap"] > 0.8
