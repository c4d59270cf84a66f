"""`cckt cache proposals`: its three sources, and options that do not fit them."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from cckt.cache_builder.index import open_index
from tests.commands.front import Call, World
from tests.places import ROOT


@pytest.fixture
def seen(world: World, tmp_path: Path) -> Path:
    return Path(shutil.copytree(world.seen, tmp_path / "seen"))


def test_a_run_makes_a_table_crops_and_the_proof(world: World, seen: Path, call: Call) -> None:
    made = call("cache", "proposals", seen, "--from", world.run, "--top", 3, "--min-side", 1, "--json", "-")
    assert made.code == 0, made.err
    assert json.loads(made.out)["name"] == "proposals/boxes"
    tiny = call("cache", "crops", seen, "--of", "proposals", "--teacher", world.teacher)
    assert "proposals of proposals are under 16 px on a side" in tiny.sentence()
    results = [
        {"image_id": int(image), "bbox": [0, 0, 24, 20], "score": 0.9} for image in open_index(seen).image_ids
    ]
    (seen / "boxes.json").write_text(json.dumps(results))
    words = ["cache", "proposals", seen, "--import", seen / "boxes.json", "--name", "large"]
    assert call(*words, "--min-side", 16, "--saw-novel", "no").code == 0
    assert call("cache", "crops", seen, "--of", "proposals-large", "--teacher", world.teacher).code == 0
    assert "over proposals" in call("cache", "info", seen, "proposals-large/crops").out
    checked = call("cache", "verify", seen, "proposals/boxes", "proposals-large/crops")
    assert checked.code == 0, checked.err
    assert call("cache", "finish", seen).code == 0
    proof = call("doctor", "--data", seen).out
    assert "column proposals/boxes, made by run run: trained on boxes of" in " ".join(proof.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "found no source, expected exactly one of --from RUN, --detector ID and --import FILE"),
        (["--from", "r", "--import", "f"], "found --from and --import, expected exactly one"),
        (["--from", "r", "--words", "cat"], "--words applies only to --detector; you passed --from"),
        (["--from", "r", "--saw-novel", "no"], "--saw-novel states what is known of a run"),
        (["--import", "f", "--batch", "2"], "--batch applies only to a detector; you passed --import"),
        (["--import", "none.json"], "none.json does not exist"),
        (["--from", "none"], "no config.toml"),
        (["--detector", "none", "--top", "0"], "--top is 0"),
    ],
)
def test_options_that_do_not_fit_are_refused(seen: Path, call: Call, words, message) -> None:
    refused = call("cache", "proposals", seen, *words)
    assert refused.code == 2
    assert message in refused.sentence()
    assert not (seen / "proposals").exists()


def test_the_converter_of_the_page_reads_arrays_and_runs_no_code(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "proposals.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    names: dict = {"__name__": "convert"}
    exec(compile(code, "convert.py", "exec"), names)
    images = [{"id": 4, "file_name": "a/x.jpg"}, {"id": 7, "file_name": "y.jpg"}]
    (tmp_path / "coco.json").write_text(json.dumps({"images": images}))
    rows = np.array([[1, 2, 11, 22, 0.5], [0, 0, 5, 6, 0.9]], np.float32)
    for proposals in ({"a/x.jpg": rows}, {4: rows}, [rows, np.zeros((0, 4))], {"a/x": rows[:, :4]}):
        (tmp_path / "p.pkl").write_bytes(pickle.dumps(proposals))
        names["convert"](tmp_path / "p.pkl", tmp_path / "coco.json", tmp_path / "boxes.json")
        found = json.loads((tmp_path / "boxes.json").read_text())
        assert [one["image_id"] for one in found] == [4, 4]
        assert found[0]["bbox"] == [1, 2, 10, 20]
        assert [one["score"] for one in found] == [1, 0.5]
    (tmp_path / "p.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(pickle.UnpicklingError, match=r"os\.system is not allowed"):
        names["convert"](tmp_path / "p.pkl", tmp_path / "coco.json", tmp_path / "boxes.json")
