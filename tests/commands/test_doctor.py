"""`cckt doctor`."""

from __future__ import annotations

import json

from tests.commands.front import Call, World, options


def test_doctor_checks_the_leak_guard_and_the_data(call: Call, world: World) -> None:
    outcome = call("doctor", "--recipe", "shapeworld", *options(), "--data", world.seen, "--val", world.held)
    assert outcome.code == 0, outcome.out
    assert "✗" not in outcome.out
    assert "each of 6 boxes was read and is of a base concept, none of the 2 others" in outcome.out
    assert "none of the 2 novel concepts" in outcome.out
    outcome = call("doctor", "--run", world.run, "--val", world.held, "--json", "-")
    assert outcome.code == 0, outcome.out
    assert {finding["level"] for finding in json.loads(outcome.out)["findings"]} <= {"good", "warn"}
