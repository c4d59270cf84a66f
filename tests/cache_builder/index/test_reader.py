"""Opening an index: its arrays, damaged ones, and ones that lead outside."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.index import DamagedIndexError, build_index, novel_boxes, open_index, verify_index
from cckt.cache_builder.index.tables import DTYPES, NAMES
from tests.cache_builder.index.coco_files import small_coco, write_coco
from tests.places import SHARED

REAL = SHARED / "coco_photos"


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
    assert index.areas.tolist() == [56, 900, 3000, 6.5], "a missing area is the box's"
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


def test_an_images_folder_inside_the_data_set_moves_with_it(tmp_path: Path) -> None:
    out = tmp_path / "data"
    path, images = write_coco(out, small_coco())
    build_index(path, images, out, "all-base")
    out.rename(tmp_path / "moved")
    index = open_index(tmp_path / "moved")
    assert index.photo_path(0) == tmp_path / "moved/photos/sub/a.jpg"
    assert index.card["image_root"] == "photos"


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


def test_a_damaged_or_newer_index_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(UserError, match=r"out holds no index: make one with cckt data index"):
        open_index(out)
    path, images = write_coco(tmp_path, small_coco())
    build_index(path, images, out, "all-base")
    card_path = out / "index/index.json"
    card = json.loads(card_path.read_text())

    card_path.write_text(json.dumps({**card, "schema": 3}))
    for attempt in (lambda: open_index(out), lambda: build_index(path, images, out, "all-base")):
        with pytest.raises(
            UserError, match="schema 3, made by a newer cckt; this one reads up to 2: upgrade"
        ):
            attempt()
    for broken in ("{", "[]", "{}", '{"schema": "x"}', '{"schema": 1}'):
        card_path.write_text(broken)
        with pytest.raises(
            UserError, match=r"is damaged \(index\.json .*build it again with cckt data index"
        ):
            open_index(out)
    card_path.write_text(json.dumps({**card, "counts": {"images": 3, "boxes": 5}}))
    with pytest.raises(UserError, match=r"has shape \(4,\), not \(5,\)"):
        open_index(out)
    card_path.write_text(json.dumps({**card, "concepts": card["concepts"][:2]}))
    with pytest.raises(UserError, match=r"concept_box_offsets\.npy has shape \(4,\), not \(3,\)"):
        open_index(out)

    card_path.write_text(json.dumps(card))
    table = out / "index" / card["tables"] / "areas.npy"
    whole = table.read_bytes()
    for broken_bytes in (whole[:-1], whole[:20], b""):
        table.write_bytes(broken_bytes)
        with pytest.raises(UserError, match=r"its table areas\.npy is missing or cut short"):
            open_index(out)
    table.write_bytes((out / "index" / card["tables"] / "annotation_ids.npy").read_bytes())
    with pytest.raises(UserError, match=r"areas\.npy holds int64, not float64"):
        open_index(out)
    table.write_bytes(whole)
    names = table.with_name("file_name_bytes.npy")
    np.save(names, np.load(names)[:-1])
    with pytest.raises(UserError, match=r"file_name_offsets\.npy does not fit file_name_bytes\.npy"):
        open_index(out)
    table.unlink()
    with pytest.raises(UserError, match=r"areas\.npy is missing"):
        open_index(out)
    build_index(path, images, out, "all-base")
    assert len(open_index(out)) == 3


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path, images = write_coco(tmp_path, small_coco())
    build_index(path, images, tmp_path / "out", "all-base")
    return tmp_path / "out"


def edit_card(data: Path, **changes: object) -> None:
    path = data / "index" / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_names(data: Path, *names: str) -> None:
    """Replace the file names in the tables, as someone who edits them by hand would."""
    folder = data / "index" / open_index(data).card["tables"]
    blobs = [name.encode() for name in names]
    np.save(folder / "file_name_bytes.npy", np.frombuffer(b"".join(blobs), np.uint8))
    np.save(folder / "file_name_offsets.npy", np.cumsum([0, *map(len, blobs)], dtype=np.int64))


@pytest.mark.parametrize(
    "name",
    [
        "../b.jpg",
        "a/../../b.jpg",
        "a\\..\\b.jpg",
        "/etc/b.jpg",
        "\\\\host\\b.jpg",
        "C:/b.jpg",
        "b\0.jpg",
        "..",
    ],
)
@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_file_name_that_leaves_the_images_folder_is_refused(data: Path, name: str, at: int) -> None:
    names = ["a.jpg", "b.jpg", "c.jpg"]
    names[at] = name
    edit_names(data, *names)
    with pytest.raises(
        DamagedIndexError, match=r"the file name .* of image (7|12|30) leaves the images folder"
    ):
        open_index(data)


def test_harmless_names_with_dots_and_colons_are_read(data: Path) -> None:
    names = ["a..b.jpg", "...x/ab:c.jpg", "é.jpg"]
    edit_names(data, *names)
    index = open_index(data)
    assert [index.file_name(image) for image in range(3)] == names


def test_offsets_of_file_names_must_ascend(data: Path) -> None:
    edit_names(data, "a.jpg", "", "c.jpg")
    with pytest.raises(DamagedIndexError, match=r"file_name_offsets\.npy is not ascending"):
        open_index(data)


def test_file_names_are_utf_8(data: Path) -> None:
    edit_names(data, "a.jpg", "é.jpg", "c.jpg")
    assert open_index(data).file_name(1) == "é.jpg"
    array = next((data / "index").glob("tables-*/file_name_bytes.npy"))
    values = np.load(array)
    damaged = values.copy()
    damaged[0] = 0xEE
    np.save(array, damaged)
    with pytest.raises(DamagedIndexError, match=r"file_name_bytes\.npy is not UTF-8"):
        open_index(data)
    np.save(array, values)
    array = array.with_name("file_name_offsets.npy")
    np.save(array, np.load(array) + np.array([0, 1, 0, 0]))  # inside the letter é
    with pytest.raises(DamagedIndexError, match=r"file_name_offsets\.npy splits a character"):
        open_index(data)


@pytest.mark.parametrize("root", ["..", "../photos", "photos/../../x", "a\0b"])
def test_an_images_folder_outside_by_a_relative_path_is_refused(data: Path, root: str) -> None:
    edit_card(data, image_root=root)
    with pytest.raises(DamagedIndexError, match=r"index\.json names the images folder .*, which leaves"):
        open_index(data)


@pytest.mark.parametrize("tables", ["../../elsewhere", "/tmp", "tables-0123456789abcdeg", "", 7, None])
def test_tables_are_only_read_from_their_own_folder(data: Path, tables: object) -> None:
    edit_card(data, tables=tables)
    with pytest.raises(DamagedIndexError, match=r"index\.json names the folder .* for its tables"):
        open_index(data)


@pytest.mark.parametrize(
    "changes",
    [
        {"counts": 3},
        {"counts": {"images": float("inf"), "boxes": 3}},
        {"schema": float("inf")},
        {"counts": {"images": 3}},
        {"concepts": [{"name": "cat"}]},
        {"concepts": 7},
        {"schema": None},
    ],
)
def test_a_card_with_entries_of_another_type_is_refused(data: Path, changes: dict[str, object]) -> None:
    edit_card(data, **changes)
    with pytest.raises(DamagedIndexError, match=r"index\.json .*cannot be read"):
        open_index(data)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("name", ["index.json", "areas.npy"])
def test_a_pipe_in_an_index_is_refused_without_waiting(data: Path, name: str) -> None:
    folder = data / "index"
    path = folder / name if name == "index.json" else folder / open_index(data).card["tables"] / name
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DamagedIndexError, match=r"is no regular file|areas\.npy is missing"):
        open_index(data)


@pytest.mark.parametrize(
    ("table", "at", "value", "problem"),
    [
        ("image_ids", 1, 3, "is not ascending"),
        ("box_offsets", 1, 2**63 - 1, "is not ascending"),
        ("file_name_offsets", 1, 2**63 - 1, "is not ascending"),
        ("widths", 0, 0, "holds a side that is not positive"),
        ("heights", 2, -5, "holds a side that is not positive"),
        ("box_offsets", 1, 4000, "is not ascending"),
        ("box_offsets", 0, 1, "is not ascending"),
        ("concept_box_offsets", 1, -1, "is not ascending"),
        ("box_images", 0, 3, "names rows that are not there"),
        ("box_images", 0, -1, "names rows that are not there"),
        ("box_concepts", 0, 4000, "names rows that are not there"),
        ("concept_boxes", 1, 4000, "names rows that are not there"),
    ],
)
def test_a_table_that_leads_out_of_another_one_is_refused(
    data: Path, table: str, at: int, value: int, problem: str
) -> None:
    path = data / "index" / open_index(data).card["tables"] / f"{table}.npy"
    values = np.load(path)
    values[at] = value
    np.save(path, values)
    with pytest.raises(DamagedIndexError, match=rf"its table {table}\.npy {problem}"):
        open_index(data)


def test_image_ids_may_be_any_rising_numbers(data: Path) -> None:
    path = data / "index" / open_index(data).card["tables"] / "image_ids.npy"
    np.save(path, np.array([-5, 0, 2**63 - 1]))
    assert open_index(data).image_row(2**63 - 1) == 2


@pytest.mark.parametrize("table", ["box_offsets", "neg_rows", "file_name_bytes", "areas", "box_xyxy"])
def test_a_table_of_other_dimensions_is_refused(data: Path, table: str) -> None:
    path = data / "index" / open_index(data).card["tables"] / f"{table}.npy"
    values = np.load(path)
    for other in (values[..., None], values.dtype.type(0)):
        np.save(path, other)
        with pytest.raises(DamagedIndexError, match=rf"its table {table}\.npy has (0|1|2|3) dimensions?"):
            open_index(data)
