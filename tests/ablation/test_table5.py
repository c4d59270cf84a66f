"""Table 5: columns and runs of each teacher."""

from __future__ import annotations

from pathlib import Path

from cckt.ablation import AblationPlan, ablate
from cckt.ablation.page import command, rows
from cckt.cache_builder.index import copy_index, open_index, verify_index
from cckt.shapeworld.dataset import make_dataset
from tests.ablation.plans import MICRO
from tests.cache_builder.samples import write_teacher


def test_table5_caches_columns_for_each_teacher(tmp_path: Path) -> None:
    weak = write_teacher(tmp_path / "weak", seed=1)
    plan = AblationPlan(tmp_path / "out", teachers=(weak, "shapeworld"), seeds=1, **MICRO)
    answer = ablate("table5", plan)
    first, second = answer["rows"]
    assert (first["key"], second["key"]) == ("weak", "shapeworld")
    assert 0 <= first["crops_named"] <= 1
    assert second["crops_named"] > first["crops_named"], "expected the random teacher to be weaker"
    assert second["crops_named"] > 0.5
    digests = {open_index(plan.out / "teachers" / name / "train").digest for name in ("weak", "shapeworld")}
    assert digests == {open_index(plan.out / "train").digest}
    assert answer["checks"]["rising"] in (True, False)
    head, *body = rows(answer)
    assert head[1] == "crops named correctly"
    assert len(body) == 2
    assert "--teacher local-dir:weak --teacher shapeworld" in command("table5", plan)
    again = ablate("table5", plan)
    assert again["rows"] == answer["rows"]


def test_a_copied_index_is_the_same_index_over_the_same_photos(tmp_path: Path) -> None:
    make_dataset(tmp_path / "train", 8, 1, keep="base")
    source = open_index(tmp_path / "train")
    assert copy_index(source, tmp_path / "copy") == source.digest
    copy = open_index(tmp_path / "copy")
    assert verify_index(copy)
    assert copy.photo_path(3).read_bytes() == source.photo_path(3).read_bytes()
    assert copy.card["dropped"] == source.card["dropped"]
