"""Rows of Table 4, shorter schedules, and what is checked before any work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cckt.ablation import AblationPlan, ablate, runs
from cckt.ablation.page import command
from cckt.ablation.plan import ROWS
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Silent
from cckt.detector.config.config import Config, changed
from cckt.detector.config.recipes import RECIPES, in_epochs, plain, recipe
from tests.ablation.plans import MICRO


def test_rows_remove_parts_of_any_recipe() -> None:
    for name in RECIPES:
        full = recipe(name)
        configs = {row.key: row.config(full) for row in ROWS}
        if not full.data.proposals:  # a table of the parts of CCKT-Det; `plain` removes HD-OVD too
            assert configs["plain"] == changed(plain(full), "model", class_embedding="own")
        own = full.model.class_embedding == "own"
        assert configs["all"] == changed(full, "model", class_embedding="own")
        assert ROWS[-1].options(full) == ({} if own else {"model.class_embedding": "own"})
        assert {config.model.class_embedding for config in configs.values()} == {"own"}
    noisy = changed(recipe("coco-48-17-r50-fast"), "guidance", priors=0.5)
    assert noisy.guidance.drop * noisy.guidance.add * noisy.guidance.none > 0
    unguided = ROWS[0].config(noisy)
    noise = ("drop", "add", "none", "priors")
    assert all(getattr(unguided.guidance, name) == 0 for name in noise), "expected no guidance noise"
    assert not unguided.trains_on_priors
    full = recipe("coco-48-17-r50")
    assert ROWS[1].options(full) == {
        "matcher.cost_similarity": 0.0,
        "terms.region_contrast.weight": 0.0,
        "inference.classification": "head",
    }
    assert ROWS[2].options(full) == {"inference.classification": "head"}
    assert ROWS[3].options(full) == {"guidance.enabled": False, "prior.source": "none"}
    assert [row.paper for row in ROWS] == [0.254, 0.326, 0.317, 0.337, 0.380]


def test_a_shorter_schedule_keeps_its_proportions() -> None:
    config = in_epochs(recipe("coco-48-17-r50"), 12)
    assert (config.train.epochs, config.train.lr_drop_epoch, config.terms["region_contrast"].first_epoch) == (
        12,
        10,
        10,
    )
    config = in_epochs(Config(), 1)
    assert (config.train.lr_drop_epoch, config.terms["region_contrast"].first_epoch) == (1, 0), (
        "one epoch has no lower rate"
    )
    assert in_epochs(Config(), 36) == Config()
    with pytest.raises(UserError, match="--epochs 0: expected at least 1"):
        in_epochs(Config(), 0)
    plan = AblationPlan(Path("out"), epochs=3, overrides=("train.epochs=5",))
    assert plan.config().train.epochs == 5, "expected --set to apply after --epochs"


@pytest.mark.parametrize(
    ("table", "changes", "sentence"),
    [
        ("table6", {"rhos": (float("nan"),)}, "--rho nan: expected a probability from 0 to 1"),
        ("table6", {"rhos": (1.5,)}, "--rho 1.5: expected"),
        ("table6", {"limits": (-1,)}, "--limit -1: expected"),
        ("table4", {"photos": 0}, "--photos 0: expected at least 1"),
        ("table4", {"held_out": -1}, "--held-out -1: expected at least 1"),
        ("table4", {"seeds": 0}, "--seeds 0: expected at least 1"),
        ("levels", {"top": 0}, "--top 0: expected at least 1"),
        ("levels", {"nouns_from": Path("/no/such")}, "--nouns-from /no/such: cannot be read"),
        ("table4", {"rhos": (0.5,)}, "--rho applies only to the table table6; you passed table4"),
        ("table5", {"limits": (3,)}, "--limit applies only to the table table6"),
        ("table4", {"teachers": ("a", "b")}, "--teacher applies only to the table table5"),
        (
            "options",
            {"run": Path("x")},
            "--run applies only to the tables table6, levels, retention and finetune",
        ),
        ("table4", {"top": 5}, "--top applies only to the tables levels, retention and finetune"),
    ],
)
def test_numbers_and_options_are_checked_before_the_work(
    tmp_path: Path, table: str, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        ablate(table, replace(AblationPlan(tmp_path / "out", **MICRO), **changes))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["table4.json", "table4.md"])
def test_a_table_of_somebody_else_is_kept(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('{"table": "mine"}')
    with pytest.raises(UserError, match=f"found a file .*{name} that is not the table table4 of cckt"):
        ablate("table4", AblationPlan(tmp_path, **MICRO))
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_folder_of_somebody_else_in_the_place_of_a_run_is_kept(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/notes.txt").write_text("precious")
    (tmp_path / "run/ablate.json").write_text('{"seconds": 5, "mine": 1}')
    with pytest.raises(UserError, match=r"found ablate\.json in it, expected an empty folder or a run"):
        runs.finish_run(Config(), tmp_path, tmp_path, tmp_path / "run", Silent())
    assert (tmp_path / "run/ablate.json").read_text() == '{"seconds": 5, "mine": 1}'


@pytest.mark.parametrize("table", ["table4", "finetune"])
def test_the_command_of_a_table_has_no_option_that_the_table_refuses(table: str) -> None:
    plan = AblationPlan(Path("out"), recipe="shapeworld-hybrid", top=7)
    assert ("--top 7" in command(table, plan)) == (table == "finetune")
