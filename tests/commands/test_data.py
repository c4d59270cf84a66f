"""`cckt data`."""

from __future__ import annotations

import json
from pathlib import Path

from tests.commands.front import Call, coco, index


def test_index_reports_what_it_dropped_and_why(call: Call, tmp_path: Path) -> None:
    coco(tmp_path)
    outcome = call(*index(tmp_path, "seen", "base"), "--json", tmp_path / "report.json")
    assert outcome.code == 0
    assert "6 boxes of 12 annotations: 6 base, 0 novel" in outcome.out
    assert "6 dropped: novel concept (keep base)" in outcome.out
    assert json.loads((tmp_path / "report.json").read_text())["dropped"]["novel"] == 6


def test_json_on_stdout_sends_the_lines_to_stderr(call: Call, tmp_path: Path) -> None:
    coco(tmp_path)
    outcome = call(*index(tmp_path, "held", "all"), "--json", "-")
    assert json.loads(outcome.out)["boxes"] == 12
    assert "12 boxes of 12 annotations" in outcome.err


def test_several_annotation_files_are_merged(call: Call, tmp_path: Path) -> None:
    coco(tmp_path)
    whole = json.loads((tmp_path / "coco.json").read_text())
    paths = []
    for part in range(2):
        images = [one for one in whole["images"] if one["id"] % 2 == part]
        ids = {one["id"] for one in images}
        boxes = [one for one in whole["annotations"] if one["image_id"] in ids]
        paths.append(tmp_path / f"part{part}.json")
        paths[-1].write_text(json.dumps({**whole, "images": images, "annotations": boxes}))
    words = [word for path in paths for word in ("--annotations", path)]
    outcome = call(
        "data", "index", *words, "--images", tmp_path / "photos", "--out", tmp_path / "both", "--json", "-"
    )
    assert json.loads(outcome.out)["boxes"] == 12
    one = call(*index(tmp_path, "held", "all"), "--split", "all-base", "--json", "-")
    assert json.loads(outcome.out)["digest"] == json.loads(one.out)["digest"]
