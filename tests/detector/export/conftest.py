"""A trained run for the tests of exports."""

from __future__ import annotations

import pytest
import torch

from tests.detector.evaluation.evaluation_world import (
    make_run,
    small_config,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.manual_seed(0)
    return make_run(tmp_path_factory.mktemp("export") / "run", small_config())
