"""Mirrored and jittered crops, several teachers, one pass."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cckt.cache_builder.base.constants import PROMPT
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.columns.all_at_once import cache_all, cache_photos
from cckt.cache_builder.columns.crops import cache_crops, crop_rectangles
from cckt.cache_builder.columns.recompute import verify_data
from cckt.cache_builder.columns.teachers import label_teachers
from cckt.cache_builder.columns.views import SCALE, SHIFT, jittered_boxes, usable_boxes, view_names
from cckt.cache_builder.index import open_index
from cckt.cache_builder.runner import ExactPart
from cckt.cache_builder.store import ColumnName, check_label, list_columns, open_column, parse_name
from cckt.cache_builder.store.kinds import repair_command
from cckt.cache_builder.teacher.clip import Teacher, load_teacher
from tests.cache_builder.samples import write_photos, write_teacher


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> list[Teacher]:
    folder = tmp_path_factory.mktemp("teachers")
    return [load_teacher(write_teacher(folder / f"t{seed}", seed), device="cpu") for seed in (0, 1)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "set")


def column_bytes(data: Path) -> dict[str, bytes]:
    files = (path for path in sorted(data.rglob("*")) if path.is_file() and "index" not in path.parts)
    return {str(path.relative_to(data)): path.read_bytes() for path in files}


def test_names_have_a_kind_a_label_and_a_view() -> None:
    for name, expected in {
        "crops": ("crops", "", ""),
        "crops-flipped": ("crops", "", "flipped"),
        "crops-jitter-12": ("crops", "", "jitter-12"),
        "crops-vitl14": ("crops", "vitl14", ""),
        "crops-vitl14-jitter-1": ("crops", "vitl14", "jitter-1"),
        "priors/clip-vitl14": ("priors/clip", "vitl14", ""),
    }.items():
        found = parse_name(name)
        assert found is not None
        assert (found.kind, found.label, found.view) == expected
        assert str(found) == name
    assert parse_name("notes") is None
    assert parse_name("crops-two-words") is None
    command = repair_command("set", "crops-vitl14-jitter-3", {"teacher": {"name": "big"}, "fast": {}})
    assert command == "cckt cache crops set --name vitl14 --jitter 3 --teacher big --fast"
    assert repair_command("set", "priors/clip-vitl14") == "cckt cache priors set --name vitl14"


def test_the_command_of_mllm_priors_names_the_model_and_the_prompt() -> None:
    assert repair_command("set", "priors/mllm") == "cckt cache priors set --mllm"
    model = {"name": "some model", "dtype": "fp32"}
    plain = {"model": model, "backend": "transformers", "prompt": PROMPT, "prefilter": None}
    command = repair_command("set", "priors/mllm", plain)
    assert command == "cckt cache priors set --mllm --mllm-model 'some model'"
    other = {"model": model | {"dtype": "bf16"}, "prompt": "{concept}?"}
    other |= {"prefilter": {"keep": 9}, "calibrated_on": "sha256:1"}
    assert repair_command("set", "priors/mllm", other) == (
        "cckt cache priors set --mllm --mllm-model 'some model' --mllm-prompt '{concept}?' "
        "--precision bf16 --prefilter clip:9 --calibrate TRAINING_DATA"
    )


@pytest.mark.parametrize("label", ["ViT", "a-b", "flipped", "jitter", "a/b", "a "])
def test_ambiguous_labels_are_refused(label: str) -> None:
    with pytest.raises(UserError, match=r"--name .* cannot be used"):
        check_label(label)


def test_labels_of_teachers() -> None:
    assert label_teachers(["a/b"]) == [""]
    assert label_teachers(["a/b"], ["x"]) == ["x"]
    assert label_teachers(["ViT-B-32/openai", "ViT-L-14/openai"]) == ["", "vitl14"]
    assert label_teachers(["a/b", "local-dir:/some/Folder/"]) == ["", "folder"]
    assert label_teachers(["a/b", "c/d"], ["x"]) == ["", "x"]
    assert label_teachers(["a/b", "c/d"], ["x", "y"]) == ["x", "y"]
    with pytest.raises(UserError, match="--name was given 1 times for 3 teachers"):
        label_teachers(["a/b", "c/d", "e/f"], ["x"])
    with pytest.raises(UserError, match=r"both make the columns 'vitl14'; give them names with --name"):
        label_teachers(["a/b", "ViT-L-14/openai", "ViT-L-14/laion2b_s32b_b82k"])
    with pytest.raises(UserError, match="no teacher is named"):
        label_teachers([])


def test_a_mirrored_crop_is_the_crop_of_the_mirrored_photo(data: Path, teachers: list[Teacher]) -> None:
    report = cache_crops(data, teachers[0], view="flipped")
    assert report.name == "crops-flipped"
    index, column = open_index(data), open_column(data, "crops-flipped")
    np.testing.assert_array_equal(column.valid_all(), usable_boxes(index))
    for row in np.flatnonzero(usable_boxes(index)).tolist():
        photo = Image.open(index.photo_path(int(index.box_images[row]))).convert("RGB")
        ((left, top, right, bottom),) = crop_rectangles(index.box_xyxy[row : row + 1], photo.size).tolist()
        mirrored = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        crop = mirrored.crop((photo.width - right, top, photo.width - left, bottom))
        expected = teachers[0].encode_images(teachers[0].preprocess.pixels(crop)[None])[0]
        assert column.take([row])[0].astype(np.float64) @ expected >= 0.9995


def test_jittered_boxes_stay_near_and_inside(data: Path) -> None:
    index = open_index(data)
    assert jittered_boxes(index, np.arange(0), 1).shape == (0, 4)
    rows = np.flatnonzero(usable_boxes(index))
    one, again, two = (jittered_boxes(index, rows, number) for number in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert (one != two).any(axis=1).all()
    np.testing.assert_array_equal(jittered_boxes(index, rows[3:5], 1), one[3:5])
    negative = replace(index, annotation_ids=-np.asarray(index.annotation_ids))
    assert (jittered_boxes(negative, rows, 1) != one).any(axis=1).all(), "negative ids have numbers too"
    sides, own = index.box_xyxy[rows, 2:] - index.box_xyxy[rows, :2], one[:, 2:] - one[:, :2]
    assert (own <= sides * SCALE + 1e-9).all()
    reach = (SHIFT + (SCALE - 1) / 2) * sides
    assert (np.abs(one - index.box_xyxy[rows]) <= np.tile(reach, 2) + 1e-9).all()
    extent = np.stack([index.widths, index.heights], 1)[index.box_images[rows]]
    assert (one >= 0).all()
    assert (one[:, 2:] <= extent).all()
    assert (own > 1).all()


def test_a_number_of_jittered_views_out_of_range_is_refused() -> None:
    assert [str(name) for name in view_names("", True, 2)] == [
        "crops",
        "crops-flipped",
        "crops-jitter-1",
        "crops-jitter-2",
    ]
    with pytest.raises(UserError, match="--jitter is -1; give 0"):
        view_names(jitter=-1)


def test_one_pass_for_views_and_teachers_equals_one_verb_each(data: Path, teachers: list[Teacher]) -> None:
    reports = cache_photos(
        data, teachers, name="two", flipped=True, jitter=1, batch=4, workers=2, chunk_rows=7
    )
    names = [report.name for report in reports]
    assert names == [
        *("crops", "crops-flipped", "crops-jitter-1", "images"),
        *("crops-two", "crops-two-flipped", "crops-two-jitter-1", "images-two"),
    ]
    together = column_bytes(data)
    for name in list_columns(data):
        shutil.rmtree(data / name)
    for label, teacher in zip(("", "two"), teachers, strict=True):
        for view in ("", "flipped", "jitter-1"):
            cache_crops(data, teacher, name=label, view=view, batch=4, chunk_rows=7)
    cache_photos(data, teachers, name=["", "two"], kinds=["images"], batch=4, chunk_rows=7)
    assert column_bytes(data) == together


def test_all_columns_of_two_teachers_are_verified(data: Path, teachers: list[Teacher]) -> None:
    reports = cache_all(data, teachers, name="two", templates="single", flipped=True)
    assert [report.name for report in reports][-2:] == ["priors/clip", "priors/clip-two"]
    found = list(verify_data(data, sample=5))
    assert sorted(report.name for report in found) == sorted(report.name for report in reports)
    assert all(report.ok for report in found), [report.problems for report in found]
    assert all(report.agreement for report in found)
    one, two = (open_column(data, name).all() for name in ("crops", "crops-two"))
    assert (one != two).any()


def test_the_column_of_a_view_names_it_in_its_recipe(data: Path, teachers: list[Teacher]) -> None:
    digests = set()
    for column in view_names("", True, 2):
        manifest = cache_crops(data, teachers[0], view=column.view).manifest
        assert manifest is not None
        digests.add(manifest.spec.recipe_digest)
        assert ("view" in manifest.spec.recipe) == bool(column.view)
    assert len(digests) == 4
    assert ColumnName("crops", view="jitter-2").jitter == 2


def test_rows_of_a_repaired_photo_are_made_again(data: Path, teachers: list[Teacher]) -> None:
    photo = data.parent / "photos" / "003.png"
    kept = photo.read_bytes()
    photo.write_text("not a photo")
    before = cache_crops(data, teachers[0], chunk_rows=5)
    assert all(report.ok for report in verify_data(data, ["crops"], sample=0, repair=True)), "still bad"
    photo.write_bytes(kept)
    (report,) = verify_data(data, ["crops"], sample=0, repair=True)
    assert {problem.kind for problem in report.problems} == {"recoverable"}
    assert "row 12 has no value, but can have one now: 003.png is not an image" in report.problems[0].message
    after = cache_crops(data, teachers[0], chunk_rows=5)
    assert after.made_chunks == len(report.repaired) == 2
    assert after.invalid == before.invalid - 5 == 2


def test_overwrite_makes_a_finished_column_again_and_resumes_an_unfinished_one(
    data: Path, teachers: list[Teacher]
) -> None:
    made = cache_crops(data, teachers[0], chunk_rows=5)
    before = column_bytes(data)
    again = cache_crops(data, teachers[0], chunk_rows=5, overwrite=True)
    assert (again.made_chunks, again.skipped_chunks) == (made.made_chunks, 0)
    assert column_bytes(data) == before
    shutil.rmtree(data / "crops")
    cache_crops(data, teachers[0], chunk_rows=5, part=ExactPart((0, 2)))
    rest = cache_crops(data, teachers[0], chunk_rows=5, overwrite=True)
    assert rest.skipped_chunks > 0
    assert column_bytes(data) == before
