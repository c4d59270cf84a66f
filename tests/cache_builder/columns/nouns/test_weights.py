"""The best wrong name, against loops; who is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.columns.crops import cache_crops
from cckt.cache_builder.columns.nouns import weights
from cckt.cache_builder.columns.nouns.cache import cache_nouns
from cckt.cache_builder.columns.nouns.weights import fit_nouns, own_and_best_wrong
from cckt.cache_builder.mllm import Mllm
from cckt.cache_builder.store import column_info
from cckt.cache_builder.teacher.clip import Teacher
from tests.cache_builder.columns.nouns.conftest import propose
from tests.cache_builder.columns.nouns.test_cache import fitting_text


def test_own_and_best_wrong_by_loops() -> None:
    rng = np.random.default_rng(0)
    texts = rng.normal(size=(5, 8)).astype(np.float32)
    texts[3] = texts[1]  # two concepts with one name are not wrong for each other
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    crops = rng.normal(size=(12, 8)).astype(np.float32)
    own = rng.integers(0, 5, 12)
    right, wrong = own_and_best_wrong(crops, texts, own)
    for row in range(12):
        cosines = [float(crops[row] @ text) for text in texts]
        same = {1, 3} if own[row] in (1, 3) else {int(own[row])}
        assert right[row] == pytest.approx(cosines[own[row]], abs=1e-5)
        expected = max(value for k, value in enumerate(cosines) if k not in same)
        assert wrong[row] == pytest.approx(expected, abs=1e-5)


def test_a_second_fit_replaces_the_first_and_takes_another_maximum(
    data: Path, mllm: Mllm, teacher: Teacher
) -> None:
    fitting_text(data, teacher)
    cache_nouns(data, mllm, teacher=teacher, workers=0)
    first = column_info(data, "proposals/noun_weights").manifest
    again = fit_nouns(data).manifest
    assert again is not None
    assert again.digest == first.digest
    fit_nouns(data, w_max=1.0)
    second = column_info(data, "proposals/noun_weights").manifest.spec.recipe["weight"]
    assert second == {**first.spec.recipe["weight"], "w_max": 1.0}
    with pytest.raises(UserError, match="--w-max is 0; give a weight above 0"):
        fit_nouns(data, w_max=0)


def test_mistakes(data: Path, mllm: Mllm, teacher: Teacher) -> None:
    with pytest.raises(UserError, match="There is no column proposals/nouns"):
        fit_nouns(data)
    cache_nouns(data, mllm, teacher=teacher, workers=0)
    with pytest.raises(UserError, match=r"mean cosine .* expected them nearer to their own"):
        fit_nouns(data)
    with pytest.raises(UserError, match="nouns are of proposals"):
        fit_nouns(data, of="boxes")
    shutil.rmtree(data / "crops")
    with pytest.raises(UserError, match="There is no column crops"):
        fit_nouns(data)


def test_weights_that_cannot_be_fitted_are_left_out_with_the_reason(data: Path, tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("mug\ncarton\n")
    shutil.rmtree(data / "crops")
    *_, report = cache_nouns(data, nouns_from=words)
    first, reason = report.lines()
    assert first == "column proposals/noun_weights: not made"
    assert "the weight of nouns is not fitted: there is no column crops; run `cckt cache crops" in reason
    assert not report.to_json()["finished"]
    assert not (data / "proposals/noun_weights").exists()


def test_weights_over_proposals_that_were_replaced_are_replaced_too(
    data: Path, mllm: Mllm, teacher: Teacher
) -> None:
    fitting_text(data, teacher)
    cache_nouns(data, mllm, teacher=teacher, workers=0)
    before = column_info(data, "proposals/noun_weights").manifest
    propose(data, 0.9)
    cache_crops(data, teacher, workers=0, of="proposals")
    reports = cache_nouns(data, mllm, teacher=teacher, workers=0, overwrite=True)
    assert reports[-1].manifest is not None, "expected weights, not a note"
    after = column_info(data, "proposals/noun_weights").manifest
    assert after.finished
    assert after.spec.index_digest != before.spec.index_digest


def test_weights_that_a_killed_process_left_unfinished_are_made_again(
    data: Path, mllm: Mllm, teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitting_text(data, teacher)

    def killed(*given: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(weights, "run_chunks", killed)
        with pytest.raises(KeyboardInterrupt):
            cache_nouns(data, mllm, teacher=teacher, workers=0)
    assert not column_info(data, "proposals/noun_weights").manifest.finished
    report = cache_nouns(data, mllm, teacher=teacher, workers=0)[-1]
    assert report.to_json()["finished"], report.lines()


@pytest.mark.parametrize("w_max", [0, -1, float("nan"), float("inf")])
def test_a_wrong_maximum_is_refused_before_the_model_names(data: Path, mllm: Mllm, w_max: float) -> None:
    with pytest.raises(UserError, match=r"--w-max is .*; give a weight above 0"):
        cache_nouns(data, mllm, w_max=w_max)
    assert not (data / "proposals/answers").exists()
