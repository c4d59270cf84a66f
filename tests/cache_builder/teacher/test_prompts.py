"""Templates and ensembles (docs/method/cckt_det.md, eq. 1)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.teacher.prompts import embed_concepts, resolve_templates, spoken, unit_rows, wordings
from cckt.cache_builder.vocabulary import Concept

TWELVE = """
 itap of a {}. | a bad photo of the {}. | a origami {}. | a photo of the large {}. | a {} in a video game.
 | art of the {}. | a photo of the small {}. | a cropped photo of a {}. | a photo of a {} in the scene.
 | a photo of many {}. | a blurry photo of a {}. | a photo of a {}."""


def vector_of(sentence: str) -> np.ndarray:
    """A unit vector that follows from the sentence."""
    vector = np.random.default_rng(list(sentence.encode())).normal(size=8)
    return vector / np.linalg.norm(vector)


def encode(sentences: list[str]) -> np.ndarray:
    return np.array([vector_of(s) for s in sentences], np.float32).reshape(len(sentences), 8)


def test_no_concepts_give_no_rows() -> None:
    assert embed_concepts([], resolve_templates("single"), encode).shape == (0, 8)


def test_the_default_templates_are_those_of_the_method() -> None:
    twelve = resolve_templates("ensemble12")
    assert list(twelve.patterns) == [" ".join(p.split()) for p in TWELVE.split("|")]
    assert twelve.name == "ensemble12"


def test_single_and_imagenet80_are_known() -> None:
    assert resolve_templates("single").patterns == ("a photo of a {}.",)
    eighty = resolve_templates("imagenet80").patterns
    assert len(set(eighty)) == 80
    assert eighty[0] == "a bad photo of a {}."
    assert all(pattern.count("{}") == 1 for pattern in eighty)


def test_the_digest_follows_the_patterns_in_order() -> None:
    lists = [["a {}"], ["a {}", "b {}"], ["b {}", "a {}"]]
    assert len({resolve_templates(patterns).digest for patterns in lists}) == 3
    assert resolve_templates(["a photo of a {}."]).digest == resolve_templates("single").digest


def test_templates_come_from_a_file_or_a_list(tmp_path: Path) -> None:
    lines, listed = tmp_path / "t.txt", tmp_path / "t.json"
    lines.write_text("a {}.\n\n  the {}.  \n", encoding="utf-8")
    listed.write_text(json.dumps(["a {}.", "the {}."]), encoding="utf-8")
    for templates in (lines, str(lines), listed, ["a {}.", "the {}."], ("a {}.", "the {}.")):
        resolved = resolve_templates(templates)
        assert (resolved.name, resolved.patterns) == ("own", ("a {}.", "the {}."))
    assert resolved.fill("tv {x}") == ["a tv {x}.", "the tv {x}."]


def test_invalid_templates_are_refused(tmp_path: Path) -> None:
    broken, empty, binary = tmp_path / "b.json", tmp_path / "e.txt", tmp_path / "x.txt"
    broken.write_text("[1,")
    empty.write_text("\n\n")
    binary.write_bytes(b"\xff\xfe\xfa")
    for templates, words in (
        ("ensemble13", "is neither one of single, ensemble12, imagenet80 nor a file"),
        (broken, "cannot be read as templates"),
        (binary, "cannot be read as templates"),
        (empty, "holds no template"),
        ([], "holds no template"),
        (["a photo"], "each must hold {} exactly once"),
        (["{} and {}"], "each must hold {} exactly once"),
        ([3], "each must hold {} exactly once"),
    ):
        with pytest.raises(UserError) as caught:
            resolve_templates(templates)
        assert words in str(caught.value)


def test_names_are_written_with_spaces() -> None:
    assert spoken("aerosol_can") == "aerosol can"
    assert spoken("bow_(weapon)") == "bow (weapon)"
    assert spoken("  hot   dog ") == "hot dog"


def test_wordings_are_the_name_or_each_synonym_once() -> None:
    concept = Concept(1, "spray_can", ("spray can", "aerosol_can"))
    assert wordings(concept) == ["spray can"]
    assert wordings(concept, synonyms=True) == ["spray can", "aerosol can"]


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.text("abc_", min_size=1, max_size=5).filter(str.strip), min_size=1, max_size=4),
    st.lists(st.text("xyz ", max_size=5).map(lambda s: s + "{}"), min_size=1, max_size=4),
    st.booleans(),
)
def test_the_ensemble_is_the_unit_mean_of_unit_sentences(
    names: list[str], patterns: list[str], synonyms: bool
) -> None:
    concepts = [Concept(k, name, (f"{name}_too",) * (k % 2)) for k, name in enumerate(names)]
    ours = embed_concepts(concepts, resolve_templates(patterns), encode, synonyms=synonyms)
    assert ours.dtype == np.float32
    for concept, row in zip(concepts, ours, strict=True):
        total = np.zeros(8)
        for words in wordings(concept, synonyms):
            for pattern in patterns:
                total += vector_of(pattern.replace("{}", words))
        np.testing.assert_allclose(row, total / np.linalg.norm(total), atol=2e-6)
    backwards = embed_concepts(concepts, resolve_templates(patterns[::-1]), encode, synonyms=synonyms)
    np.testing.assert_allclose(ours, backwards, atol=1e-6)


def test_rows_of_any_scale_become_unit() -> None:
    rows = unit_rows(np.array([[3.0, 4.0], [1e-30, 0.0], [6e4, 6e4]]))
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    with pytest.raises(AssertionError, match="expected no row of zeros"):
        unit_rows(np.zeros((1, 2)))
