"""The whole report: its data, that it needs no other file, and that a browser draws it."""

from __future__ import annotations

import html.parser
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from cckt.cache_builder.base.errors import UserError
from cckt.detector.config.config import changed
from cckt.detector.evaluation.detections import Detections
from cckt.detector.evaluation.ground_truth import ground_truth_of
from cckt.detector.report import write_report
from cckt.detector.report.gallery import SHARES
from cckt.detector.report.write import render
from cckt.detector.runs.file_digests import accept
from cckt.detector.runs.weights import load_weights, save_weights
from tests.detector.evaluation.evaluation_world import (
    add_column,
    make_data,
    make_run,
    small_config,
    unit_rows,
)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Return a data set of six images, and two runs with a log."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("report")
    index = make_data(folder / "world", photos=6)
    add_column(index, "text", unit_rows(4))
    add_column(index, "priors/clip", np.random.default_rng(0).random((6, 4)).astype(np.float32))
    runs = []
    for name in ("one", "</script><b>two"):
        run = make_run(folder / name.replace("/", "_"), changed(small_config(), "inference", batch=6))
        losses = {"loss_image_contrast": 0.5, "loss_class": 0.0, "loss_gradient": 3.0}
        lines = [
            {"kind": "train", "step": s, "loss_total": 9.0 / s, "lr": 1e-4, **losses} for s in range(1, 30)
        ]
        lines += [{"kind": "evaluation", "step": 29, "ap50_novel": 0.2, "ap50_base": 0.4}]
        (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
        runs.append(run)
    return index, runs


def data_of(path: Path) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.S)
    assert found
    return json.loads(found[1])


def test_one_run_on_the_data_of_its_last_evaluation(world):
    index, (run, _) = world
    with pytest.raises(UserError, match="found no evaluation; give --data FOLDER"):
        write_report([run])
    path = write_report([run], data=index.folder, resamples=10)
    assert path == run / "report.html"
    again = write_report([run], run / "again.html", resamples=10)  # uses the existing evaluation
    first, second = data_of(path), data_of(again)
    first.pop("made"), second.pop("made")
    assert first == second
    (one,) = first["runs"]
    assert [h["key"] for h in one["headline"]] == ["ap50_base", "ap50_novel", "ap50_all", "ap"]
    assert len(one["curves"]["novel50"]) == 101
    assert {(c["rho"], c["limit"]) for c in one["sweep"]["cells"] if c["source"] == "clip"} >= {
        (0.9, 3),
        (0.5, 12),
    }
    assert one["priors"]["splits"]["novel"]["annotated_per_image"] == pytest.approx(0.5)
    assert one["log"]["evaluation"]["ap50_novel"] == [0.2]
    assert dict(one["digests"])["evaluation index"] == index.digest
    assert one["config"]["model.hidden"] == "32"


def test_new_weights_are_evaluated_again(world, tmp_path):
    index, (run, _) = world
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    write_report([copy], data=index.folder, resamples=5, sweep=False)
    card = next(copy.glob("eval-*/metrics.json"))
    old = card.stat().st_mtime_ns
    (copy / "model.safetensors").touch()  # the same weights under a new date
    write_report([copy], data=index.folder, resamples=5, sweep=False)
    assert card.stat().st_mtime_ns == old
    weights = load_weights(copy / "model.safetensors")
    save_weights(copy / "model.safetensors", {name: one + 0.01 for name, one in weights.items()})
    write_report([copy], data=index.folder, resamples=5, sweep=False)
    assert card.stat().st_mtime_ns > old
    assert data_of(copy / "report.html")["runs"][0]["sweep"] is None


def test_several_runs_are_compared(world):
    index, (run, other) = world
    # The second run gets perfect detections.
    truth = ground_truth_of(index)
    write_report([other], data=index.folder, resamples=5, sweep=False)  # keeps its evaluation
    folder = next(other.glob("eval-*"))
    ids, categories = truth.image_ids[truth.images], truth.category_ids[truth.concepts]
    Detections(ids, categories, np.linspace(0.99, 0.9, len(ids)), truth.boxes_xywh).to_json(
        folder / "detections.json"
    )
    accept(folder)
    page = data_of(write_report([run, other], run / "two.html", data=index.folder, resamples=10))
    assert len(page["runs"]) == 2
    assert page["comparisons"][0]["figures"]["ap50_novel"]["b"] == pytest.approx(1.0)
    assert any(one["right"] and one["novel"] for tile in page["gallery"] for one in tile["runs"][1])
    assert {tile["kind"] for tile in page["gallery"]} <= {kind for kind, _ in SHARES}
    assert all(tile["novel"] != tile["kind"].startswith("base") for tile in page["gallery"])
    for shown in page["runs"]:
        side = len(shown["matrix"]["concepts"])
        assert all(0 <= at <= side for row, column, _ in shown["matrix"]["cells"] for at in (row, column))
    assert page["gallery"][0]["picture"].startswith("data:image/jpeg;base64,")


def test_no_run_or_a_repeated_run_is_refused(world):
    index, (run, _) = world
    with pytest.raises(UserError, match="found no run, expected at least one"):
        write_report([])
    with pytest.raises(UserError, match="found this run twice"):
        write_report([run, run], data=index.folder)


def test_another_file_is_refused_and_a_report_of_any_version_is_replaced(world, tmp_path):
    index, (run, _) = world
    out = tmp_path / "notes.html"
    for content in ("precious", "<title>cckt</title>"):
        out.write_text(content)
        with pytest.raises(UserError, match=r"notes\.html that is not a report written by cckt report"):
            write_report([run], out, data=index.folder)
        assert out.read_text() == content
    out.write_text("<!doctype html><title>cckt report: old</title>")
    for _ in range(2):
        write_report([run], out, data=index.folder, resamples=5, sweep=False)
        assert '<meta name="generator" content="cckt report">' in out.read_text()


def test_with_out_nothing_else_is_written(world, tmp_path):
    index, (run, _) = world
    copy = tmp_path / "copy"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("eval-*"))
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    out = tmp_path / "out.html"
    write_report([copy], out, data=index.folder, resamples=5, sweep=False)
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before
    evaluation = dict(data_of(out)["runs"][0]["digests"])["evaluation"]
    assert evaluation == "made for this report, not kept"


def test_a_file_that_cannot_be_written_is_refused_before_the_work(world, tmp_path, monkeypatch):
    index, (run, _) = world
    (tmp_path / "file").touch()
    monkeypatch.setattr("cckt.detector.report.write.collect", lambda *given: pytest.fail("worked"))
    with pytest.raises(UserError, match="a part of this path is a file"):
        write_report([run], tmp_path / "file" / "r.html", data=index.folder)


class Requests(html.parser.HTMLParser):
    """Collect the addresses that a page would load."""

    def __init__(self):
        super().__init__()
        self.addresses = []

    def handle_starttag(self, tag, attrs):
        self.addresses += [
            v for k, v in attrs if k in ("src", "href", "srcset") and v and not v.startswith(("data:", "#"))
        ]


def test_the_file_loads_nothing_and_names_are_escaped(world):
    index, runs = world
    text = write_report(runs, runs[0] / "safe.html", data=index.folder, resamples=5).read_text()
    reader = Requests()
    reader.feed(text)
    assert reader.addresses == []
    assert "default-src 'none'" in text
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|https?://(?!www\.w3\.org/2000/svg)", text)
    assert text.count("</script>") == 2
    evil = {"runs": [{"name": "<img src=x onerror=1> & {{data}}"}], "figure": float("nan")}
    page = render(evil)
    assert "<img" not in page
    assert '"figure":null' in page


def browser() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next((found for name in names if (found := shutil.which(name))), None)


@pytest.mark.skipif(browser() is None, reason="no Chromium on the PATH to open the report in")
@pytest.mark.parametrize("size", ["1280,900", "390,800"])
def test_a_browser_draws_all_of_it(world, tmp_path, size):
    index, runs = world
    path = write_report(runs, runs[0] / "drawn.html", data=index.folder, resamples=5)
    command = [
        browser(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        "--disable-component-update", "--no-first-run", f"--user-data-dir={tmp_path / 'browser'}",
        f"--window-size={size}", "--virtual-time-budget=4000", "--dump-dom", path.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    body = re.search(r"<body[^>]*>", done.stdout)
    assert body, done.stderr[-2000:]
    assert "data-fault" not in body[0]
    assert 'data-overflow="0"' in body[0], (
        "expected nothing wider than the window, which would scroll sideways"
    )
    sections = [
        "figures",
        "training",
        "curves",
        "errors",
        "confusion",
        "priors",
        "concepts",
        "gallery",
        "origins",
    ]
    for section in sections:
        assert f'<section id="{section}">' in done.stdout
    assert done.stdout.count('class="chart"') >= 6
    assert done.stdout.count('class="tile"') == len(data_of(path)["gallery"]) > 0
    assert "object HTML" not in done.stdout
    assert "undefined" not in done.stdout.split('id="data"')[0]
    assert "NaN" not in done.stdout.split('id="data"')[0]
