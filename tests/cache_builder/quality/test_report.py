"""All sources of priors of a data set, compared with metrics counted one by one."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from cckt import cli
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.index import open_index
from cckt.cache_builder.presence import oracle_presence
from cckt.cache_builder.quality.pope import KINDS
from cckt.cache_builder.quality.report import report_priors
from cckt.cache_builder.store import ColumnSpec, open_writer
from tests.commands.front import coco, index, write


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Six photos of cup or box (base) and cat or dog (novel)."""
    return built(coco(tmp_path), "held", "all")


def built(folder: Path, name: str, keep: str) -> Path:
    assert cli.run([str(word) for word in index(folder, name, keep)]) == 0
    return folder / name


def write_priors(data: Path, source: str, priors: np.ndarray, lost: tuple[int, ...] = ()) -> None:
    valid = ~np.isin(np.arange(len(priors)), lost)
    spec = ColumnSpec(
        name=f"priors/{source}",
        table="images x concepts",
        rows=priors.shape[0],
        width=priors.shape[1],
        dtype="float32",
        unit=False,
        has_valid=True,
        index_digest=open_index(data).digest,
    )
    writer = open_writer(data, spec)
    writer.write(0, np.where(valid[:, None], priors, 0).astype(np.float32), valid)
    writer.finish()


def test_an_index_without_boxes_is_refused(tmp_path: Path) -> None:
    folder = coco(tmp_path)
    whole = json.loads((folder / "coco.json").read_text())
    write(folder / "coco.json", whole | {"annotations": []})
    with pytest.raises(UserError, match="its index holds no box of a base or novel concept"):
        report_priors(built(folder, "none", "all"))


def test_the_oracle_is_right_about_everything(data: Path) -> None:
    found = report_priors(data)
    (oracle,) = found.sources
    assert (found.rho, found.limit, found.notes, oracle.source) == (0.70, 6, (), "oracle")
    assert found.splits == ("base", "novel")
    for split in ("base", "novel", "all"):
        figures = oracle.existence[split]
        assert (figures.precision, figures.recall, figures.f1, figures.ap) == (1, 1, 1, 1)
        assert all(oracle.pope[kind][split].accuracy == 1 for kind in KINDS)
    assert report_priors(data, rho=0.0).sources[0].pope["random"]["all"].accuracy == 1
    assert report_priors(data, limit=1).sources[0].existence["all"].recall == 0.5, "two things a photo"


def test_sources_are_measured_on_the_same_photos(data: Path) -> None:
    rng = np.random.default_rng(0)
    clip, mllm = rng.random((2, 6, 4)).astype(np.float32)
    write_priors(data, "clip", clip, lost=(2,))
    write_priors(data, "mllm", mllm, lost=(4,))
    found = report_priors(data, rho=0.4, limit=2)
    assert [one.source for one in found.sources] == ["clip", "mllm", "oracle"]
    assert [one.photos for one in found.sources] == [5, 5, 6]
    assert found.notes == ("2 photos lack priors of some source and are not counted",)
    built_index = open_index(data)
    truth = oracle_presence(built_index)
    for one, priors in zip(found.sources, (clip, mllm, truth.astype(np.float32)), strict=True):
        for split in ("base", "novel"):
            rows = set(built_index.rows(split).tolist())
            hits = claimed = right = 0
            for photo in (0, 1, 3, 5):
                best = sorted(range(4), key=lambda c: (-priors[photo, c], c))[:2]
                said = {c for c in best if priors[photo, c] >= 0.4} & rows
                there = {c for c in rows if truth[photo, c]}
                hits, claimed, right = hits + len(said & there), claimed + len(said), right + len(there)
            figures = one.existence[split]
            assert figures.recall == hits / right
            assert figures.precision == (hits / claimed if claimed else pytest.approx(math.nan, nan_ok=True))
    assert [row[0] for row in found.existence_rows()][:4] == [
        "clip, base", "mllm, base", "oracle, base", "clip, novel"
    ]  # fmt: skip
    assert all(len(row) == 1 + len(KINDS) for row in found.pope_rows())
    figures = found.to_json()["sources"]["mllm"]
    assert figures["existence"]["novel"]["recall"] == found.sources[1].existence["novel"].recall
    assert figures["pope"]["popular"]["all"]["questions"] > 0
    assert [one.source for one in report_priors(data, ["mllm"]).sources] == ["mllm", "oracle"]


def test_an_unfinished_column_is_left_out_and_a_requested_one_must_exist(data: Path) -> None:
    spec = ColumnSpec(
        name="priors/clip", table="images x concepts", rows=6, width=4, dtype="float32", unit=False,
        has_valid=True, index_digest=open_index(data).digest,
    )  # fmt: skip
    open_writer(data, spec)
    found = report_priors(data)
    assert [one.source for one in found.sources] == ["oracle"]
    assert found.notes == ("column priors/clip is not finished, so it is not measured",)
    with pytest.raises(UserError, match="There is no column priors/mllm under"):
        report_priors(data, ["mllm"])


def test_only_base_concepts_are_measured_with_keep_base(tmp_path: Path) -> None:
    found = report_priors(built(coco(tmp_path), "seen", "base"))
    assert found.splits == ("base",)
    assert "holds no novel box" in found.notes[0]


def test_thresholds_out_of_range_are_refused(data: Path) -> None:
    with pytest.raises(UserError, match=r"--rho is 1.5; give a probability from 0 to 1"):
        report_priors(data, rho=1.5)
    with pytest.raises(UserError, match=r"--limit is 0; give at least 1"):
        report_priors(data, limit=0)
