"""The length of a run from a budget of minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cckt.detector.config.config import Config
from cckt.detector.training import length
from cckt.detector.training.length import seconds_per_step


def test_the_start_of_a_training_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def trained(*given: Any, max_steps: int, **more: Any) -> dict[str, Any]:
        return {"seconds": 3 + 0.5 * max_steps, "stopped": ""}

    monkeypatch.setattr(length, "train", trained)
    assert seconds_per_step(Config(), Path("data")) == pytest.approx(0.5)


@pytest.mark.parametrize("at", length.TRIAL)
def test_a_signal_during_the_timing_ends_it(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    def trained(*given: Any, max_steps: int, **more: Any) -> dict[str, Any]:
        return {"seconds": 1.0, "stopped": "SIGINT" if max_steps == at else ""}

    monkeypatch.setattr(length, "train", trained)
    with pytest.raises(KeyboardInterrupt):
        seconds_per_step(Config(), Path("data"))
