"""Exported detectors: graphs with a fixed vocabulary, and folders with a model card."""

from __future__ import annotations

import importlib.util
import json
import warnings

import pytest
import torch

from cckt.cache_builder.base.errors import UserError
from cckt.detector.config.config import changed
from cckt.detector.export import graph as export
from cckt.detector.export.graph import export_graph
from cckt.detector.export.graph_model import HalvingPool, traceable
from cckt.detector.export.onnx_graph import run_onnx
from cckt.detector.inference.inference_model import load_inference_model
from cckt.detector.inference.predict import Predictor
from cckt.detector.students import precision
from tests.detector.evaluation.evaluation_world import (
    make_deep_run,
    make_run,
    small_config,
    unit_rows,
)

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
MISSING = [name for name in PACKAGES if importlib.util.find_spec(name) is None]


def graph(run, out, **options):
    detector = Predictor.load(run, device="cpu")
    return export_graph(detector, "cat, kite, tv|television", out, text=unit_rows(3), **options)


def by_torch(run, photos, present, layer=-1):
    """Return boxes and scores of one decoder layer in torch, one image at a time."""
    network, _ = load_inference_model(run, "cpu")
    data = network.config.data
    text = torch.from_numpy(unit_rows(3))
    from cckt.detector.inference.postprocess import class_scores
    from cckt.detector.students.boxes import to_xyxy
    from cckt.detector.students.contract import PresentText, StudentOutput

    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (data.mean, data.std))
    boxes, scores = [], []
    for photo in photos.split(1):
        with torch.no_grad():
            guidance = PresentText.gather(text, [torch.tensor(present, dtype=torch.int64)])
            output = network.model((photo - mean) / std, None, text, guidance)
        last = StudentOutput(
            output.boxes[layer][None], output.logits[layer][None], output.region[layer][None]
        )
        boxes.append(to_xyxy(output.boxes[layer]))
        softmax = network.config.inference.softmax
        scores.append(class_scores(last, text, network.config.model.tau, "similarity", softmax=softmax))
    return torch.cat(boxes), torch.cat(scores)


def test_warnings_of_torch_stay_off_the_terminal(run, tmp_path, monkeypatch) -> None:
    """Users cannot act on them: torch warns of its own code when it traces and saves a Faster R-CNN."""
    called = []

    def warned(original):
        def call(*values, **options):
            warnings.warn("of torch, about its own code", FutureWarning, stacklevel=2)
            called.append(original)
            return original(*values, **options)

        return call

    for name in ("export", "save"):
        monkeypatch.setattr(torch.export, name, warned(getattr(torch.export, name)))
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        graph(run, tmp_path / "x.pt2", format="torch", size=(64, 64))
    assert len(called) == 2


@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (pip install 'cckt[export]')")
def test_onnx_and_torch_agree_on_twenty_images(run, tmp_path):
    """One graph, several image sizes and batch sizes."""
    report = graph(run, tmp_path / "d.onnx", present=["kite"])
    assert max(report.boxes_difference, report.scores_difference) < 1e-4
    generator = torch.Generator().manual_seed(1)
    sizes = ((7, 64, 96), (6, 80, 72), (4, 101, 67), (2, 200, 133), (1, 64, 64))
    assert sum(number for number, *_ in sizes) == 20
    for number, *size in sizes:
        photos = torch.rand((number, 3, *size), generator=generator)
        for mine, expected in zip(run_onnx(report.path, photos), by_torch(run, photos, [1]), strict=True):
            torch.testing.assert_close(mine, expected, atol=1e-3, rtol=0)
    card = json.loads((tmp_path / "d.onnx.json").read_text())
    assert card["input"].startswith(
        "images: float32 (batch, 3, height, width), RGB in [0, 1]; at least 64 px"
    )
    assert card["report"]["size"] is None
    assert [concept["name"] for concept in card["concepts"]] == ["cat", "kite", "tv"]
    assert [concept["split"] for concept in card["concepts"]] == ["base", "novel", "novel"]
    assert card["threshold_of"].startswith("the default, because the run has no evaluation")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.onnx", "d.onnx.json"]


def test_a_torch_graph_of_one_size_takes_any_batch(run, tmp_path):
    report = graph(run, tmp_path / "d.pt2", format="torch", size=(64, 96))
    assert (report.present, report.concepts, report.size) == ((), 3, (64, 96))
    assert "(batch, 3, 64, 96)" in json.loads((tmp_path / "d.pt2.json").read_text())["input"]
    photos = torch.rand((5, 3, 64, 96), generator=torch.Generator().manual_seed(2))
    module = torch.export.load(tmp_path / "d.pt2").module()
    with torch.no_grad():
        found = module(photos)
    for mine, expected in zip(found, by_torch(run, photos, []), strict=True):
        torch.testing.assert_close(mine, expected, atol=1e-4, rtol=0)


def test_a_graph_returns_the_last_decoder_layer(tmp_path):
    run = make_deep_run(tmp_path / "deep")
    graph(run, tmp_path / "d.pt2", format="torch", size=(64, 96), present=["kite"])
    photos = torch.rand((2, 3, 64, 96), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        found = torch.export.load(tmp_path / "d.pt2").module()(photos)
    for mine, expected, first in zip(
        found, by_torch(run, photos, [1]), by_torch(run, photos, [1], layer=0), strict=True
    ):
        torch.testing.assert_close(mine, expected, atol=1e-4, rtol=0)
        assert (mine - first).abs().max() > 1e-2


@pytest.mark.parametrize("format", ["torch", "onnx"])
@pytest.mark.parametrize(("reference", "unguided"), [("encoder", 0.0), ("guided", 0.0), ("guided", 0.4)])
def test_graphs_of_models_with_encoder_references_agree_with_torch(reference, unguided, format, tmp_path):
    if format == "onnx" and MISSING:
        pytest.skip(f"not installed: {', '.join(MISSING)}")
    torch.manual_seed(1)
    config = changed(small_config(reference=reference), "inference", softmax=True)
    config = changed(config, "guidance", unguided=unguided)
    run = make_run(tmp_path / "run", config)
    path = graph(run, tmp_path / "d.graph", format=format, present=["kite", "cat"]).path
    photos = torch.rand((5, 3, 64, 96), generator=torch.Generator().manual_seed(2))
    if format == "onnx":
        found = run_onnx(path, photos)
    else:
        with torch.no_grad():
            found = torch.export.load(path).module()(photos)
    for mine, expected in zip(found, by_torch(run, photos, [1, 0]), strict=True):
        torch.testing.assert_close(mine, expected, atol=1e-3, rtol=0)


@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (pip install 'cckt[export]')")
def test_a_resnet_with_ceil_mode_pools_exports_for_any_size(tmp_path):
    """Like the detector of the quickstart: such a backbone, and one more level than the backbone has."""
    torch.manual_seed(2)
    config = changed(small_config(), "model", backbone="test_resnet", strides=(8, 16), levels=3)
    run = make_run(tmp_path / "run", config)
    report = graph(run, tmp_path / "d.onnx", present=["kite"])
    assert report.least == 33
    generator = torch.Generator().manual_seed(1)
    for size in ((33, 33), (64, 97), (101, 66), (128, 128)):
        photos = torch.rand((2, 3, *size), generator=generator)
        for mine, expected in zip(run_onnx(report.path, photos), by_torch(run, photos, [1]), strict=True):
            torch.testing.assert_close(mine, expected, atol=1e-3, rtol=0)


def test_traceable_pools_give_the_same_output():
    pool = torch.nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)
    other = traceable(torch.nn.Sequential(pool, torch.nn.AvgPool2d(3, 2, ceil_mode=True)))
    assert isinstance(other[0], HalvingPool)
    assert isinstance(other[1], torch.nn.AvgPool2d), "pools of other sizes are unchanged"
    for sides in ((1, 1), (2, 5), (7, 4), (9, 9)):
        x = torch.randn(2, 3, *sides)
        torch.testing.assert_close(other[0](x), pool(x))


def test_a_graph_that_differs_from_torch_is_not_kept(run, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "_traced", lambda *given: None)
    monkeypatch.setattr(export, "_bytes", lambda program: b"graph")
    wrong = torch.zeros(2, 6, 4) + 9, torch.full((2, 6, 4), torch.nan)
    for boxes in (*wrong, None):
        scores = torch.full((2, 6, 3), torch.nan) if boxes is None else torch.zeros(2, 6, 3)
        found = torch.rand(2, 6, 4) if boxes is None else boxes, scores
        monkeypatch.setattr(export, "_reader", lambda content, found=found: lambda one: found)
        with pytest.raises(AssertionError, match="of torch, found"):
            graph(run, tmp_path / "d.pt2", format="torch")
        assert list(tmp_path.iterdir()) == []


def test_a_run_in_bfloat16_is_exported_in_float32(tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "has_instructions", lambda name, device: True)
    torch.manual_seed(0)
    half = make_run(tmp_path / "run", changed(small_config(), "train", precision="bf16"))
    detector = Predictor.load(half, device="cpu")
    dtypes = {one.dtype for one in detector.model.model.parameters()}
    assert dtypes == {torch.float32, torch.bfloat16}, "expected folded convolutions in bfloat16"
    made = export_graph(detector, "cat", tmp_path / "d.pt2", format="torch", size=(64, 64), text=unit_rows(1))
    assert made.scores_difference < 1e-3
    whole = Predictor.load(half, device="cpu", precision="fp32").model.model
    assert {one.dtype for one in whole.parameters()} == {torch.float32}


def test_a_model_that_cannot_be_traced_for_any_size_needs_a_size(run, tmp_path, monkeypatch):
    def windows(*given):
        raise ValueError("\nConstraints violated (height)! Windows of 12\nmore")

    monkeypatch.setattr(export, "_traced", windows)
    message = r"a regnetx_002 .* \(ValueError: Constraints violated .*12\); give one size with --size HEIGHT"
    with pytest.raises(UserError, match=message):
        graph(run, tmp_path / "d.pt2", format="torch")
    with pytest.raises(ValueError, match="Windows"):
        graph(run, tmp_path / "d.pt2", format="torch", size=(64, 64))


def test_present_concepts_of_a_run_without_guidance_are_refused(tmp_path):
    torch.manual_seed(0)
    free = make_run(tmp_path / "run", changed(small_config(), "guidance", enabled=False))
    with pytest.raises(UserError, match="--present kite: present concepts guide the queries"):
        graph(free, tmp_path / "d.pt2", format="torch", size=(64, 64), present=["kite"])


def test_wrong_arguments_are_refused(run, tmp_path, monkeypatch):
    detector = Predictor.load(run, device="cpu")
    with pytest.raises(UserError, match="--format tflite is not known"):
        graph(run, tmp_path / "d", format="tflite")
    with pytest.raises(UserError, match="no teacher to compute them"):
        export_graph(detector, "cat", tmp_path / "d.pt2", format="torch")
    with pytest.raises(UserError, match="--size 32x96: expected 64 to 4096 pixels"):
        export_graph(detector, "cat", tmp_path / "d.pt2", format="torch", text=unit_rows(1), size=(32, 96))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs the package onnx.*pip install 'cckt\[export\]'"):
        graph(run, tmp_path / "d.onnx")
