"""Recipes on real photos; the full-size ones with the columns of an untrained ViT-B-32."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import save_file

from cckt.cache_builder.columns.crops import cache_crops
from cckt.cache_builder.columns.text import cache_text
from cckt.cache_builder.index import build_index, open_index
from cckt.detector.config.config import apply_overrides, changed
from cckt.detector.config.recipes import recipe
from cckt.detector.inference.predict import Predictor
from cckt.detector.students.backbones.backbone import Backbone
from cckt.detector.training.train import train
from tests.detector.tiny import unit_rows, write_column
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
    """Index and columns of COCO's photos with base boxes; arguments as for `make_index`."""
    make_index(folder, photos, shapes=shapes)
    cache_text(folder, TEACHER, templates="single", device="cpu")
    cache_crops(folder, TEACHER, device="cpu")
    return folder


def make_index(folder: Path, photos: int | None = None, *, shapes: int | None = None) -> Path:
    """Index COCO's photos with base boxes.

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
    return folder


def test_photos_small_trains_and_evaluates_four_photos(tmp_path):
    """The recipe for laptops on smaller photos, with a backbone from a file and columns without a teacher."""
    folder = make_index(tmp_path, 4)
    index = open_index(folder)
    sides = index.box_xyxy[:, 2:] - index.box_xyxy[:, :2]
    valid = (sides >= 16).all(1) & ~index.iscrowd
    write_column(folder, index, "text", unit_rows(80, 1, 64))
    write_column(folder, index, "crops", unit_rows(len(valid), 2, 64) * valid[:, None], valid)
    config = recipe("photos-small")
    assert config.train.precision == "fp32"
    weights = tmp_path / "lite0.safetensors"
    save_file(Backbone(changed(config, "model", backbone_weights="none").model).net.state_dict(), weights)
    sizes = ("data.short_sides=96", "data.max_side=128", "data.eval_short_side=96", "train.batch=2")
    options = [f"model.backbone_weights={weights}", "train.device=cpu", "prior.source=oracle", *sizes]
    metrics = train(apply_overrides(config, options), folder, folder, tmp_path / "run", max_steps=2)
    assert (metrics["step"], metrics["skipped"], metrics["photos_unreadable"]) == (2, 0, 0)
    assert metrics["evaluation"]["photos"] == 4
    found = Predictor.load(tmp_path / "run", "cpu").predict(
        [index.photo_path(0)], "person, dog", text=unit_rows(2, 3, 64), min_score=0.0, rivals=False
    )
    assert len(found) == 1
    assert found[0].size == (int(index.widths[0]), int(index.heights[0]))
    assert len(found[0]), "expected detections without rivals and without a lowest score"


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
