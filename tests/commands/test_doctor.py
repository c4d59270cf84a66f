"""`cckt doctor`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.commands.front import Call, World, options


def test_doctor_checks_the_leak_guard_and_the_data(call: Call, world: World) -> None:
    outcome = call("doctor", "--recipe", "shapeworld", *options(), "--data", world.seen, "--val", world.held)
    assert outcome.code == 0, outcome.out
    assert "✗" not in outcome.out
    assert "6 boxes were read, all of base concepts, none of the 2 other concepts" in outcome.out
    assert "none of the 2 novel concepts" in outcome.out
    assert f"6 photos are both in {world.seen} and in {world.held}" in outcome.out
    outcome = call("doctor", "--run", world.run, "--val", world.held, "--json", "-")
    assert outcome.code == 0, outcome.out
    assert {finding["level"] for finding in json.loads(outcome.out)["findings"]} <= {"good", "warn"}


def test_a_config_edited_by_hand_is_refused_until_it_is_accepted(
    call: Call, world: World, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(world.run, tmp_path / "run"))
    config = run / "config.toml"
    config.write_text(config.read_text() + "# tried again on Monday\n")
    sentence = call("eval", run, "--data", world.held).sentence()
    assert sentence.startswith(f"{config}: is not as cckt wrote it"), sentence
    assert sentence.endswith(f"run cckt doctor --run {run} --accept."), sentence
    outcome = call("doctor", "--run", run, "--accept")
    assert outcome.code == 0, outcome.out
    assert f"{config}: was changed or removed" in outcome.out
    assert call("eval", run, "--data", world.held).code == 0
    assert "was changed" not in call("doctor", "--run", run, "--accept").out


def test_the_time_and_memory_of_a_run_are_told(call: Call, world: World) -> None:
    words = ["--recipe", "shapeworld", *options("data.workers=0"), "--data", world.seen, "--time"]
    outcome = call("doctor", *words)
    assert outcome.code == 0, outcome.out
    (line,) = [line for line in outcome.out.splitlines() if "s per step on this machine" in line]
    assert "3 steps take about 0.0 hours" in line
    assert "MiB of memory at most" in line
    assert "add --data FOLDER, and --recipe NAME" in call("doctor", "--time").sentence()


def test_without_options_only_the_machine_is_checked(call: Call) -> None:
    outcome = call("doctor", "--json", "-")
    assert outcome.code == 0, outcome.err
    subjects = {finding["subject"] for finding in json.loads(outcome.out)["findings"]}
    assert subjects == {"installation", "machine", "device"}


def test_accept_needs_a_run(call: Call, tmp_path: Path) -> None:
    assert "add --run RUN" in call("doctor", "--accept").sentence()
    assert "expected a run folder" in call("doctor", "--accept", "--run", tmp_path).sentence()
