"""A teacher as the guide of a detector: text embeddings and priors without a cache."""

from __future__ import annotations

import json
from dataclasses import replace
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
from cckt.cache_builder.teacher.prompts import unit_rows
from cckt.cache_builder.vocabulary import Vocabulary
from tests.cache_builder.samples import WIDTH, write_photos, write_teacher


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    return load_teacher(write_teacher(tmp_path_factory.mktemp("teacher")))


def test_no_images_give_no_priors(teacher: Teacher) -> None:
    guide = TeacherGuide(teacher)
    assert guide.presence([], guide.text(Vocabulary.free("cat, dog"))).shape == (0, 2)
    assert (guide.name, guide.weight_digest) == (teacher.name, teacher.weight_digest)


def test_text_and_priors_equal_those_of_the_columns(teacher: Teacher, tmp_path: Path) -> None:
    data = write_photos(tmp_path)
    cache_text(data, teacher, templates="single")
    cache_images(data, teacher)
    cache_clip_priors(data)
    index = open_index(data)
    guide = TeacherGuide(teacher, column_info(data, "text").manifest.spec.recipe)
    text = guide.text(index.concepts)
    assert np.allclose(text, open_column(data, "text").all(), atol=1e-5), "the recorded templates are used"
    photos = [load_row(index, row) for row in range(len(index))]
    priors = guide.presence(photos, text)
    assert priors.dtype == np.float32
    assert np.allclose(priors, open_column(data, "priors/clip").all(), atol=2e-3), (
        "images are stored in float16"
    )


@pytest.mark.parametrize("synonyms", [False, True])
def test_synonyms_of_a_data_set_are_embedded_as_in_the_text_column(
    teacher: Teacher, tmp_path: Path, synonyms: bool
) -> None:
    data = write_photos(tmp_path)
    concepts = [
        replace(concept, synonyms=(f"{concept.name} thing",)) for concept in open_index(data).concepts
    ]
    card = json.loads((data / "index" / "index.json").read_text())
    card["concepts"] = Vocabulary(concepts).to_json()
    del card["card_digest"], card["files"]  # as an earlier version wrote it
    (data / "index" / "index.json").write_text(json.dumps(card))
    cache_text(data, teacher, templates="single", synonyms=synonyms)
    index, column = open_index(data), open_column(data, "text")
    assert index.concepts[0].synonyms
    guide = TeacherGuide(teacher, column.manifest.spec.recipe)
    assert np.allclose(guide.text(index.concepts), column.all(), atol=1e-5)
    other = TeacherGuide(teacher, column.manifest.spec.recipe | {"synonyms": not synonyms})
    assert not np.allclose(other.text(index.concepts), column.all(), atol=1e-3)


@pytest.mark.parametrize("recipe", [{"synonyms": False}, {"synonyms": True}, None])
def test_typed_synonyms_are_averaged_whatever_the_recipe(
    teacher: Teacher, recipe: dict[str, bool] | None
) -> None:
    guide = TeacherGuide(teacher, recipe)
    typed = guide.text(Vocabulary.free("tv|television"))
    assert not np.allclose(typed, guide.text(Vocabulary.free("tv")), atol=1e-3)
    average = unit_rows(guide.text(Vocabulary.free("tv")) + guide.text(Vocabulary.free("television")))
    assert np.allclose(typed, average, atol=0.05)


def test_priors_use_the_tau_of_the_column_if_it_is_known(teacher: Teacher, tmp_path: Path) -> None:
    data = write_photos(tmp_path)
    cache_text(data, teacher, templates="single")
    cache_images(data, teacher)
    cache_clip_priors(data, tau=0.5)
    index, column = open_index(data), open_column(data, "priors/clip")
    recipe = column_info(data, "text").manifest.spec.recipe
    photos = [load_row(index, row) for row in range(len(index))]
    known = TeacherGuide(teacher, recipe, tau=column.manifest.spec.recipe["tau"])
    unknown = TeacherGuide(teacher, recipe)
    text = known.text(index.concepts)
    assert np.allclose(known.presence(photos, text), column.all(), atol=2e-3)
    assert not np.allclose(unknown.presence(photos, text), column.all(), atol=2e-2)
    cache_clip_priors(data, overwrite=True)
    assert np.allclose(unknown.presence(photos, text), open_column(data, "priors/clip").all(), atol=2e-3)


def test_typed_synonyms_are_averaged_and_an_imported_table_uses_the_default_templates(
    teacher: Teacher,
) -> None:
    plain, imported = (
        TeacherGuide(teacher),
        TeacherGuide(teacher, {"teacher": None, "import": {"file": "t.npy"}}),
    )
    words = Vocabulary.free("tv|television")
    assert np.array_equal(plain.text(words), imported.text(words))
    assert not np.allclose(plain.text(words), plain.text(Vocabulary.free("tv")))
    assert plain.text(words).shape == (1, WIDTH)


def test_priors_equal_a_direct_computation(teacher: Teacher) -> None:
    guide = TeacherGuide(teacher, tau=0.5)
    photo = Image.effect_noise((50, 40), 90).convert("RGB")
    text = guide.text(Vocabulary.free("cat, dog, tree"))
    direct = teacher.encode_images(teacher.preprocess(photo)[None])
    expected = 1 / (1 + np.exp(-(direct @ text.T) / 0.5))
    assert np.allclose(guide.presence([photo], text), expected, atol=1e-5)
