"""The quality of priors in a report is that of `report_priors`, over the concepts of the protocol."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cckt.cache_builder.quality.report import report_priors
from cckt.detector.config.config import PriorConfig
from cckt.detector.evaluation.evaluation_set import open_evaluation_set
from cckt.detector.report.priors import prior_quality
from tests.detector.evaluation.evaluation_world import add_column, make_data, unit_rows


def test_priors_without_a_column_have_no_quality(tmp_path: Path) -> None:
    index = make_data(tmp_path, photos=2)
    add_column(index, "text", unit_rows(4))
    scene = open_evaluation_set(index.folder)
    assert prior_quality(scene, PriorConfig(source="oracle")) is None
    assert prior_quality(scene, PriorConfig(source="clip")) is None


@pytest.mark.parametrize(("rho", "limit"), [(0.5, 6), (0.0, 1), (0.9, 2)])
def test_the_figures_are_those_of_the_priors_report(tmp_path: Path, rho: float, limit: int) -> None:
    index = make_data(tmp_path, photos=6)
    add_column(index, "text", unit_rows(4))
    priors = np.random.default_rng(0).random((6, 4)).astype(np.float32)
    add_column(index, "priors/clip", priors)
    scene = open_evaluation_set(index.folder)
    quality = prior_quality(scene, PriorConfig(source="clip", rho=rho, limit=limit, fill="top"))
    assert quality is not None
    expected = report_priors(index.folder, ["clip"], rho=rho, limit=limit).sources[0].existence
    assert set(quality["splits"]) == {"base", "novel"}
    for split, figures in quality["splits"].items():
        for name in ("precision", "recall", "f1", "ap"):
            value = getattr(expected[split], name)
            assert figures[name] == (None if np.isnan(value) else pytest.approx(value)), (split, name)
        assert figures["annotated_per_image"] == expected[split].pairs / 6
        rows = scene.rows[scene.vocabulary.in_split(split)]
        assert sum(one["pairs"] for one in figures["reliability"]) == 6 * len(rows)
        for one in figures["reliability"]:
            in_bin = (priors[:, rows] * 10).astype(int) == int(one["probability"] * 10)
            assert one["pairs"] == in_bin.sum()
            assert one["probability"] == pytest.approx(float(priors[:, rows][in_bin].mean()), rel=1e-5)
