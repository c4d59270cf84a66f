"""Class-agnostic regions of runs: queries, then encoder cells, ranked by objectness."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from cckt.cache_builder.base.digests import file_digest
from cckt.cache_builder.base.errors import UserError
from cckt.detector.inference.inference_model import load_inference_model
from cckt.detector.inference.region_proposals import RunProposer
from cckt.detector.runs.base_text import save_base_text
from cckt.detector.students import precision
from cckt.detector.students.boxes import to_xyxy
from tests.detector.evaluation.evaluation_world import make_run, small_config, unit_rows


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


def run_of(folder, **model):
    torch.manual_seed(0)
    run = make_run(folder / "run", small_config(**model))
    save_base_text(run, unit_rows(2))
    return run


def test_queries_have_the_objectness_of_their_cells(tmp_path) -> None:
    run = run_of(tmp_path, reference="guided")
    proposer = RunProposer(run, "cpu")
    view = proposer.prepare(photo(50, 40))
    ((boxes, scores),) = proposer.propose([view])
    model, _ = load_inference_model(run, "cpu")
    encoded = model.encode([view])
    cells = encoded.cells
    with torch.no_grad():
        output = model.model.decode(encoded, torch.from_numpy(unit_rows(2)), None)
    queries, count = 6, cells.objectness.shape[1]
    assert boxes.shape == (queries + count, 4)
    np.testing.assert_allclose(boxes[:queries], to_xyxy(output.boxes[-1])[0], atol=1e-5)
    np.testing.assert_allclose(boxes[queries:], to_xyxy(cells.boxes)[0], atol=1e-5)
    objectness = cells.objectness.sigmoid()[0].double().numpy()
    np.testing.assert_allclose(scores[queries:], objectness, atol=1e-6)
    expected = np.sort(objectness)[::-1][np.arange(queries) % count]
    np.testing.assert_allclose(scores[:queries], expected, atol=1e-6)


def test_without_cells_queries_have_their_best_logit(tmp_path) -> None:
    proposer = RunProposer(run_of(tmp_path, reference="learned"), "cpu")
    view = proposer.prepare(photo(50, 40))
    ((boxes, scores),) = proposer.propose([view])
    model, _ = load_inference_model(tmp_path / "run", "cpu")
    with torch.no_grad():
        output = model.model.decode(model.encode([view]), torch.from_numpy(unit_rows(2)), None)
    assert boxes.shape == (6, 4)
    np.testing.assert_allclose(scores, output.logits[-1].sigmoid().amax(-1)[0], atol=1e-6)


def test_padding_gives_no_regions(tmp_path) -> None:
    proposer = RunProposer(run_of(tmp_path, reference="guided"), "cpu")
    wide, narrow = proposer.prepare(photo(64, 32)), proposer.prepare(photo(40, 32))
    (alone,) = proposer.propose([narrow])
    padded = proposer.propose([wide, narrow])[1]
    assert len(padded[0]) == len(alone[0]), "cells in the padding are left out"


def test_the_record_of_a_run_names_what_it_was_trained_on(tmp_path) -> None:
    run = run_of(tmp_path, reference="guided")
    proposer = RunProposer(run, "cpu")
    maker = proposer.provenance
    assert (maker.maker, maker.name, maker.concepts) == ("run", "run", ("cat", "dog"))
    assert maker.weights == file_digest(run / "model.safetensors")
    assert "sha256:index" in maker.trained_on
    assert proposer.recipe["student"] == "DeformableDETR"


def test_any_precision_reads_a_run_of_any_other(tmp_path, monkeypatch) -> None:
    """On a CPU with instructions for bfloat16, where `computed_precision` keeps it."""
    monkeypatch.setattr(precision, "has_instructions", lambda wanted, device: wanted != "fp16")
    config = small_config()
    run = make_run(tmp_path / "run", replace(config, train=replace(config.train, precision="bf16")))
    save_base_text(run, unit_rows(2))
    single, half = RunProposer(run, "cpu"), RunProposer(run, "cpu", "bf16")
    assert (single.recipe["precision"], half.recipe["precision"]) == ("fp32", "bf16")
    views = [single.prepare(photo(50, 40))]
    exact, near = single.propose(views)[0], half.propose(views)[0]
    assert not np.array_equal(exact[1], near[1]), "bfloat16 rounds"
    assert np.sort(near[1])[-1] == pytest.approx(np.sort(exact[1])[-1], abs=0.02)


def test_what_is_no_usable_run_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match=r"no config\.toml"):
        RunProposer(tmp_path, "cpu")
    run = make_run(tmp_path / "old", small_config())
    with pytest.raises(UserError, match=r"--from .*: the run has no base_text.safetensors"):
        RunProposer(run, "cpu")
    save_base_text(run, unit_rows(2))
    with pytest.raises(UserError, match="--precision int8 is not known"):
        RunProposer(run, "cpu", "int8")
