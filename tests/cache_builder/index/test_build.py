"""Build then read equals a reference that goes a dict and a box at a time."""

from __future__ import annotations

import math
import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cckt.cache_builder.index import Index, build_index, novel_boxes, open_index
from tests.cache_builder.index.coco_files import Coco, small_coco, write_coco, write_split

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
            if area is None or not math.isfinite(area) or area <= 0:
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
    boxes = [one["bbox"] for one in coco["annotations"]]
    # Boxes of which all values are at most 1 are refused, see test_checks.py.
    assume(any(value is None or not abs(value) <= 1 for box in boxes for value in box) or not boxes)
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
