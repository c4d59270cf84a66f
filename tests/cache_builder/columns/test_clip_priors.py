"""CLIP priors: one formula, two columns, one teacher."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.columns.clip_priors import cache_clip_priors
from cckt.cache_builder.columns.images import cache_images
from cckt.cache_builder.columns.text import cache_text
from cckt.cache_builder.index import open_index
from cckt.cache_builder.presence import clip_probability, oracle_presence
from cckt.cache_builder.store import open_column
from cckt.cache_builder.teacher.clip import Teacher, load_teacher
from tests.cache_builder.samples import WIDTH, write_photos, write_teacher


@pytest.fixture
def data(tmp_path: Path, teacher: Teacher) -> Path:
    data = write_photos(tmp_path / "set", photos=5)
    (tmp_path / "set" / "photos" / "001.png").unlink()
    cache_text(data, teacher, templates="single")
    cache_images(data, teacher)
    return data


def test_priors_of_no_photos_or_no_concepts_are_empty() -> None:
    assert clip_probability(np.zeros((0, 3)), np.zeros((4, 3))).shape == (0, 4)
    assert clip_probability(np.zeros((2, 3)), np.zeros((0, 3))).shape == (2, 0)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31), st.sampled_from([0.07, 0.01, 1.0]))
def test_the_formula_equals_a_calculation_by_hand(seed: int, tau: float) -> None:
    rng = np.random.default_rng(seed)
    images, text = rng.normal(size=(3, 5)), rng.normal(size=(2, 5))
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    ours = clip_probability(images, text, tau)
    assert ours.dtype == np.float32
    for i in range(3):
        for c in range(2):
            cosine = sum(a * b for a, b in zip(images[i], text[c], strict=True))
            assert ours[i, c] == pytest.approx(1 / (1 + math.exp(-cosine / tau)), abs=1e-5)


def test_the_column_is_the_formula_over_two_columns(data: Path) -> None:
    report = cache_clip_priors(data, chunk_rows=2)
    index = open_index(data)
    images, text = open_column(data, "images"), open_column(data, "text")
    column = open_column(data, "priors/clip", index_digest=index.digest)
    np.testing.assert_array_equal(column.valid_all(), [True, False, True, True, True])
    expected = clip_probability(images.all(), text.all())
    expected[1] = 0
    np.testing.assert_allclose(column.all(), expected, atol=1e-6)
    assert column.dtype == np.float32
    assert report.notes[1:] == ["001.png has no embedding"]
    assert report.manifest is not None
    recipe = report.manifest.spec.recipe
    assert recipe["from"] == {"images": images.manifest.digest, "text": text.manifest.digest}
    assert recipe["tau"] == 0.07
    assert recipe["teacher"]["weight_digest"].startswith("sha256:")
    assert cache_clip_priors(data, chunk_rows=2).skipped_chunks == 3


def test_new_text_makes_new_priors(data: Path, teacher: Teacher) -> None:
    cache_clip_priors(data)
    cache_text(data, teacher, templates=["the {}"], overwrite=True)
    with pytest.raises(UserError, match="holds a column of another recipe"):
        cache_clip_priors(data)


def test_columns_of_two_teachers_are_refused(data: Path, teacher: Teacher, tmp_path: Path) -> None:
    other = load_teacher(write_teacher(tmp_path / "other", seed=1), device="cpu")
    cache_text(data, other, templates="single", overwrite=True)
    with pytest.raises(UserError) as caught:
        cache_clip_priors(data)
    for word in (teacher.weight_digest, other.weight_digest, "make both with one teacher"):
        assert word in str(caught.value)


def test_columns_of_two_architectures_are_refused(data: Path, teacher: Teacher, tmp_path: Path) -> None:
    gelu = load_teacher(write_teacher(tmp_path / "gelu", quick_gelu=True), device="cpu")
    assert gelu.weight_digest == teacher.weight_digest
    cache_text(data, gelu, templates="single", overwrite=True)
    with pytest.raises(UserError, match=r"the same weights .* in different architectures"):
        cache_clip_priors(data)


def test_the_same_weights_in_another_folder_are_the_same_teacher(data: Path, tmp_path: Path) -> None:
    twin = load_teacher(write_teacher(tmp_path / "twin"), device="cpu")
    cache_text(data, twin, templates="single", overwrite=True)
    assert cache_clip_priors(data).rows == 5


def test_imported_text_needs_the_name_of_its_teacher(data: Path, teacher: Teacher, tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", np.random.default_rng(0).normal(size=(4, WIDTH)))
    cache_text(data, import_file=tmp_path / "t.npy", overwrite=True)
    with pytest.raises(UserError, match="column text was imported without the name of its teacher"):
        cache_clip_priors(data)
    cache_text(data, teacher, import_file=tmp_path / "t.npy", overwrite=True)
    assert cache_clip_priors(data).rows == 5


def test_missing_columns_and_invalid_temperatures_are_refused(data: Path, tmp_path: Path) -> None:
    for tau in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(UserError, match="--tau is"):
            cache_clip_priors(data, tau=tau)
    bare = write_photos(tmp_path / "bare", photos=1)
    with pytest.raises(UserError, match="There is no column images"):
        cache_clip_priors(bare)


def test_oracle_presence_equals_the_annotations(tmp_path: Path) -> None:
    index = open_index(write_photos(tmp_path / "set", photos=4))
    presence = oracle_presence(index)
    assert presence.shape == (4, 4)
    expected = {(int(i), int(c)) for i, c in zip(index.box_images, index.box_concepts, strict=True)}
    assert {(int(i), int(c)) for i, c in np.argwhere(presence)} == expected
    assert not presence[2].any()
