from __future__ import annotations

import dataclasses
import json
import sys

import numpy as np
import pytest
import torch

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Silent
from cckt.cache_builder.index import open_index
from cckt.detector.data.schedule import Schedule
from cckt.detector.runs.log import RunLog
from cckt.detector.training.monitor import MIN_HISTORY, WINDOW, SpikeDetector
from cckt.detector.training.process import memory_mib
from cckt.detector.training.step import Stepper
from cckt.detector.training.train import train
from tests.detector.tiny import make_data, tiny_config


def find(spikes, value, gradient=1.0):
    return spikes.find({"total": value, "gradient": gradient, "class": 1e9})


def test_no_spike_is_found_without_enough_history():
    spikes = SpikeDetector(10)
    assert not any(find(spikes, 10.0**power) for power in range(MIN_HISTORY))
    assert spikes.history["total"][-1] == 10.0 ** (MIN_HISTORY - 1)


def test_spikes_equal_a_plain_computation():
    rng = np.random.default_rng(0)
    values = rng.lognormal(0, 0.5, 400)
    values[rng.integers(50, 400, 9)] *= 30
    spikes, found, expected = SpikeDetector(6), [], []
    for at, value in enumerate(values):
        found += [at for spike in find(spikes, float(value)) if spike.figure == "total"]
        past = values[max(0, at - WINDOW) : at]
        if len(past) >= MIN_HISTORY:
            deviation = np.median(np.abs(past - np.median(past))) / 0.6745
            if value > np.median(past) + 6 * max(deviation, 0.1 * np.median(past)):
                expected.append(at)
    assert found == expected
    assert len(found) >= 5


def test_a_constant_curve_has_spikes_only_at_jumps_and_factor_0_finds_none():
    spikes, off = SpikeDetector(10), SpikeDetector(0)
    for _ in range(MIN_HISTORY):
        assert find(spikes, 5.0) == find(off, 5.0) == []
    assert find(spikes, 9.9) == []
    assert find(spikes, 1.0) == []
    (spike,) = find(spikes, 10.1)
    assert (spike.figure, spike.value, spike.median, spike.deviation) == ("total", 10.1, 5.0, 0.5)
    assert str(spike) == "total 10.1, previously 5 ± 0.5"
    assert [one.figure for one in find(spikes, 5.0, gradient=99.0)] == ["gradient"]
    assert find(off, 1e9) == []


def test_a_restored_history_continues():
    spikes = SpikeDetector(10)
    for value in range(150):
        find(spikes, float(value))
    again = SpikeDetector(10, json.loads(json.dumps(spikes.history)))
    assert len(again.history["total"]) == WINDOW
    assert find(again, 1e6) == find(spikes, 1e6) != []


class RecordingProgress(Silent):
    def __init__(self):
        self.notes, self.shown = [], []

    def note(self, message):
        self.notes.append(message)

    def show(self, figures):
        self.shown.append(figures)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), photos=6)


def lines(run, kind):
    every = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in every if line["kind"] == kind]


def test_spikes_are_logged_with_their_photos_and_the_display_shows_the_run(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("cckt.detector.training.monitor.MIN_HISTORY", 3)
    take = Stepper.__call__

    def spiky(self, parts, step, stop=False):
        result = take(self, parts, step, stop)
        if step == 6:
            result = dataclasses.replace(result, losses=result.losses | {"gradient": 1e6})
        return dataclasses.replace(result, finite=step != 7)

    monkeypatch.setattr(Stepper, "__call__", spiky)
    screen = RecordingProgress()
    config = tiny_config("terms.region_contrast.first_epoch=9")
    metrics = train(config, folder, None, tmp_path / "run", progress=screen)
    rows = Schedule(6, 0, 2).rows(6)
    ids = [int(open_index(folder).image_ids[row]) for row in rows]
    (spike,) = lines(tmp_path / "run", "spike")
    assert (spike["step"], spike["figure"], spike["value"], spike["image_ids"]) == (7, "gradient", 1e6, ids)
    assert 0 < spike["median"] < 1e4
    (note,) = (note for note in screen.notes if "spike" in note)
    assert note.startswith("step 6: spike of gradient 1e+06, previously ")
    assert note.endswith(f"photos {ids[0]}, {ids[1]}")
    (skipped,) = lines(tmp_path / "run", "skipped")
    assert skipped["step"] == 8
    assert len(skipped["image_ids"]) == 2
    assert len(screen.shown) == metrics["step"] == 9
    last = screen.shown[-1]
    assert {"total", "class", "l1", "giou", "contrast", "gradient"} <= last["losses"].keys()
    assert last["pace"].keys() == {"epoch", "lr", "images_per_s"}
    assert last["step"].keys() == {"seconds", "data", "forward", "matching", "backward"}
    shares = [float(last["step"][name].rstrip("%")) for name in ("data", "forward", "matching", "backward")]
    assert 30 < sum(shares) <= 102
    assert last["memory"]["MiB"] > 50
    assert last["trouble"] == {"skipped": 1}
    assert 0 < metrics["data_wait_share"] < 1
    assert lines(tmp_path / "run", "train")[0]["memory_mib"] > 50


def test_fp16_overflows_are_tolerated_a_limited_number_of_times(folder, tmp_path, monkeypatch):
    take = Stepper.__call__

    def overflowing(self, parts, step, stop=False):
        result = take(self, parts, step, stop)
        losses = result.losses | {"gradient": float("inf")}
        return dataclasses.replace(result, losses=losses, finite=False, overflow=True)

    monkeypatch.setattr(Stepper, "__call__", overflowing)
    monkeypatch.setattr("cckt.detector.training.monitor.MAX_OVERFLOWS", 4)
    config, run = tiny_config("train.nonfinite_limit=3", "train.spike_factor=1"), tmp_path / "run"
    with pytest.raises(
        UserError, match="3 consecutive steps, up to step 6, with a non-finite loss or gradient"
    ):
        train(config, folder, None, run)
    assert [line["step"] for line in lines(run, "skipped")] == [5, 6, 7]
    assert lines(run, "spike") == []
    assert "Infinity" not in (run / "metrics.jsonl").read_text()


def test_the_rows_of_a_step_are_those_of_all_ranks():
    for photos, batch in ((7, 2), (3, 4)):
        ranks = [Schedule(photos, 5, batch, 1, rank, 2, 0, 5) for rank in (0, 1)]
        for step, parts in enumerate(zip(*ranks, strict=True)):
            read = sorted(place.image for part in parts for place in part)
            assert read == sorted(ranks[0].rows(step))


def test_memory_is_that_of_this_process():
    assert 20 < memory_mib(torch.device("cpu")) < 2**20


class FakeWandb:
    """The part of wandb's interface that we use."""

    def __init__(self, fault=""):
        self.started, self.logged, self.finished, self.fault = [], [], 0, fault

    def init(self, **options):
        if self.fault:
            raise RuntimeError(self.fault)
        self.started.append(options)
        return self

    def log(self, figures, step):
        self.logged.append((step, figures))

    def finish(self):
        self.finished += 1


def test_wandb_gets_the_lines_of_the_log_and_a_resumed_run_keeps_its_id(folder, tmp_path, monkeypatch):
    wandb = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    config, run = tiny_config("train.wandb_project=finds"), tmp_path / "run"
    train(config, folder, None, run, max_steps=2)
    train(config, folder, None, run, resume=True, max_steps=3)
    first, second = wandb.started
    assert (first["project"], first["name"], first["resume"]) == ("finds", "run", "allow")
    assert first["config"] == config.to_dict()
    assert first["id"] == second["id"] == json.loads((run / "wandb.json").read_text())["id"]
    assert [step for step, _ in wandb.logged] == [1, 2, 3]
    assert wandb.logged[2][1]["train/loss_total"] == lines(run, "train")[2]["loss_total"]
    assert wandb.finished == 2


def test_a_missing_or_failing_wandb_is_reported(folder, tmp_path, monkeypatch):
    config = tiny_config("train.wandb_project=finds")
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(
        UserError, match=r"train\.wandb_project: found 'finds', but wandb is not installed; pip"
    ):
        train(config, folder, None, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    monkeypatch.setitem(sys.modules, "wandb", FakeWandb("no API key"))
    with pytest.raises(
        UserError, match=r"wandb could not begin a run \(no API key\); log in with wandb login"
    ):
        RunLog(tmp_path, 0, config)
    log = RunLog(tmp_path, 0, tiny_config())
    log.close()
    log.close()
