"""Fixtures of the tests of commands."""

from __future__ import annotations

import pytest

from tests.commands.front import Call, World, cckt


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Data sets, columns and a run; tests copy what they change."""
    return World.build(tmp_path_factory.mktemp("world"))


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Run a command line: call("eval", run, "--data", data)."""
    return lambda *words: cckt(capsys, *words)
