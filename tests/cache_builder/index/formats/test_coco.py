"""LVIS v1 and v0.5, Objects365, and what custom files do."""

from __future__ import annotations

from pathlib import Path

from cckt.cache_builder.index import build_index, open_index
from tests.cache_builder.index.coco_files import Coco, small_coco, write_coco


def lvis_v1() -> Coco:
    coco = small_coco()
    for image, folder in zip(coco["images"], ("train2017", "val2017", "train2017"), strict=True):
        del image["file_name"]
        image["coco_url"] = f"http://images.cocodataset.org/{folder}/{image['id']:012d}.jpg"
        image["neg_category_ids"] = [9, 2, 9]
        image["not_exhaustive_category_ids"] = [4] if image["id"] == 12 else []
    for category, letter in zip(coco["categories"], "rfc", strict=True):
        category |= {"frequency": letter, "synonyms": [category["name"], "another_name"], "image_count": 3}
    return coco


def test_lvis_v1_takes_names_from_urls_and_keeps_its_marks(tmp_path: Path) -> None:
    path, images = write_coco(tmp_path, lvis_v1())
    (images / "train2017").mkdir()
    (images / "train2017/000000000012.jpg").touch()
    report = build_index(path, images, tmp_path / "out", "lvis")
    index = open_index(tmp_path / "out")
    assert index.file_name(1) == "train2017/000000000012.jpg"
    assert report.photos_missing == 2
    assert [(c.frequency, c.split, c.synonyms) for c in index.concepts] == [
        ("f", "base", ("another_name",)), ("c", "base", ("another_name",)), ("r", "novel", ("another_name",)),
    ]  # fmt: skip
    assert index.negatives_of(0).tolist() == [0, 2]
    assert [index.not_exhaustive_of(k).tolist() for k in range(3)] == [[], [1], []]
    assert index.rows("novel").tolist() == [2]

    build_index(path, images, tmp_path / "base", "lvis", keep="base")
    guarded = open_index(tmp_path / "base")
    assert guarded.negatives_of(0).tolist() == [0], "a mark of a novel concept would tell of it"
    assert guarded.annotation_ids.tolist() == [2, 3, 1]
    assert guarded.concepts == index.concepts


def test_lvis_finds_photos_in_the_folder_of_the_numbered_ones(tmp_path: Path) -> None:
    path, images = write_coco(tmp_path, lvis_v1())
    (images / "000000000012.jpg").touch()
    build_index(path, images, tmp_path / "out", "lvis")
    assert open_index(tmp_path / "out").photo_path(1) == images / "000000000012.jpg"


def test_lvis_v05_names_of_2014_are_those_of_2017(tmp_path: Path) -> None:
    coco = small_coco()
    for image in coco["images"]:
        image["file_name"] = f"COCO_train2014_{image['id']:012d}.jpg"
    for category, count in zip(coco["categories"], (10, 100, 101), strict=True):
        category["image_count"] = count
    path, images = write_coco(tmp_path, coco, photos=False)
    for image in coco["images"]:
        (images / f"{image['id']:012d}.jpg").touch()
    report = build_index(path, images, tmp_path / "out", "lvis")
    index = open_index(tmp_path / "out")
    assert report.photos_missing == 0
    assert index.file_name(0) == "000000000007.jpg"
    assert [c.frequency for c in index.concepts] == ["c", "f", "r"]


def test_objects365_keeps_its_folders_or_starts_from_any_of_them(tmp_path: Path) -> None:
    coco = small_coco()
    for image in coco["images"]:
        image["id"] += 2**33
        image["file_name"] = f"images/v1/patch8/objects365_v1_{image['id'] % 10**8:08d}.jpg"
    for annotation in coco["annotations"]:
        annotation |= {"image_id": annotation["image_id"] + 2**33, "isfake": 0, "isreflected": 0}
    path, images = write_coco(tmp_path, coco)
    build_index(path, images, tmp_path / "out", "all-base")
    first = open_index(tmp_path / "out")
    assert first.file_name(0).startswith("images/v1/patch8/objects365_v1_")
    assert first.image_ids[0] == 7 + 2**33
    build_index(path, images / "images/v1", tmp_path / "out2", "all-base")
    assert open_index(tmp_path / "out2").file_name(0).startswith("patch8/objects365")
    assert open_index(tmp_path / "out2").digest == first.digest


def test_a_windows_path_is_read_with_slashes(tmp_path: Path) -> None:
    coco = small_coco()
    coco["images"][1]["file_name"] = "sub\\a.jpg"
    path, images = write_coco(tmp_path, coco, photos=False)
    (images / "sub").mkdir()
    (images / "sub/a.jpg").touch()
    build_index(path, images, tmp_path / "out", "all-base")
    assert open_index(tmp_path / "out").file_name(0) == "sub/a.jpg"


def test_whole_floats_are_ids_and_null_is_no_number(tmp_path: Path) -> None:
    coco = small_coco()
    coco["images"][1] |= {"id": 7.0, "width": 100.0}
    coco["annotations"][1] |= {"image_id": 7.0, "category_id": 2.0, "id": 3.0, "iscrowd": None, "area": None}
    coco["annotations"][3]["bbox"][2] = None
    path, images = write_coco(tmp_path, coco)
    report = build_index(path, images, tmp_path / "out", "all-base")
    index = open_index(tmp_path / "out")
    assert report.dropped["not_finite"] == 1
    assert index.annotation_ids.tolist() == [3, 1, 5]
    assert index.areas[0] == 1200
