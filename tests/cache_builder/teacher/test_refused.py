"""Teachers that cannot be loaded: each is one sentence."""

from __future__ import annotations

import json
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from cckt.cache_builder.base import hub as fetching
from cckt.cache_builder.teacher import clip as room
from cckt.cache_builder.teacher.clip import load_teacher
from tests.cache_builder.samples import tiny_config, write_teacher
from tests.cache_builder.teacher.test_clip import message


def test_the_shapeworld_teacher_is_found_as_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_teacher(tmp_path / "teacher", seed=5)
    spec = ModuleSpec("cckt.shapeworld", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    found = {"cckt.shapeworld": spec}
    monkeypatch.setattr(room.importlib.util, "find_spec", found.get)
    teacher = load_teacher("shapeworld", device="cpu")
    assert teacher.recipe()["name"] == "shapeworld"
    assert teacher.weight_digest == load_teacher(f"local-dir:{tmp_path}/teacher", device="cpu").weight_digest
    (tmp_path / "teacher" / "open_clip_config.json").unlink()
    assert "not installed with this package" in message("shapeworld")
    monkeypatch.setattr(room.importlib.util, "find_spec", lambda name: None)
    assert "not installed with this package" in message("shapeworld")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("vit-b32/openai", ["not known to open_clip", "ViT-B-32/openai", "local-dir:PATH"]),
        ("ViT-B-32", ["not known to open_clip", "ViT-B-32/openai"]),
        ("ViT-B-32/", ["not known to open_clip", "ViT-B-32/openai"]),
        ("qqqqqqqq", ["not known to open_clip", "list_pretrained"]),
        ("", ["not known to open_clip"]),
        ("ViT-B-32/laion2b", ["no weights 'laion2b'", "ViT-B-32/laion2b_e16", "ViT-B-32/random:SEED"]),
        ("ViT-B-32/random:x", ["'x' is not a seed", "ViT-B-32/random:0"]),
        ("ViT-B-32/random:", ["'' is not a seed"]),
        ("local-dir:", ["holds", "open_clip_config.json"]),
        ("local-dir:/no/such/folder", ["/no/such/folder is not a folder"]),
    ],
)
def test_unknown_names_are_refused_with_the_nearest_ones(name: str, words: list[str]) -> None:
    refusal = message(name)
    assert all(word in refusal for word in words), refusal


def test_weights_that_cannot_be_downloaded_are_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(fetching.hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(fetching.hub, "HF_HUB_CACHE", str(tmp_path))
    for name in ("ViT-B-32/laion2b_s34b_b79k", "hf-hub:nobody/nothing"):
        refusal = message(name)
        assert f"the weights of teacher {name} could not be fetched" in refusal
        assert "run once with a network" in refusal
        assert "\n" not in refusal


def test_a_missing_network_is_noticed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown_host(*_: object) -> None:
        raise OSError("name or service not known")

    monkeypatch.setattr(fetching.socket, "getaddrinfo", unknown_host)
    for key in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(key, raising=False)
    before = fetching.hub.HF_HUB_OFFLINE
    with fetching.no_waiting_offline():
        assert fetching.hub.HF_HUB_OFFLINE is True
    assert before == fetching.hub.HF_HUB_OFFLINE


def test_a_folder_without_safetensors_is_refused(tmp_path: Path) -> None:
    write_teacher(tmp_path)
    (tmp_path / "open_clip_model.safetensors").rename(tmp_path / "open_clip_pytorch_model.bin")
    refusal = message(f"local-dir:{tmp_path}")
    assert "open_clip_pytorch_model.bin" in refusal
    assert "not both open_clip_config.json and open_clip_model.safetensors" in refusal


def test_a_folder_with_the_config_of_another_model_is_refused(tmp_path: Path) -> None:
    write_teacher(tmp_path)
    config = {"model_cfg": tiny_config(embed_dim=8), "preprocess_cfg": {}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    assert "could not be loaded" in message(f"local-dir:{tmp_path}")
    (tmp_path / "open_clip_config.json").write_text("{")
    assert "could not be loaded" in message(f"local-dir:{tmp_path}")
