"""Epochs for a number of photos, and what is warned of before a run starts."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from cckt.detector.config.config import Config, apply_overrides
from cckt.detector.config.recipes import recipe
from cckt.detector.training import forecast
from cckt.detector.training.forecast import _reduction, automatic_epochs, warnings, with_epochs


@pytest.mark.parametrize(
    ("photos", "epochs"), [(0, 50), (1, 50), (150, 16), (1000, 6), (5000, 3), (10**6, 3)]
)
def test_epochs_fall_with_the_number_of_photos(photos: int, epochs: int) -> None:
    assert automatic_epochs(photos) == epochs


def test_the_schedule_scales_with_the_epochs() -> None:
    config = with_epochs(recipe("coco-48-17-r50"), 12, 600)
    assert (config.train.epochs, config.train.lr_drop_epoch) == (12, 10)
    assert config.terms["region_contrast"].first_epoch == 10
    twice = with_epochs(recipe("hdovd-coco-fasterrcnn-r50"), 24, 600)
    assert (twice.train.lr_drop_epoch, twice.train.lr_second_drop_epoch) == (16, 22)
    short = with_epochs(recipe("shapeworld"), 2, 160)
    assert short.train.warmup_steps == 2, "a tenth of 20 steps"


def test_a_short_run_is_not_advised_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """40 photos have 31 epochs with --epochs auto, and still few steps."""
    monkeypatch.setattr(forecast, "_reduction", lambda *_: 1.0)
    parts = SimpleNamespace(photos=range(40), facts=SimpleNamespace(taught_by=None))
    for epochs, advice in ((3, "use --epochs auto"), (31, "use more photos, or --epochs 62")):
        config = with_epochs(recipe("photos-small"), epochs, 40)
        told = [one for one in warnings(config, parts, range(40)) if "the run has only" in one]  # type: ignore
        assert [one.endswith(f"needs hundreds; {advice}.") for one in told] == [True]


@pytest.mark.parametrize("most", [None, 1, 39, 5000])
def test_a_run_that_max_steps_cuts_short_is_said_to_be(
    monkeypatch: pytest.MonkeyPatch, most: int | None
) -> None:
    monkeypatch.setattr(forecast, "_reduction", lambda *_: 1.0)
    parts = SimpleNamespace(photos=range(2800), facts=SimpleNamespace(taught_by=None))
    told = warnings(recipe("shapeworld"), parts, range(2800), most)  # type: ignore[arg-type]
    short = most is not None and most < 200
    assert [one.startswith(f"the run ends after {most} step") for one in told] == [True] * short
    assert all("leave out --max-steps" in one for one in told)
    short_anyway = warnings(with_epochs(recipe("shapeworld"), 1, 40), parts, range(40), most)  # type: ignore[arg-type]
    assert not any("--max-steps" in one for one in short_anyway)


def test_terms_that_never_start_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "_reduction", lambda *_: 1.0)
    parts = SimpleNamespace(photos=range(9000), facts=SimpleNamespace(taught_by=None))

    def told(config: Config, most: int | None = None) -> list[str]:
        found = warnings(config, parts, range(9000), most)  # type: ignore[arg-type]
        return [one for one in found if "never learned" in one]

    whole = recipe("coco-48-17-r50")
    (sentence,) = told(apply_overrides(whole, ["train.epochs=12"]))
    assert sentence.startswith("terms.region_contrast: the first epoch is 30, ")
    assert sentence.endswith("use --epochs 12, which moves all phases.")
    assert told(whole) == told(with_epochs(whole, 12, 9000)) == []
    assert "(--max-steps)" in told(whole, 1000)[0]


class Photos:
    """The sizes of an index."""

    def __init__(self, *sizes: tuple[int, int]) -> None:
        self.widths, self.heights = np.array(sizes).reshape(-1, 2).T

    def __len__(self) -> int:
        return len(self.widths)


def test_the_reduction_is_that_of_the_evaluation_view() -> None:
    config = apply_overrides(recipe("shapeworld"), ["data.eval_short_side=128", "data.max_side=128"])
    assert _reduction(config, Photos()) == 1.0  # type: ignore[arg-type]
    assert _reduction(config, Photos((1280, 960))) == 10.0  # type: ignore[arg-type]
    wide = apply_overrides(config, ["data.max_side=1000"])
    assert _reduction(wide, Photos((1280, 256), (1280, 256), (640, 640))) == 2.0  # type: ignore[arg-type]
