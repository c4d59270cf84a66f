"""A teacher beside a detector: words and guesses for photos that no cache knows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cckt.cache_builder.columns.clip_priors import cache_clip_priors
from cckt.cache_builder.columns.images import cache_images
from cckt.cache_builder.columns.text import cache_text
from cckt.cache_builder.index import open_index
from cckt.cache_builder.photos import load_row
from cckt.cache_builder.store import column_info, open_column
from cckt.cache_builder.teacher.clip import Teacher, load_teacher
from cckt.cache_builder.teacher.guide import TeacherGuide
from cckt.cache_builder.vocabulary import Vocabulary
from tests.cache_builder.samples import WIDTH, write_photos, write_teacher


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    return load_teacher(write_teacher(tmp_path_factory.mktemp("teacher")))


def test_no_photo_has_no_guess(teacher: Teacher) -> None:
    guide = TeacherGuide(teacher)
    assert guide.presence([], guide.text(Vocabulary.free("cat, dog"))).shape == (0, 2)
    assert (guide.name, guide.weight_digest) == (teacher.name, teacher.weight_digest)


def test_it_says_of_a_data_set_what_its_columns_say(teacher: Teacher, tmp_path: Path) -> None:
    data = write_photos(tmp_path)
    cache_text(data, teacher, templates="single")
    cache_images(data, teacher)
    cache_clip_priors(data)
    index = open_index(data)
    guide = TeacherGuide(teacher, column_info(data, "text").manifest.spec.recipe)
    text = guide.text(index.concepts)
    assert np.allclose(text, open_column(data, "text").all(), atol=1e-5), "the recorded templates are taken"
    photos = [load_row(index, row) for row in range(len(index))]
    said = guide.presence(photos, text)
    assert said.dtype == np.float32
    assert np.allclose(said, open_column(data, "priors/clip").all(), atol=2e-3), (
        "images are stored in float16"
    )


def test_synonyms_count_and_an_imported_table_leaves_the_default_templates(teacher: Teacher) -> None:
    plain, imported = (
        TeacherGuide(teacher),
        TeacherGuide(teacher, {"teacher": None, "import": {"file": "t.npy"}}),
    )
    words = Vocabulary.free("tv|television")
    assert np.array_equal(plain.text(words), imported.text(words))
    assert not np.allclose(plain.text(words), plain.text(Vocabulary.free("tv")))
    assert plain.text(words).shape == (1, WIDTH)


def test_a_photo_is_seen_as_the_teacher_sees_it(teacher: Teacher) -> None:
    guide = TeacherGuide(teacher, tau=0.5)
    photo = Image.effect_noise((50, 40), 90).convert("RGB")
    text = guide.text(Vocabulary.free("cat, dog, tree"))
    direct = teacher.encode_images(teacher.preprocess(photo)[None])
    expected = 1 / (1 + np.exp(-(direct @ text.T) / 0.5))
    assert np.allclose(guide.presence([photo], text), expected, atol=1e-5)
