from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from cckt.cache_builder.base.errors import UserError
from cckt.detector.config.config import Config, save_config
from cckt.detector.runs import run_folder as store

WEIGHTS = {"w": torch.arange(6.0).view(2, 3), "n": torch.tensor(3)}


def save(run, step, keep=9):
    return store.save_checkpoint(run, step, {"model": WEIGHTS}, {"step": step, "values": [0.1, step]}, keep)


def test_a_folder_without_checkpoints_has_no_newest_one(tmp_path):
    assert store.newest_checkpoint(tmp_path) == (None, [])
    with pytest.raises(UserError, match="train it first"):
        store.evaluation_weights(tmp_path)


def test_a_saved_checkpoint_is_found_and_read(tmp_path):
    folder = save(tmp_path, 12)
    assert store.newest_checkpoint(tmp_path) == (folder, [])
    assert store.load_state(folder) == {"step": 12, "values": [0.1, 12]}
    loaded = store.load_weights(folder / "model.safetensors")
    assert loaded.keys() == WEIGHTS.keys()
    assert all(torch.equal(loaded[name], value) for name, value in WEIGHTS.items())
    assert not list(tmp_path.rglob("*partial*"))


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    for step in (1, 2, 10):
        save(tmp_path, step, keep=2)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-00000002", "step-00000010"]


@pytest.mark.parametrize("fault", ["cut", "gone", "no list", "list cut"])
def test_a_damaged_checkpoint_is_skipped_for_the_one_before(tmp_path, fault):
    good, torn = save(tmp_path, 1), save(tmp_path, 2)
    file = torn / ("model.safetensors" if fault in ("cut", "gone") else "files.json")
    if fault in ("gone", "no list"):
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-9])
    found, notes = store.newest_checkpoint(tmp_path)
    assert found == good
    assert len(notes) == 1
    assert str(torn) in notes[0]
    assert file.name in notes[0]
    store.remove_leftovers(tmp_path, 1, keep=1)
    assert not torn.exists()
    assert good.exists()


def test_old_checkpoints_that_a_killed_run_left_are_removed(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step, keep=9)
    store.remove_leftovers(tmp_path, 3, keep=2)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-00000002", "step-00000003"]


def test_evaluation_uses_the_finished_weights_then_the_average(tmp_path):
    folder = store.save_checkpoint(tmp_path, 3, {"model": WEIGHTS}, {}, 2)
    assert store.evaluation_weights(tmp_path) == folder / "model.safetensors"
    folder = store.save_checkpoint(tmp_path, 4, {"model": WEIGHTS, "average": WEIGHTS}, {}, 2)
    assert store.evaluation_weights(tmp_path) == folder / "average.safetensors"
    store.save_weights(tmp_path / "model.safetensors", WEIGHTS)
    assert store.evaluation_weights(tmp_path) == tmp_path / "model.safetensors"


def test_shared_and_strided_tensors_are_saved_completely(tmp_path):
    base = torch.arange(12.0).view(3, 4)
    store.save_weights(tmp_path / "w.safetensors", {"a": base, "b": base.t(), "c": base[1:]})
    loaded = store.load_weights(tmp_path / "w.safetensors")
    assert torch.equal(loaded["b"], base.t())
    assert torch.equal(loaded["c"], base[1:])


def test_missing_and_invalid_weights_are_reported(tmp_path):
    with pytest.raises(UserError, match=r"w\.safetensors: no such file"):
        store.load_weights(tmp_path / "w.safetensors")
    (tmp_path / "w.safetensors").write_bytes(b"PK not safetensors")
    with pytest.raises(UserError, match="no readable safetensors"):
        store.load_weights(tmp_path / "w.safetensors")


def test_weights_of_another_vocabulary_are_refused_with_both_sizes(tmp_path):
    model = nn.Linear(3, 5)
    with pytest.raises(
        UserError, match=r"tensor bias: found \(4,\), expected \(5,\); .*another vocabulary size"
    ):
        store.load_into(model, nn.Linear(3, 4).state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"tensor bias: found nothing, expected \(5,\)"):
        store.load_into(model, {"weight": torch.zeros(5, 3)}, tmp_path)
    with pytest.raises(UserError, match=r"tensor extra: found \(1,\), expected nothing"):
        store.load_into(model, model.state_dict() | {"extra": torch.zeros(1)}, tmp_path)
    weights = nn.Linear(3, 5).state_dict()
    store.load_into(model, weights, tmp_path)
    assert torch.equal(model.weight, weights["weight"])


def test_facts_and_config_are_read_back_unchanged(tmp_path):
    facts = store.Facts(16, 2, ["a", "b"], [1, 2], "sha256:0", {"teacher": {"name": "t"}}, {})
    facts.save(tmp_path)
    save_config(Config(recipe="x"), tmp_path / "config.toml")
    assert store.Facts.load(tmp_path) == facts
    assert store.run_config(tmp_path) == Config(recipe="x")


def test_a_folder_that_is_not_a_run_is_named(tmp_path):
    with pytest.raises(UserError, match="expected a run folder"):
        store.run_config(tmp_path)
    with pytest.raises(UserError, match=r"facts\.json: no such file"):
        store.Facts.load(tmp_path)
    (tmp_path / "facts.json").write_text("{")
    with pytest.raises(UserError, match="no readable JSON"):
        store.Facts.load(tmp_path)


def test_a_state_that_holds_code_is_not_loaded(tmp_path):
    folder = save(tmp_path, 1)
    torch.save({"run": print}, folder / "state.pt")
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        store.load_state(folder)


def test_files_json_lists_every_file(tmp_path):
    folder = save(tmp_path, 1)
    listed = json.loads((folder / "files.json").read_text())["files"]
    assert sorted([*listed, "files.json"]) == sorted(path.name for path in folder.iterdir())
