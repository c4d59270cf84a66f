"""The shipped teacher and backbone: small, safe, as good as written down; the scripts that made them run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from cckt import shapeworld
from cckt.cache_builder.teacher.clip import load_teacher
from cckt.shapeworld import examine, train_backbone, train_teacher
from cckt.shapeworld.pictographs import CONCEPTS, other_words
from cckt.shapeworld.reading import TEMPLATES, read, words

HOME = Path(shapeworld.__file__).parent


def test_what_ships_is_small_and_holds_no_pickle() -> None:
    folder = HOME / "teacher"
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 12_000_000
    assert {file.suffix for file in folder.iterdir()} == {".json", ".safetensors"}
    assert (HOME / "backbone" / "resnet10t.safetensors").stat().st_size < 4_000_000


def test_the_teacher_names_clean_cut_outs() -> None:
    figures = examine.examine(load_teacher("shapeworld"), cutouts=130, photos=40)
    assert figures["top1_clean"] >= 0.95
    assert figures["top1_photos"] >= 0.85
    assert figures["existence_all"]["ap"] >= 0.25


def test_the_language_is_read_in_any_template() -> None:
    teacher = load_teacher("shapeworld")
    first = teacher.encode_texts([f"a photo of a {name}." for name in CONCEPTS])
    second = teacher.encode_texts([f"there is a {name} in the photo." for name in CONCEPTS])
    assert ((first @ second.T).argmax(1) == np.arange(65)).all()
    assert np.isfinite(teacher.encode_texts(["a word it never read: zyzzyva ☂ 雪"])).all()


def test_reading_mentions_what_photos_show() -> None:
    library = read(6, part=3, workers=1)
    assert library.photos.shape == (6, 128, 128, 3)
    assert len(words()) == 65 + len(other_words())
    for photo, meaning in zip(library.cutouts[:, 0].astype(int), library.meanings, strict=True):
        assert library.mentioned[photo, meaning]
    assert library.mentioned.sum() <= len(library.meanings)
    assert library.cut(0, 32).size == (32, 32)
    assert all(template.count("{}") == 1 for template in TEMPLATES)


def test_the_backbone_script_is_deterministic(tmp_path: Path) -> None:
    names = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    for name in names:
        train_backbone.train(name, pictures=30, steps=2, batch=6, seed=5, workers=1, held_out=10)
    assert names[0].read_bytes() == names[1].read_bytes()
    with (
        safe_open(names[0], "pt") as made,
        safe_open(HOME / "backbone/resnet10t.safetensors", "pt") as shipped,
    ):
        assert set(made.keys()) == set(shipped.keys())


def test_the_teacher_script_makes_a_teacher_and_goes_on(tmp_path: Path) -> None:
    course = train_teacher.Course(
        pictures=24, lessons=1, photos=4, steps=1, cutouts=3, wholes=2, side=64, seed=1, workers=1
    )
    first, second = tmp_path / "first", tmp_path / "second"
    train_teacher.begin(first, "tiny", None, course, held_out=4, reading_steps=2)
    train_teacher.go_on(second, first, course, reading_steps=2)
    config = json.loads((second / "open_clip_config.json").read_text())
    assert config["preprocess_cfg"]["size"] == 64
    teacher = load_teacher(f"local-dir:{second}")
    assert teacher.encode_images(torch.zeros(2, 3, 64, 64)).shape == (2, 96)
    assert teacher.weight_digest != load_teacher(f"local-dir:{first}").weight_digest


def test_a_start_of_another_tower_is_refused(tmp_path: Path) -> None:
    from cckt.cache_builder.base.errors import UserError

    course = train_teacher.Course(pictures=4, lessons=1, photos=2, steps=1, workers=1)
    with pytest.raises(UserError, match="--start"):
        train_teacher.begin(tmp_path, "tiny", HOME / "backbone/resnet10t.safetensors", course, held_out=2)
