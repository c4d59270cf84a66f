"""`cckt report`."""

from __future__ import annotations

import json
from pathlib import Path

from tests.commands.front import Call, World


def test_a_report_is_one_file(call: Call, world: World, tmp_path: Path) -> None:
    out = tmp_path / "why.html"
    outcome = call("report", world.run, "--data", world.held, "--out", out, "--photos", "4", "--json", "-")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out) == {"report": str(out), "bytes": out.stat().st_size}
    assert out.read_text().startswith("<!doctype html>")
    assert "expected each run once" in call("report", world.run, world.run, "--data", world.held).sentence()
