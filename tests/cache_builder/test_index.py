"""Build and open: equal to a slow reference, for every format, whole or not at all, and free of leaks."""

from __future__ import annotations

import json
import math
import os
import pickle
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache_builder.index import Index, build_index, novel_boxes, open_index, verify_index
from cache_builder.index.tables import DTYPES, NAMES
from tests.cache_builder.coco_files import Coco, small_coco, write_coco, write_split

REAL = Path(__file__).parents[3] / "shared/data/coco_photos"


def test_an_index_without_boxes_opens(tmp_path: Path) -> None:
    path, images = write_coco(tmp_path, {**small_coco(), "annotations": []})
    report = build_index(path, images, tmp_path / "out", "all-base", keep="base")
    index = open_index(tmp_path / "out")
    assert report.boxes == len(index.box_xyxy) == novel_boxes(index) == 0
    assert index.box_xyxy.shape == (0, 4)
    assert index.boxes_of(2) == slice(0, 0)
    assert index.boxes_of_concept(0).shape == (0,)
    assert report.images_without_boxes == len(index) == 3
    assert verify_index(index)


def test_tables_are_sorted_and_clipped_records(tmp_path: Path) -> None:
    path, images = write_coco(tmp_path, small_coco())
    build_index(path, images, tmp_path / "out", "all-base")
    index = open_index(tmp_path / "out")
    assert index.image_ids.tolist() == [7, 12, 30]
    assert [index.file_name(k) for k in range(3)] == ["sub/a.jpg", "b.jpg", "c.jpg"]
    assert index.photo_path(0) == images / "sub/a.jpg"
    assert (index.widths.tolist(), index.heights.tolist()) == ([100, 60, 40], [80, 50, 30])
    assert index.concepts.names == ["fire_truck", "Dog", "cat"]
    assert index.annotation_ids.tolist() == [2, 3, 1, 5]
    assert index.box_images.tolist() == [0, 0, 1, 1]
    assert index.box_concepts.tolist() == [1, 0, 0, 2]
    assert index.box_xyxy.tolist() == [[5, 6, 12, 14], [10.5, 20, 40.5, 60], [0, 0, 60, 50], [1, 2, 4, 6]]
    assert index.areas.tolist() == [56, 900, 3000, 6.5], "an area that is not given is the box's"
    assert index.iscrowd.tolist() == [False, False, False, True]
    assert [index.boxes_of(k) for k in range(3)] == [slice(0, 2), slice(2, 4), slice(4, 4)]
    assert [index.boxes_of_concept(k).tolist() for k in range(3)] == [[1, 2], [0], [3]]
    assert index.image_row(12) == 1
    with pytest.raises(KeyError):
        index.image_row(13)
    assert index.card["source"]["file"] == "annotations.json"


def test_tables_are_mapped_and_cannot_be_written(tmp_path: Path) -> None:
    path, images = write_coco(tmp_path, small_coco())
    build_index(path, images, tmp_path / "out", "all-base")
    index = open_index(tmp_path / "out")
    for name in NAMES:
        table = getattr(index, name)
        assert table.dtype == DTYPES[name]
        assert not table.flags.writeable
        assert isinstance(table, np.memmap) or table.size == 0, name
    payload = pickle.dumps(index)
    assert len(payload) < 500, "a worker gets the folder, not the tables"
    assert pickle.loads(payload).box_xyxy.tolist() == index.box_xyxy.tolist()  # noqa: S301 - our own bytes


def test_photos_inside_the_data_folder_move_with_it(tmp_path: Path) -> None:
    out = tmp_path / "data"
    path, images = write_coco(out, small_coco())
    build_index(path, images, out, "all-base")
    out.rename(tmp_path / "moved")
    index = open_index(tmp_path / "moved")
    assert index.photo_path(0) == tmp_path / "moved/photos/sub/a.jpg"
    assert index.card["image_root"] == "photos"


# --- equal to a slow reference -----------------------------------------------------------------------------

_side = st.integers(1, 50)
_number = st.one_of(
    st.floats(-20, 70).map(lambda x: round(x, 2)),
    st.integers(-3, 60),
    st.sampled_from([math.nan, math.inf, -math.inf, None, 1e308, -1e308, 0, -0.0]),
)


@st.composite
def coco_dicts(draw: st.DrawFn) -> Coco:
    ids = st.integers(-5, 2**40)
    image_ids = draw(st.lists(ids, min_size=1, max_size=4, unique=True))
    category_ids = draw(st.lists(ids, min_size=1, max_size=5, unique=True))
    annotation_ids = draw(st.lists(ids, max_size=12, unique=True))
    flag = st.sampled_from([0, 1])
    return {
        "images": [
            {"id": i, "file_name": f"{k % 2}/{i} é.jpg", "width": draw(_side), "height": draw(_side)}
            for k, i in enumerate(image_ids)
        ],
        "annotations": [
            {
                "id": i,
                "image_id": draw(st.sampled_from(image_ids)),
                "category_id": draw(st.sampled_from(category_ids)),
                "bbox": [draw(_number) for _ in range(4)],
                "iscrowd": draw(flag),
                **({"area": draw(_number)} if draw(flag) else {}),
                **({"ignore": draw(flag)} if draw(flag) else {}),
            }
            for i in annotation_ids
        ],
        "categories": [{"id": i, "name": f"name {k}"} for k, i in enumerate(category_ids)],
    }


def reference(
    coco: Coco, splits: dict[int, str], keep: str
) -> tuple[list[tuple[Any, ...]], dict[str, int], int]:
    """Boxes, drop counts and clip count, a dict and a box at a time."""
    size = {image["id"]: (image["width"], image["height"]) for image in coco["images"]}
    kept, clipped = [], 0
    dropped = dict.fromkeys(["not_finite", "no_area", "outside_image", "novel", "other"], 0)
    for record in sorted(coco["annotations"], key=lambda a: (a["image_id"], a["id"])):
        x, y, w, h = (math.nan if v is None else float(v) for v in record["bbox"])
        corners = [x, y, x + w, y + h]
        limits = [*size[record["image_id"]]] * 2
        split = splits[record["category_id"]]
        if not all(map(math.isfinite, corners)):
            dropped["not_finite"] += 1
            continue
        box = [min(max(c, 0.0), float(limit)) for c, limit in zip(corners, limits, strict=True)]
        if w <= 0 or h <= 0:
            dropped["no_area"] += 1
        elif box[2] <= box[0] or box[3] <= box[1]:
            dropped["outside_image"] += 1
        elif keep == "base" and split != "base":
            dropped[split] += 1
        else:
            clipped += any(abs(a - b) > 0.01 for a, b in zip(box, corners, strict=True))
            area = record.get("area")
            if area is None or not math.isfinite(area) or area < 0:
                area = (box[2] - box[0]) * (box[3] - box[1])
            kept.append(
                (record["image_id"], record["id"], record["category_id"], tuple(box), float(area),
                 bool(record["iscrowd"]), bool(record.get("ignore", 0)))
            )  # fmt: skip
    return kept, dropped, clipped


def rows_of(index: Index) -> list[tuple[Any, ...]]:
    """All boxes of an index, read through `boxes_of`."""
    rows = []
    for image in range(len(index)):
        for box in range(*index.boxes_of(image).indices(len(index.box_xyxy))):
            assert index.box_images[box] == image
            rows.append(
                (int(index.image_ids[image]), int(index.annotation_ids[box]),
                 index.concepts[index.box_concepts[box]].category_id, tuple(index.box_xyxy[box].tolist()),
                 float(index.areas[box]), bool(index.iscrowd[box]), bool(index.difficult[box]))
            )  # fmt: skip
    return rows


@settings(deadline=None, max_examples=25)
@given(coco=coco_dicts(), keep=st.sampled_from(["all", "base"]), seed=st.integers(0, 99))
def test_build_then_read_equals_a_dict_based_reference(coco: Coco, keep: str, seed: int) -> None:
    choose = random.Random(seed)
    splits = {c["id"]: choose.choice(["base", "novel", "other"]) for c in coco["categories"]}
    splits[coco["categories"][0]["id"]] = "base"
    lists = [[i for i, s in splits.items() if s == split] for split in ("base", "novel")]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path, images = write_coco(folder, coco)
        report = build_index(path, images, folder / "out", write_split(folder, *lists), keep)
        index = open_index(folder / "out")
        kept, dropped, clipped = reference(coco, splits, keep)
        assert rows_of(index) == kept
        assert (report.dropped, report.clipped, report.boxes) == (dropped, clipped, len(kept))
        assert report.annotations == report.boxes + sum(report.dropped.values())
        assert [c.split for c in index.concepts] == [splits[c.category_id] for c in index.concepts]
        assert np.all(index.box_xyxy[:, :2] >= 0)
        by_concept = [index.boxes_of_concept(row).tolist() for row in range(len(index.concepts))]
        assert by_concept == [
            np.flatnonzero(index.box_concepts == row).tolist() for row in range(len(by_concept))
        ]
        assert keep == "all" or novel_boxes(index) == 0
        assert novel_boxes(index) == sum(splits[box[2]] != "base" for box in kept)

        for part in ("images", "annotations", "categories"):
            choose.shuffle(coco[part])
        write_coco(folder, coco)
        assert build_index(path, images, folder / "out2", folder / "split.json", keep).digest == report.digest


def test_the_digest_sees_contents_and_not_places(tmp_path: Path) -> None:
    def digest(name: str, change: Any = None, split: Any = "all-base", prefix: str = "") -> str:
        coco = small_coco()
        for image in coco["images"]:
            image["file_name"] = prefix + image["file_name"]
        if change:
            change(coco)
        path, images = write_coco(tmp_path / name, coco)
        return build_index(path, images, tmp_path / name / "out", split).digest

    same = digest("a")
    assert digest("b") == same
    assert digest("c", prefix="train2017/") == same, "where photos lie is no content"
    changed = {
        digest("d", lambda c: c["annotations"][0]["bbox"].__setitem__(0, 1.25)),
        digest("e", lambda c: c["annotations"][0].update(id=99)),
        digest("f", lambda c: c["annotations"][0].update(iscrowd=0)),
        digest("g", lambda c: c["images"][0].update(file_name="other.jpg")),
        digest("h", lambda c: c["categories"][0].update(name="lynx")),
        digest("i", lambda c: c["annotations"].pop()),
        digest("j", split=write_split(tmp_path, ["cat", "dog"], ["fire truck"])),
    }
    assert len(changed | {same}) == 8


# --- formats -----------------------------------------------------------------------------------------------


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


# --- the real thing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "keep", "boxes", "crowd", "novel", "other", "splits"),
    [
        ("train", "base", 585, 9, 134, 110, {"base": 585, "novel": 0, "other": 0}),
        ("val", "all", 604, 8, 0, 0, {"base": 455, "novel": 93, "other": 56}),
    ],
)
def test_real_coco(
    tmp_path: Path,
    part: str,
    keep: str,
    boxes: int,
    crowd: int,
    novel: int,
    other: int,
    splits: dict[str, int],
) -> None:
    if not REAL.is_dir():
        pytest.skip("the shared COCO photos are absent")
    path = REAL / f"annotations/instances_{part}2017.json"
    report = build_index(path, REAL / f"{part}2017", tmp_path / "out", "coco-48-17", keep)
    index = open_index(tmp_path / "out")
    assert report.images == len(index) == {"train": 92, "val": 72}[part]
    assert (report.boxes, report.crowd) == (boxes, crowd) == (len(index.box_xyxy), int(index.iscrowd.sum()))
    assert report.dropped == {
        "not_finite": 0,
        "no_area": 0,
        "outside_image": 0,
        "novel": novel,
        "other": other,
    }
    assert report.boxes_per_split == splits
    assert report.concepts_per_split == {"base": 48, "novel": 17, "other": 15}
    assert (report.clipped, report.photos_missing) == (0, 0)
    assert novel_boxes(index) == (0 if keep == "base" else 149)
    assert all(index.photo_path(image).is_file() for image in range(len(index)))
    assert verify_index(index)
    text = "\n".join(report.lines())
    assert f"{boxes} boxes of" in text
    assert (f"{novel} dropped: novel concept" in text) == (novel > 0)
    assert json.loads(json.dumps(report.to_json()))["boxes"] == boxes


# --- whole or not at all -----------------------------------------------------------------------------------


def listing(folder: Path) -> dict[str, int]:
    return {
        str(p.relative_to(folder)): p.stat().st_mtime_ns for p in sorted(folder.rglob("*")) if p.is_file()
    }


def test_building_the_same_again_changes_nothing(tmp_path: Path) -> None:
    path, images = write_coco(tmp_path, small_coco())
    first = build_index(path, images, tmp_path / "out", "all-base")
    before = listing(tmp_path / "out")
    again = build_index(path, images, tmp_path / "out", "all-base")
    assert (first.unchanged, again.unchanged) == (False, True)
    assert listing(tmp_path / "out") == before
    assert again.digest == first.digest


def test_another_index_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    path, images = write_coco(tmp_path, small_coco())
    build_index(path, images, tmp_path / "out", "all-base")
    old = open_index(tmp_path / "out")
    boxes = old.box_xyxy.tolist()
    build_index(path, images, tmp_path / "out", write_split(tmp_path, ["cat"], ["dog"]), keep="base")
    new = open_index(tmp_path / "out")
    assert len(new.box_xyxy) == 1
    assert sorted(p.name for p in (tmp_path / "out/index").iterdir()) == ["index.json", new.card["tables"]]
    assert old.box_xyxy.tolist() == boxes, "who has the old tables mapped keeps them"
    with pytest.raises(AssertionError, match="replaced while it was in use"):
        pickle.loads(pickle.dumps(old))  # noqa: S301 - our own bytes


@pytest.mark.parametrize("name", ["areas", "file_name_bytes", "concept_boxes", "box_concepts"])
def test_a_damaged_table_is_found_and_mended(tmp_path: Path, name: str) -> None:
    path, images = write_coco(tmp_path, small_coco())
    build_index(path, images, tmp_path / "out", "all-base")
    index = open_index(tmp_path / "out")
    table = tmp_path / "out/index" / index.card["tables"] / f"{name}.npy"
    whole = table.read_bytes()
    table.write_bytes(whole[:-4] + bytes([whole[-4] ^ 1]) + whole[-3:])
    assert not verify_index(open_index(tmp_path / "out"))
    assert not build_index(path, images, tmp_path / "out", "all-base").unchanged
    assert table.read_bytes() == whole
    assert verify_index(open_index(tmp_path / "out"))
    assert sorted(p.name for p in (tmp_path / "out/index").iterdir()) == ["index.json", index.card["tables"]]


@pytest.mark.parametrize("table", ["box_concepts", "concept_box_offsets"])
def test_the_leak_check_reads_the_tables_themselves(tmp_path: Path, table: str) -> None:
    path, images = write_coco(tmp_path, small_coco())
    build_index(path, images, tmp_path / "out", write_split(tmp_path, ["cat", "dog"], ["fire_truck"]), "base")
    index = open_index(tmp_path / "out")
    assert novel_boxes(index) == 0
    tampered = {"box_concepts": np.array([1, 0], np.int32), "concept_box_offsets": np.array([0, 1, 1, 2])}
    np.save(tmp_path / "out/index" / index.card["tables"] / f"{table}.npy", tampered[table])
    assert novel_boxes(open_index(tmp_path / "out")) == 1
    assert not verify_index(open_index(tmp_path / "out"))


KILL = """
import os, signal, sys
from pathlib import Path
import numpy as np
from cache_builder.index import build_index
module, name, calls, out, path, images, split = sys.argv[1:]
owner, calls = {"os": os, "np": np}[module], int(calls)
real = getattr(owner, name)
def deadly(*args, **kwargs):
    global calls
    calls -= 1
    if calls == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **kwargs)
setattr(owner, name, deadly)
build_index(Path(path), Path(images), Path(out), Path(split), keep="base")
"""


@pytest.mark.parametrize("step", ["np save 5", "os rename 1", "os replace 1"])
def test_a_killed_build_leaves_the_old_index_or_none(tmp_path: Path, step: str) -> None:
    path, images = write_coco(tmp_path, small_coco())
    split = write_split(tmp_path, ["cat"], ["dog"])
    build_index(path, images, tmp_path / "old", "all-base")
    digest = open_index(tmp_path / "old").digest
    for out in ("old", "none"):
        arguments = [*step.split(), str(tmp_path / out), str(path), str(images), str(split)]
        killed = subprocess.run(
            [sys.executable, "-c", KILL, *arguments], cwd=Path(__file__).parents[2], check=False
        )
        assert killed.returncode == -signal.SIGKILL
    assert verify_index(open_index(tmp_path / "old"))
    assert open_index(tmp_path / "old").digest == digest
    assert not (tmp_path / "none/index/index.json").exists()
    for out in ("old", "none"):
        build_index(path, images, tmp_path / out, split, keep="base")
        index = open_index(tmp_path / out)
        assert index.annotation_ids.tolist() == [5]
        assert sorted(os.listdir(tmp_path / out / "index")) == ["index.json", index.card["tables"]]
