"""A tiny teacher for the tests of columns."""

from __future__ import annotations

import pytest

from cckt.cache_builder.teacher.clip import Teacher, load_teacher
from tests.cache_builder.samples import write_teacher


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    return load_teacher(write_teacher(tmp_path_factory.mktemp("teacher")), device="cpu")
