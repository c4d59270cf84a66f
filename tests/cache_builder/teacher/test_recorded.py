"""A teacher that a run or a column names is loaded only if it is the user's own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.teacher import recorded
from cckt.cache_builder.teacher.recorded import foreign_teacher, require_own_teacher


@pytest.fixture(autouse=True)
def empty_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the hub with one repository, somebody/clip."""
    cache = tmp_path / "hub"
    snapshot = cache / "models--somebody--clip" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "open_clip_config.json").write_text("{}")
    refs = cache / "models--somebody--clip" / "refs"
    refs.mkdir()
    (refs / "main").write_text("abc")
    known = recorded.try_to_load_from_cache
    monkeypatch.setattr(
        recorded, "try_to_load_from_cache", lambda name, file: known(name, file, cache_dir=cache)
    )
    return cache


def test_what_the_user_has_is_own(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(b"")
    for name in (
        "shapeworld",
        "ViT-B-32/laion2b_s34b_b79k",
        "ViT-B-32/random:0",
        "hf-hub:somebody/clip",
        f"local-dir:{tmp_path}",
        f"ViT-B-32/{tmp_path / 'weights.safetensors'}",
        "local-dir:/usr",
    ):
        assert foreign_teacher(name) == "", name
        require_own_teacher(name, "runs/theirs")


@pytest.mark.parametrize("name", ["hf-hub:", "hf-hub:a b/c", "local-dir:/no/such", "local-dir:\0", "x/\0"])
def test_names_of_nothing_are_left_to_the_loader(name: str) -> None:
    assert foreign_teacher(name) == ""


def test_a_repository_that_was_never_used_is_asked_for() -> None:
    with pytest.raises(UserError, match="with the teacher hf-hub:stranger/clip, a repository"):
        require_own_teacher("hf-hub:stranger/clip", "runs/theirs")


def test_files_of_another_user_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights.safetensors").write_bytes(b"")
    owner = tmp_path.stat().st_uid
    if owner == 0:
        for path in (tmp_path, tmp_path / "weights.safetensors"):
            os.chown(path, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(UserError, match=r"a folder of another user; add --teacher local-dir:.* if you trust"):
        require_own_teacher(f"local-dir:{tmp_path}", "runs/theirs")
    with pytest.raises(UserError, match="a file of another user"):
        require_own_teacher(f"ViT-B-32/{tmp_path / 'weights.safetensors'}", "runs/theirs")
