"""The saved text embeddings of the base concepts of a run."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cckt.cache_builder.base.errors import UserError
from cckt.detector.runs.base_text import BASE_TEXT_FILE, load_base_text, save_base_text
from cckt.detector.runs.run_folder import Facts


def unit_rows(rows, width=16):
    values = np.random.default_rng(0).normal(size=(rows, width)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def test_a_saved_table_is_read_as_unit_rows_and_a_wrong_one_refused(tmp_path):
    run, names = tmp_path, ["cat", "dog", "kite", "boat"]
    facts = Facts(16, 4, names, [1, 2, 3, 4], "sha256:index", {}, {})
    assert load_base_text(run, facts) is None
    assert save_base_text(run, torch.from_numpy(unit_rows(4)) * 3).name == BASE_TEXT_FILE
    np.testing.assert_allclose(load_base_text(run, facts), unit_rows(4), atol=1e-6)
    save_base_text(run, unit_rows(3))
    with pytest.raises(UserError, match=r"shape \(3, 16\), expected \(4, 16\)"):
        load_base_text(run, facts)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0])
def test_a_row_without_a_direction_is_refused(tmp_path, value):
    rows = unit_rows(2)
    rows[1] = value
    save_base_text(tmp_path, rows)
    with pytest.raises(UserError, match="a text embedding is all zeros or not finite"):
        load_base_text(tmp_path, Facts(16, 2, ["cat", "dog"], [1, 2], "sha256:index", {}, {}))
