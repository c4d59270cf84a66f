"""The shipped teacher and backbone: size, format and figures; their training scripts run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from cckt import shapeworld
from cckt.cache_builder.teacher.clip import load_teacher
from cckt.shapeworld import train_backbone, train_teacher
from cckt.shapeworld.captions import TEMPLATES, render_captioned, words
from cckt.shapeworld.evaluate_teacher import evaluate_teacher
from cckt.shapeworld.pictographs import CONCEPTS, other_words

HOME = Path(shapeworld.__file__).parent


def test_the_shipped_files_are_small_and_hold_no_pickle() -> None:
    folder = HOME / "teacher"
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 12_000_000
    assert {file.suffix for file in folder.iterdir()} == {".json", ".safetensors"}
    assert (HOME / "backbone" / "resnet10t.safetensors").stat().st_size < 4_000_000


def test_the_teacher_classifies_crops() -> None:
    figures = evaluate_teacher(load_teacher("shapeworld"), crops=130, photos=40)
    assert figures["top1_clean"] >= 0.95
    assert figures["top1_photos"] >= 0.85
    assert figures["existence_all"]["ap"] >= 0.25


def test_words_are_recognised_in_any_template() -> None:
    teacher = load_teacher("shapeworld")
    first = teacher.encode_texts([f"a photo of a {name}." for name in CONCEPTS])
    second = teacher.encode_texts([f"there is a {name} in the photo." for name in CONCEPTS])
    assert ((first @ second.T).argmax(1) == np.arange(65)).all()
    assert np.isfinite(teacher.encode_texts(["an unknown word: zyzzyva ☂ 雪"])).all()


def test_captions_mention_the_words_of_crops() -> None:
    captioned = render_captioned(6, part=3, workers=1)
    assert captioned.photos.shape == (6, 128, 128, 3)
    assert len(words()) == 65 + len(other_words())
    for photo, word in zip(captioned.crops[:, 0].astype(int), captioned.crop_words, strict=True):
        assert captioned.caption_words[photo, word]
    assert captioned.caption_words.sum() <= len(captioned.crop_words)
    assert captioned.crop(0, 32).size == (32, 32)
    assert all(template.count("{}") == 1 for template in TEMPLATES)


def test_the_backbone_script_is_deterministic(tmp_path: Path) -> None:
    names = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    for name in names:
        train_backbone.train(name, images=30, steps=2, batch=6, seed=5, workers=1, held_out=10)
    assert names[0].read_bytes() == names[1].read_bytes()
    with (
        safe_open(names[0], "pt") as made,
        safe_open(HOME / "backbone/resnet10t.safetensors", "pt") as shipped,
    ):
        assert set(made.keys()) == set(shipped.keys())


def test_the_teacher_script_trains_and_continues(tmp_path: Path) -> None:
    settings = train_teacher.TeacherTraining(
        images=24, trunk_steps=1, photos=4, steps=1, crops=3, wholes=2, side=64, seed=1, workers=1
    )
    first, second = tmp_path / "first", tmp_path / "second"
    train_teacher.train(first, "tiny", None, settings, held_out=4, text_steps=2)
    train_teacher.continue_training(second, first, settings, text_steps=2)
    config = json.loads((second / "open_clip_config.json").read_text())
    assert config["preprocess_cfg"]["size"] == 64
    teacher = load_teacher(f"local-dir:{second}")
    assert teacher.encode_images(torch.zeros(2, 3, 64, 64)).shape == (2, 96)
    assert teacher.weight_digest != load_teacher(f"local-dir:{first}").weight_digest


def test_weights_of_another_tower_are_refused(tmp_path: Path) -> None:
    from cckt.cache_builder.base.errors import UserError

    settings = train_teacher.TeacherTraining(images=4, trunk_steps=1, photos=2, steps=1, workers=1)
    with pytest.raises(UserError, match="--start"):
        train_teacher.train(tmp_path, "tiny", HOME / "backbone/resnet10t.safetensors", settings, held_out=2)
