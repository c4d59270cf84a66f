"""Facts and options of a run are read back; a folder that is no run is named."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.proposals import Provenance
from cckt.detector.config.config import Config, save_config
from cckt.detector.runs import run_folder


def test_facts_and_config_are_read_back_unchanged(tmp_path):
    facts = run_folder.Facts(16, 2, ["a", "b"], [1, 2], "sha256:0", {"teacher": {"name": "t"}}, {})
    facts.save(tmp_path)
    save_config(Config(recipe="x"), tmp_path / "config.toml")
    assert run_folder.Facts.load(tmp_path) == facts
    assert run_folder.run_config(tmp_path) == Config(recipe="x")


def test_a_folder_that_is_not_a_run_is_named(tmp_path):
    with pytest.raises(UserError, match="expected a run folder"):
        run_folder.run_config(tmp_path)
    with pytest.raises(UserError, match=r"facts\.json: no such file"):
        run_folder.Facts.load(tmp_path)
    (tmp_path / "facts.json").write_text("{")
    with pytest.raises(UserError, match="no readable JSON"):
        run_folder.Facts.load(tmp_path)


def test_concepts_of_the_weights_that_a_run_started_from_are_annotated():
    """A fine-tuned run has seen boxes of its old classes; pseudo boxes of a class are none."""
    start = Provenance("run", "first", "sha256:w", concepts=("Old", "b"), saw_novel="no").to_json()
    facts = run_folder.Facts(16, 2, ["a", "b", "c"], [1, 2, 3], "sha256:0", {}, {}, made_base=["b", "c"])
    assert facts.annotated == {"a"}
    assert replace(facts, started_from=[start]).annotated == {"a", "b", "old"}
