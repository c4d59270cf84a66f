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
