"""The small world of the fault tests: data sets, columns and a run, made once."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from tests.commands.front import World

Tell = Callable[[str], None]


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Tell:
    """Write a line to the terminal also if pytest captures the output: the number of cases."""

    def write(line: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n{line}\n")

    return write


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Data sets, columns and a run; tests copy what they change."""
    return World.build(tmp_path_factory.mktemp("faults"))
