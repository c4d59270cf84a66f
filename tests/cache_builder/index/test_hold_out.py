"""Photos are divided by concept, reproducibly, and none is on both sides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.index import build_index, hold_out, open_index
from cckt.cache_builder.index.hold_out import choose_held_out
from tests.cache_builder.index.coco_files import Coco, small_coco, write_coco, write_split
from tests.cache_builder.index.photo_files.samples import export, save_export, save_photo


def many(photos: int = 40) -> Coco:
    """Return photos of which every second shows a cat, every fourth a dog, and every eighth nothing."""
    coco = export(*((f"{k}.jpg", (60, 40), []) for k in range(photos)), categories=("cat", "dog", "bird"))
    for k in range(photos):
        for category, step in ((1, 2), (2, 4)):
            if k % step == 0 and k % 8:
                number = len(coco["annotations"]) + 1
                box = {"id": number, "image_id": k + 1, "category_id": category, "bbox": [1, 2, 30, 20]}
                coco["annotations"].append(box)
    coco["info"] = {"year": 2024}
    return coco


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_no_image_is_chosen_of_none() -> None:
    assert choose_held_out(np.zeros((0, 3), np.bool_), 0.5, 0).shape == (0,)


@given(
    shown=arrays(np.bool_, st.tuples(st.integers(1, 40), st.integers(0, 5))),
    share=st.floats(0.05, 0.95),
    seed=st.integers(0, 5),
)
def test_the_share_of_images_is_near(shown: np.ndarray, share: float, seed: int) -> None:
    held = choose_held_out(shown, share, seed)
    assert np.array_equal(held, choose_held_out(shown, share, seed))
    assert abs(held.sum() - share * len(shown)) <= 1 + shown.shape[1]


@given(images=st.integers(4, 60), concepts=st.integers(1, 4), share=st.floats(0.1, 0.9))
def test_each_concept_has_its_share_where_images_show_one(images: int, concepts: int, share: float) -> None:
    shown = np.zeros((images, concepts), np.bool_)
    shown[np.arange(images), np.arange(images) % concepts] = True
    held = choose_held_out(shown, share, 0)
    assert (np.abs(shown[held].sum(0) - share * shown.sum(0)) <= 1).all()


def test_a_file_is_divided_and_its_records_stay_as_they_are(tmp_path: Path) -> None:
    source = many()
    source["annotations"][0] |= {"segmentation": [[1, 2, 3, 4, 5, 6]], "area": 7}
    report = hold_out(save_export(tmp_path, source), tmp_path / "parts", 0.25)
    train, val = (read(tmp_path / "parts" / name) for name in ("train.json", "val.json"))
    assert (report.train_images, report.val_images) == (len(train["images"]), len(val["images"])) == (30, 10)
    for key in ("images", "annotations"):
        assert sorted(train[key] + val[key], key=lambda one: one["id"]) == source[key]
    assert train["categories"] == val["categories"] == source["categories"]
    assert val["info"] == {"year": 2024}
    held = {one["id"] for one in val["images"]}
    assert {one["image_id"] for one in val["annotations"]} <= held
    for category, count in ((1, 15), (2, 5)):
        found = sum(one["category_id"] == category for one in val["annotations"])
        assert found == pytest.approx(count / 4, abs=1)
    for name in ("train", "val"):
        build_index(tmp_path / "parts" / f"{name}.json", None, tmp_path / name, "all-base")


def test_the_seed_decides_and_the_order_of_the_file_does_not(tmp_path: Path) -> None:
    source = many()

    def held(coco: Coco, seed: int, name: str) -> set[int]:
        hold_out(save_export(tmp_path, coco), tmp_path / name, 0.25, seed)
        return {one["id"] for one in read(tmp_path / name / "val.json")["images"]}

    first = held(source, 0, "a")
    source["images"].reverse()
    source["annotations"].reverse()
    assert held(source, 0, "b") == first
    assert held(source, 1, "c") != first


def test_an_index_is_divided_with_its_splits(tmp_path: Path) -> None:
    coco = small_coco()
    coco["images"][0]["neg_category_ids"] = [9]
    path, images = write_coco(tmp_path, coco)
    save_photo(images / "sub/a.jpg", (100, 80))
    build_index(path, images, tmp_path / "data", write_split(tmp_path, ["cat", "dog"], ["fire truck"]))
    report = hold_out(tmp_path / "data", tmp_path / "parts", 0.4)
    parts, source = tmp_path / "parts", images.resolve()
    assert report.lines()[-3:] == [
        "index both with:",
        f"cckt data index --annotations {parts}/train.json --images {source} --split {parts}/split.json "
        f"--keep base --out {parts}/train",
        f"cckt data index --annotations {parts}/val.json --images {source} --split {parts}/split.json "
        f"--out {parts}/val",
    ]
    paths = [tmp_path / "parts" / name for name in ("train.json", "val.json")]
    build_index(paths, images, tmp_path / "again", tmp_path / "parts" / "split.json")
    assert open_index(tmp_path / "again").digest == open_index(tmp_path / "data").digest


def test_concepts_of_too_few_photos_are_named(tmp_path: Path) -> None:
    coco = many()
    coco["annotations"].append({"id": 99, "image_id": 2, "category_id": 3, "bbox": [1, 2, 3, 4]})
    report = hold_out(save_export(tmp_path, coco), tmp_path / "parts", 0.25)
    assert report.only_train == ["bird"]
    assert "1 concept has boxes only in train.json: bird" in report.lines()


def test_mistakes_are_refused(tmp_path: Path) -> None:
    path = save_export(tmp_path, many(3))
    for share in (0, 1, -0.5, float("nan")):
        with pytest.raises(UserError, match="expected a share of the photos between 0 and 1"):
            hold_out(path, tmp_path / "parts", share)
    with pytest.raises(UserError, match=r"has 3 photos, of which a share of 0\.01 gives 0"):
        hold_out(path, tmp_path / "parts", 0.01)
    assert not (tmp_path / "parts").exists()
    hold_out(path, tmp_path / "parts", 0.4)
    before = {one.name: one.read_bytes() for one in (tmp_path / "parts").iterdir()}
    hold_out(path, tmp_path / "parts", 0.4)
    with pytest.raises(UserError, match=r"found a file .*json that is not what this command writes"):
        hold_out(path, tmp_path / "parts", 0.6)
    assert {one.name: one.read_bytes() for one in (tmp_path / "parts").iterdir()} == before
    with pytest.raises(UserError, match=r"nothing\.json does not exist"):
        hold_out(tmp_path / "nothing.json", tmp_path / "more", 0.4)
    with pytest.raises(UserError, match="holds no index"):
        hold_out(tmp_path, tmp_path / "more", 0.4)
    with pytest.raises(UserError, match=r"export\.json cannot be written"):
        hold_out(path, path, 0.4)


def test_a_killed_division_is_completed_and_a_file_of_the_user_is_kept(tmp_path: Path) -> None:
    path = save_export(tmp_path, many(30))
    hold_out(path, tmp_path / "whole", 0.4)
    for content, refused in (((tmp_path / "whole/train.json").read_text(), False), ("precious", True)):
        out = tmp_path / f"parts-{refused}"
        out.mkdir()
        (out / "train.json").write_text(content)
        if refused:
            with pytest.raises(UserError, match=r"found a file .*train\.json that is not what this command"):
                hold_out(path, out, 0.4)
            assert (out / "train.json").read_text() == "precious"
        else:
            hold_out(path, out, 0.4)
            assert (out / "val.json").read_bytes() == (tmp_path / "whole/val.json").read_bytes()
