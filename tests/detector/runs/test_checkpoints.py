"""Checkpoints are whole or not there; damaged ones are skipped; evaluation finds its weights."""

from __future__ import annotations

import json

import pytest
import torch

from cckt.cache_builder.base.errors import UserError
from cckt.detector.runs import checkpoints
from cckt.detector.runs import weights as weight_files

WEIGHTS = {"w": torch.arange(6.0).view(2, 3), "n": torch.tensor(3)}


def save(run, step, keep=9):
    return checkpoints.save_checkpoint(
        run, step, {"model": WEIGHTS}, {"step": step, "values": [0.1, step]}, keep
    )


def test_a_folder_without_checkpoints_has_no_newest_one(tmp_path):
    assert checkpoints.newest_checkpoint(tmp_path) == (None, [])
    with pytest.raises(UserError, match="train it first"):
        checkpoints.evaluation_weights(tmp_path)


def test_a_saved_checkpoint_is_found_and_read(tmp_path):
    folder = save(tmp_path, 12)
    assert checkpoints.newest_checkpoint(tmp_path) == (folder, [])
    assert checkpoints.load_state(folder) == {"step": 12, "values": [0.1, 12]}
    loaded = weight_files.load_weights(folder / "model.safetensors")
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
    found, notes = checkpoints.newest_checkpoint(tmp_path)
    assert found == good
    assert len(notes) == 1
    assert str(torn) in notes[0]
    assert file.name in notes[0]
    checkpoints.remove_leftovers(tmp_path, 1, keep=1)
    assert not torn.exists()
    assert good.exists()


def test_old_checkpoints_that_a_killed_run_left_are_removed(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step, keep=9)
    checkpoints.remove_leftovers(tmp_path, 3, keep=2)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-00000002", "step-00000003"]


def test_evaluation_uses_the_finished_weights_then_the_average(tmp_path):
    folder = checkpoints.save_checkpoint(tmp_path, 3, {"model": WEIGHTS}, {}, 2)
    assert checkpoints.evaluation_weights(tmp_path) == folder / "model.safetensors"
    folder = checkpoints.save_checkpoint(tmp_path, 4, {"model": WEIGHTS, "average": WEIGHTS}, {}, 2)
    assert checkpoints.evaluation_weights(tmp_path) == folder / "average.safetensors"
    weight_files.save_weights(tmp_path / "model.safetensors", WEIGHTS)
    assert checkpoints.evaluation_weights(tmp_path) == tmp_path / "model.safetensors"


def test_a_state_that_holds_code_is_not_loaded(tmp_path):
    folder = save(tmp_path, 1)
    torch.save({"run": print}, folder / "state.pt")
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        checkpoints.load_state(folder)


def test_files_json_lists_every_file(tmp_path):
    folder = save(tmp_path, 1)
    listed = json.loads((folder / "files.json").read_text())["files"]
    assert sorted([*listed, "files.json"]) == sorted(path.name for path in folder.iterdir())
