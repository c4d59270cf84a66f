"""Folders of an export: model cards, what is in the way, stages, and a full disk."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cckt.cache_builder.base.errors import UserError
from cckt.detector.config.config import changed
from cckt.detector.config.recipes import recipe
from cckt.detector.evaluation.evaluate import evaluate_run
from cckt.detector.export import graph as export
from cckt.detector.export.model_card import export_folder, model_card
from cckt.detector.inference.predict import Predictor
from cckt.detector.runs.run_folder import Facts, run_config
from tests.cache_builder.column_samples import Recorder
from tests.detector.evaluation.evaluation_world import (
    add_column,
    make_data,
    make_run,
    small_config,
    unit_rows,
)
from tests.detector.export.test_export import graph


def test_an_exported_folder_loads_like_the_run_and_has_a_model_card(run, tmp_path):
    index = make_data(tmp_path / "world", photos=5)
    add_column(index, "text", unit_rows(4))
    run = make_run(tmp_path / "own", changed(small_config(), "prior", source="none"))
    metrics = evaluate_run(run, index.folder)
    evaluate_run(run, index.folder, priors="oracle", classification="head")  # not the settings of the run
    folder = export_folder(run, tmp_path / "shared", licence="apache-2.0")
    assert not list(folder.glob("*.pt"))
    photo = index.photo_path(4)
    one, other = (
        Predictor.load(place, device="cpu").predict(photo, "cat, kite", text=unit_rows(2), min_score=0.0)[0]
        for place in (run, folder)
    )
    np.testing.assert_array_equal(one.boxes_xyxy, other.boxes_xyxy)
    assert Predictor.load(folder, device="cpu").threshold == metrics.figures["best_f1"]["score"]
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: cckt\n")
    for part in (
        "license: apache-2.0",
        "cat, dog",
        "sha256:aa",
        "| AP50 base |",
        "protocol custom",
        "regnetx_002",
        "found = detector.predict(",
    ):
        assert part in card, part
    assert json.loads((folder / "config.json").read_text())["model"]["hidden"] == 32
    with pytest.raises(UserError, match="is not an empty folder"):
        export_folder(run, folder)


def test_the_model_card_of_a_run_without_evaluation(tmp_path):
    bare = make_run(tmp_path / "bare", small_config())
    assert "This run has no evaluation." in (export_folder(bare, tmp_path / "out") / "README.md").read_text()


def quick_graph(run, out, monkeypatch, content=b"graph", format="torch", **options):
    """Export without tracing: the content of the file is given."""
    answers = torch.zeros(2, 6, 4), torch.zeros(2, 6, 3)
    monkeypatch.setattr(export, "_traced", lambda *given: None)
    monkeypatch.setattr(export, "_bytes", lambda program: content)
    monkeypatch.setattr(export, "_onnx_bytes", lambda program, photos: content)
    monkeypatch.setattr(export, "_reader", lambda content: lambda photos: answers)
    monkeypatch.setattr(export, "read_onnx", lambda content: lambda photos: answers)
    monkeypatch.setattr(export, "require_packages", lambda *packages: None)
    monkeypatch.setattr(export.GraphModel, "forward", lambda self, images: answers)
    return graph(run, out, format=format, size=(64, 64), **options)


def test_an_export_reports_its_stages(run, tmp_path, monkeypatch):
    progress = Recorder()
    quick_graph(run, tmp_path / "d.onnx", monkeypatch, format="onnx", progress=progress)
    stages = [("start", label, 1, "graphs") for label in ("trace", "write fp32", "compare")]
    assert progress.calls == [call for stage in stages for call in (stage, ("finish",))]
    assert progress.done == 3


def test_two_graphs_in_one_folder_have_two_cards(run, tmp_path, monkeypatch):
    quick_graph(run, tmp_path / "d.pt2", monkeypatch)
    quick_graph(run, tmp_path / "d.onnx", monkeypatch, b"other", "onnx")
    names = ["d.onnx", "d.onnx.json", "d.pt2", "d.pt2.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    quick_graph(run, tmp_path / "d.pt2", monkeypatch, b"again")
    assert (tmp_path / "d.pt2").read_bytes() == b"again"
    assert json.loads((tmp_path / "d.onnx.json").read_text())["report"]["format"] == "onnx"


def test_files_that_are_no_export_of_this_format_are_refused_by_name(run, tmp_path, monkeypatch):
    out = tmp_path / "d.pt2"
    for name in ("d.pt2", "d.pt2.json"):
        (tmp_path / name).write_text("precious")
        with pytest.raises(UserError, match=f"found a file .*/{name} that is not"):
            quick_graph(run, out, monkeypatch)
        assert (tmp_path / name).read_text() == "precious"
        (tmp_path / name).unlink()
    quick_graph(run, out, monkeypatch)
    with pytest.raises(UserError, match=r"d\.pt2 that is not an export of cckt export with --format onnx"):
        quick_graph(run, out, monkeypatch, format="onnx")
    out.write_bytes(b"changed")
    with pytest.raises(UserError, match=r"d\.pt2 that is not an export"):
        quick_graph(run, out, monkeypatch)
    (tmp_path / "d.pt2.json").unlink()
    old = {"report": {"path": "elsewhere/d.pt2", "format": "torch"}}  # as earlier versions wrote it
    (tmp_path / "d.json").write_text(json.dumps(old))
    quick_graph(run, out, monkeypatch)
    assert json.loads((tmp_path / "d.json").read_text()) == old
    with pytest.raises(UserError, match="--out /dev/null: expected a file such as"):
        quick_graph(run, Path("/dev/null"), monkeypatch)


def test_a_full_disk_leaves_no_part_of_an_export(run, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        quick_graph(run, tmp_path / "d.pt2", monkeypatch)
    with pytest.raises(OSError, match="No space"):
        export_folder(run, tmp_path / "shared")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("shapeworld-fast", ("(CCKT-Det, ICLR 2025).", "transfer, deformable-detr]", "| queries | 50 |")),
        ("shapeworld-hdovd-fasterrcnn", ("(HD-OVD).", "transfer, faster-rcnn]", "| student | faster_rcnn |")),
        ("shapeworld-hybrid", ("(HD-OVD and CCKT-Det, ICLR 2025).", "| guided by present concepts | yes |")),
    ],
)
def test_a_model_card_names_the_student_and_its_methods(run, name, parts):
    card = model_card("mine", recipe(name), Facts.load(run), {}, "other", 1)
    for part in parts:
        assert part in card
    assert ("| queries |" in card) is ("fasterrcnn" not in name)


def test_names_in_a_model_card_are_neither_html_nor_markdown_nor_yaml(run):
    config = run_config(run)
    names = ["<script>alert(1)</script>", "a|b\n\n# heading", "[x](http://y)"]
    facts = replace(Facts.load(run), names=names, pseudo="<img src=x>")
    card = model_card("</title><b>run", config, facts, {}, "mit\ntags: [x]", 1)
    assert "<script" not in card
    assert "<img" not in card
    assert "<b>" not in card
    assert "\n# heading" not in card
    assert "a\\|b" in card
    assert "[x](" not in card
    front = card.split("---")[1]
    assert 'license: "mit\\ntags: [x]"' in front
    assert front.count("\ntags:") == 1
