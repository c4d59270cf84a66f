"""YOLO folders: what is read, and every refusal."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.index import IndexReport, build_index, open_index
from cckt.cache_builder.index.formats.yolo import read_yolo, yolo_root
from cckt.cache_builder.photos import load_row
from tests.cache_builder.index.photo_files.samples import save_photo


def write_yolo(folder: Path, labels: dict[str, str], **card: Any) -> Path:
    """Write a YOLO folder of photos of 100 x 80 pixels. labels: stem -> text of the label file."""
    for stem, text in labels.items():
        save_photo(folder / "images" / "train" / f"{stem}.jpg", (100, 80))
        place = folder / "labels" / "train" / f"{stem}.txt"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    path = folder / "data.yaml"
    path.write_text(yaml.safe_dump({"train": "images/train", "names": ["cat", "dog"], **card}))
    return path


def build(path: Path, subset: str = "train", **options: Any) -> IndexReport:
    read = partial(read_yolo, subset=subset)
    return build_index(path, yolo_root(path), path.parent / "out", "all-base", read=read, **options)


def test_empty_label_files_are_photos_without_objects(tmp_path: Path) -> None:
    report = build(write_yolo(tmp_path, {"a": "", "b": "\n"}))
    assert (report.images, report.boxes) == (2, 0)


@pytest.mark.parametrize("names", [["cat", "dog"], {0: "cat", 1: "dog"}])
def test_boxes_are_pixels_and_classes_have_their_number(tmp_path: Path, names: Any) -> None:
    path = write_yolo(tmp_path, {"a": "1 0.5 0.5 0.2 0.25\n0 0.1 0.1 0.2 0.2\n", "b": ""}, names=names, nc=2)
    report = build(path)
    index = open_index(tmp_path / "out")
    assert index.box_xyxy.ravel().tolist() == pytest.approx([40, 30, 60, 50, 0, 0, 20, 16])
    assert [index.concepts[row].name for row in index.box_concepts] == ["dog", "cat"]
    assert index.concepts.category_ids.tolist() == [0, 1]
    assert index.photo_path(0) == tmp_path.resolve() / "images" / "train" / "a.jpg"
    assert "data.yaml: the photos of 'train' were read" in report.lines()


def test_polygons_give_their_box_and_are_counted(tmp_path: Path) -> None:
    report = build(write_yolo(tmp_path, {"a": "0 0.1 0.1 0.5 0.1 0.5 0.75\n"}))
    assert open_index(tmp_path / "out").box_xyxy.ravel().tolist() == pytest.approx([10, 8, 50, 60])
    assert "1 polygon was read: their boxes are taken" in report.lines()


@pytest.mark.parametrize(
    ("shape", "keypoints"),
    [([3, 2], "0.45 0.45 0.55 0.45 0.5 0.55"), ([1, 3], "-1 7 2"), ([1, 2], "0.4 0.6")],
)
def test_lines_with_keypoints_give_their_box(tmp_path: Path, shape: list[int], keypoints: str) -> None:
    report = build(write_yolo(tmp_path, {"a": f"0 0.5 0.5 0.2 0.25 {keypoints}\n"}, kpt_shape=shape))
    assert open_index(tmp_path / "out").box_xyxy.ravel().tolist() == pytest.approx([40, 30, 60, 50])
    assert f"keypoints were not read (kpt_shape is {shape}): the boxes are taken" in report.lines()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "0 0.5 0.5 0.2 0.25",
            r"found 5 columns, expected 9: class, x, .* as kpt_shape \[2, 2\] of data.yaml",
        ),
        ("0 0.5 0.5 0.2 0.25 0 0 0 0 0", "found 10 columns, expected 9"),
        ("0 0.5 0.5 0.2 25 0 0 0 0", "expected shares of the photo"),
        ("0 0.5 0.5 0.2 0.25 0 0 0 x", "expected numbers"),
    ],
)
def test_a_wrong_line_with_keypoints_is_refused(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(UserError, match=rf"a\.txt, line 1: .*{message}"):
        build(write_yolo(tmp_path, {"a": line}, kpt_shape=[2, 2]))


@pytest.mark.parametrize(
    "shape", [None, 3, [3], [3, 4], [0, 2], [-1, 2], [3, 2, 1], [True, 2], ["3", 2], {3: 2}]
)
def test_a_wrong_kpt_shape_is_refused(tmp_path: Path, shape: Any) -> None:
    with pytest.raises(UserError, match=r"data\.yaml: 'kpt_shape' is .*, expected the number of keypoints"):
        build(write_yolo(tmp_path, {"a": ""}, kpt_shape=shape))


def test_label_files_without_a_photo_are_counted(tmp_path: Path) -> None:
    path = write_yolo(tmp_path, dict.fromkeys("abcd", "0 0.5 0.5 0.5 0.5\n"))
    for name in ("a", "c", "d"):
        (tmp_path / f"images/train/{name}.jpg").unlink()
    for name in ("classes", ".hidden"):
        (tmp_path / f"labels/train/{name}.txt").write_text("cat\n")
    report = build(path)
    assert (report.images, report.boxes) == (1, 1)
    assert "3 label files have no photo (first labels/train/a.txt)" in report.lines()
    (tmp_path / "labels/train/c.txt").unlink()
    (tmp_path / "labels/train/d.txt").unlink()
    assert "1 label file has no photo (first labels/train/a.txt)" in build(path).lines()


def test_lists_and_labels_of_another_subset_are_not_counted(tmp_path: Path) -> None:
    path = write_yolo(tmp_path, {}, train="train.txt", val=["val.txt", "gone.txt"])
    for name in "abc":
        save_photo(tmp_path / f"{name}.jpg", (100, 80))
        (tmp_path / f"{name}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "train.txt").write_text("a.jpg\nb.jpg\n")
    (tmp_path / "val.txt").write_text("c.jpg\n")
    assert not any("no photo" in line for line in build(path).lines())
    (tmp_path / "c.jpg").unlink()
    assert "1 label file has no photo (first c.txt)" in build(path).lines()


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".JPE", ".mpo"])
def test_rarer_endings_of_jpeg_files_are_photos(tmp_path: Path, suffix: str) -> None:
    path = write_yolo(tmp_path, {"a": "0 0.5 0.5 0.5 0.5\n"})
    photo = tmp_path / "images/train/a.jpg"
    photo.rename(photo.with_suffix(suffix))
    build(path)
    assert open_index(tmp_path / "out").file_name(0) == f"images/train/a{suffix}"


def test_boxes_refer_to_the_turned_photo(tmp_path: Path) -> None:
    path = write_yolo(tmp_path, {"a": "0 0.5 0.75 0.5 0.5\n"})
    save_photo(tmp_path / "images/train/a.jpg", (60, 40), 6)
    build(path)
    index = open_index(tmp_path / "out")
    assert (index.widths[0], index.heights[0]) == (40, 60)
    assert index.box_xyxy.ravel().tolist() == pytest.approx([10, 30, 30, 60])
    assert load_row(index, 0).size == (40, 60)
    with pytest.raises(UserError, match="--exif ignore does not apply to"):
        build(path, exif="ignore")
    save_photo(tmp_path / "images/train/a.jpg", (60, 40), 3)
    build(path)
    assert open_index(tmp_path / "out").exif == "apply"


def test_labels_may_be_next_to_their_image_and_a_list_may_name_the_images(tmp_path: Path) -> None:
    path = write_yolo(tmp_path, {"a": "0 0.5 0.5 0.5 0.5\n"}, val="val.txt", path="nowhere")
    save_photo(tmp_path / "b.jpg", (100, 80))
    (tmp_path / "b.txt").write_text("1 0.5 0.5 0.5 0.5\n")
    (tmp_path / "val.txt").write_text("./b.jpg\n\n")
    assert build(path, "val").boxes == 1
    assert open_index(tmp_path / "out").file_name(0) == "b.jpg"


def test_a_photo_without_labels_is_counted(tmp_path: Path) -> None:
    path = write_yolo(tmp_path, {"a": "0 0.5 0.5 0.5 0.5\n"})
    save_photo(tmp_path / "images/train/c.jpg", (9, 9))
    assert any("1 photo has no label file" in line for line in build(path).lines())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "2 0.5 0.5 0.5 0.5",
            r"a\.txt, line 2: found the class 2, expected one of the 2 .*\(0 to 1\)",
        ),
        ("-1 0.5 0.5 0.5 0.5", "found the class -1"),
        ("0.5 0.5 0.5 0.5 0.5", "found the class 0.5"),
        ("nan 0.5 0.5 0.5 0.5", "found the class nan"),
        ("0 0.5 0.5 0.5 0.5 0.9", "found 6 columns, as predictions with scores have, expected class, x, y"),
        ("0 0.5 0.5 0.5", "found 4 columns, expected"),
        ("0", "found 1 column, expected"),
        ("0 10 20 30 40", r"found '0 10 20 30 40', expected shares of the photo from 0 to 1"),
        ("0 nan 0.5 0.5 0.5", "expected shares of the photo"),
        ("cat 0.5 0.5 0.5 0.5", "expected numbers"),
    ],
)
def test_a_wrong_line_is_refused_with_its_place(tmp_path: Path, line: str, message: str) -> None:
    path = write_yolo(tmp_path, {"a": f"0 0.5 0.5 0.5 0.5\n{line}\n"})
    with pytest.raises(UserError, match=message) as caught:
        build(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds None, expected keys such as 'train' and 'names'"),
        ("names: [cat", "is not YAML"),
        ("train: images/train", "'names' is None, expected a list of class names"),
        ("names: []", r"'names' is \[\], expected"),
        ("names: {cat: 0}", "'names' has 'cat': '0', expected a number and a name"),
        ("names: [cat]\nnc: 2\ntrain: images/train", "'nc' is 2 and 'names' has 1 name"),
        ("names: [cat]\nval: images/train", r"has no entry 'train', expected a folder there \(it has val\)"),
        ("names: [cat]\ntrain: ../../etc", "which is no folder or list of photos inside"),
        ("names: [cat]\ntrain: labels", "'train' holds no images"),
        ("names: [cat, cat]\ntrain: images/train", "1 category with the name of another one"),
    ],
)
def test_a_wrong_data_yaml_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = write_yolo(tmp_path, {"a": ""})
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        build(path)


def remove_labels(folder: Path) -> None:
    (folder / "labels/train/a.txt").unlink()


def break_photo(folder: Path) -> None:
    (folder / "images/train/a.jpg").write_bytes(b"none")


def add_twin(folder: Path) -> None:
    save_photo(folder / "images/train/a.png", (9, 9))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove_labels, r"none of the 1 photo of 'train' has a label file \(the first would be .*a\.txt\)"),
        (break_photo, "1 of 1 photos cannot be read, so their size is unknown"),
        (add_twin, r"a\.txt belongs to two photos"),
    ],
)
def test_labels_and_photos_that_do_not_fit_are_refused(
    tmp_path: Path, change: Callable[[Path], None], message: str
) -> None:
    path = write_yolo(tmp_path, {"a": "0 0.5 0.5 0.5 0.5"})
    change(tmp_path)
    with pytest.raises(UserError, match=message):
        build(path)


@pytest.mark.parametrize(("place", "labels"), [("images/train", "labels/train"), ("images", "labels")])
def test_a_data_yaml_without_folders_means_the_usual_ones(tmp_path: Path, place: str, labels: str) -> None:
    save_photo(tmp_path / place / "a.jpg", (100, 80))
    (tmp_path / labels).mkdir(parents=True)
    (tmp_path / labels / "a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    path = tmp_path / "data.yaml"
    path.write_text("nc: 1\nnames: [cat]\n")
    report = build(path)
    assert (report.images, report.boxes) == (1, 1)
    assert f"data.yaml: the photos of 'train' were read, from {place} (it names no folder)" in report.lines()
    with pytest.raises(UserError, match=r"has no entry 'val', expected a folder there \(it has none\)"):
        build(path, "val")


def test_a_missing_data_yaml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.yaml cannot be read \(No such file"):
        read_yolo(tmp_path / "data.yaml", *[None, None])  # type: ignore[arg-type]


@settings(deadline=None, max_examples=40)
@given(text=st.text(alphabet="01.5 -en\n\té", max_size=40))
def test_any_label_file_is_read_or_refused_in_one_sentence(text: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = write_yolo(Path(name), {"a": text})
        try:
            report = build(path)
        except UserError as fault:
            refused = str(fault)
        else:
            refused = ""
            assert report.annotations == sum(bool(line.split()) for line in text.splitlines())
        assert "\n" not in refused
