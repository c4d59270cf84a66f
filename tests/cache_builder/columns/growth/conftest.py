"""A teacher that counts what it encodes."""

from __future__ import annotations

import pytest

from cckt.cache_builder.teacher.clip import Teacher
from tests.cache_builder.columns.growth.fake_teacher import FakeTeacher


@pytest.fixture
def fake(teacher: Teacher) -> FakeTeacher:
    return FakeTeacher(teacher)
