"""`cckt doctor`."""

from __future__ import annotations

import json

from tests.commands.front import Call, World, options


def test_doctor_checks_the_leak_guard_and_the_data(call: Call, world: World) -> None:
    outcome = call("doctor", "--recipe", "shapeworld", *options(), "--data", world.seen, "--val", world.held)
    assert outcome.code == 0, outcome.out
    assert "✗" not in outcome.out
    assert "6 boxes were read, all of base concepts, none of the 2 other concepts" in outcome.out
    assert "none of the 2 novel concepts" in outcome.out
    outcome = call("doctor", "--run", world.run, "--val", world.held, "--json", "-")
    assert outcome.code == 0, outcome.out
    assert {finding["level"] for finding in json.loads(outcome.out)["findings"]} <= {"good", "warn"}
