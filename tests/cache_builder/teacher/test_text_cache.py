"""Text embeddings kept for the next time: found again, never wrong, never in the way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from cckt.cache_builder.teacher import text_cache
from cckt.cache_builder.teacher.clip import Teacher, load_teacher
from cckt.cache_builder.teacher.guide import TeacherGuide
from cckt.cache_builder.teacher.text_cache import TextCache, key_of, user_cache
from cckt.cache_builder.vocabulary import Vocabulary
from tests.cache_builder.samples import write_teacher


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    return load_teacher(write_teacher(tmp_path_factory.mktemp("teacher")))


def rows(count: int) -> np.ndarray:
    return np.random.default_rng(count).normal(size=(count, 4)).astype(np.float32)


def test_an_absent_cache_is_empty(tmp_path: Path) -> None:
    assert TextCache(tmp_path / "none", {}).read() == {}


def test_rows_are_found_again_and_only_for_the_same_recipe(tmp_path: Path) -> None:
    TextCache(tmp_path, {"a": 1}).add(["x", "y"], rows(2))
    TextCache(tmp_path, {"a": 1}).add(["z"], rows(1))
    known = TextCache(tmp_path, {"a": 1}).read()
    assert list(known) == ["x", "y", "z"]
    np.testing.assert_array_equal(np.stack([known["x"], known["y"]]), rows(2))
    assert TextCache(tmp_path, {"a": 2}).read() == {}


def test_the_oldest_rows_are_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_cache, "MOST", 2)
    TextCache(tmp_path, {}).add(["x", "y"], rows(2))
    TextCache(tmp_path, {}).add(["z"], rows(1))
    assert list(TextCache(tmp_path, {}).read()) == ["y", "z"]


def test_damaged_and_foreign_files_are_ignored_and_replaced(tmp_path: Path) -> None:
    cache = TextCache(tmp_path, {})
    cache.add(["x"], rows(1))
    good = cache.path.read_bytes()
    for damaged in (b"", b"no table", good[:40], good[:-3]):
        cache.path.write_bytes(damaged)
        assert cache.read() == {}
    recipe = {"recipe": cache._digest}
    save_file({"rows": rows(2)}, cache.path, recipe | {"keys": '["only one"]'})
    assert cache.read() == {}
    save_file({"rows": rows(1) * np.float32("nan")}, cache.path, recipe | {"keys": '["x"]'})
    assert cache.read() == {}
    save_file({"rows": rows(1)}, cache.path, {"recipe": "sha256:other", "keys": '["x"]'})
    assert cache.read() == {}
    cache.add(["x"], rows(1))
    assert list(cache.read()) == ["x"]


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    TextCache(tmp_path / "file", {}).add(["x"], rows(1))


def test_a_guide_embeds_a_concept_once(
    teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = Vocabulary.free("cat, tv|television, dog")
    first = TeacherGuide(teacher, cache=tmp_path).text(words)
    np.testing.assert_allclose(first, TeacherGuide(teacher).text(words), atol=2e-6)
    calls: list[int] = []
    encode = teacher.encode_texts_quickly
    monkeypatch.setattr(
        teacher, "encode_texts_quickly", lambda texts: (calls.append(len(texts)), encode(texts))[1]
    )
    guide = TeacherGuide(teacher, cache=tmp_path)
    np.testing.assert_array_equal(guide.text(words), first)
    assert not sum(calls), "no sentence is embedded again"
    more = guide.text(Vocabulary.free("dog, bird, cat, tv"))
    assert sum(calls) == 2 * 12, "bird, and tv without its synonym"
    np.testing.assert_array_equal(more[[0, 2]], first[[2, 0]])
    assert guide.text(Vocabulary([])).shape == (0, teacher.width)


def test_templates_and_the_text_itself_decide_what_is_the_same(teacher: Teacher, tmp_path: Path) -> None:
    words = Vocabulary.free("cat")
    many = TeacherGuide(teacher, cache=tmp_path).text(words)
    one = TeacherGuide(teacher, {"templates": {"patterns": ["a {}."]}}, cache=tmp_path).text(words)
    assert not np.allclose(many, one)
    assert len(list(tmp_path.iterdir())) == 2
    assert key_of(["a", "b"]) != key_of(["a, b"])


def test_the_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CCKT_CACHE", str(tmp_path))
    assert user_cache() == tmp_path
    monkeypatch.setenv("CCKT_CACHE", "off")
    assert user_cache() is None
    monkeypatch.delenv("CCKT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert user_cache() == tmp_path / "xdg" / "cckt"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_cache() == tmp_path / ".cache" / "cckt"
