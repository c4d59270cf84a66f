"""Built-in splits and the user's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.index.formats import Annotations
from cckt.cache_builder.index.splits import OV_COCO, read_split
from cckt.cache_builder.vocabulary import Concept
from tests.places import SHARED

VOCABULARIES = SHARED / "vocabularies"


def source(*concepts: Concept, counts: list[int | None] | None = None) -> Annotations:
    return Annotations(Path("a.json"), concepts=list(concepts), image_counts=counts or [None] * len(concepts))


def named(*names: str) -> Annotations:
    return source(*(Concept(10 * k, name, split="other") for k, name in enumerate(names, 1)))


def coco80() -> list[Concept]:
    entries = [entry.split(" ", 1) for text in OV_COCO.values() for entry in text.split(", ")]
    return [
        Concept(int(number), name, split="other") for number, name in sorted(entries, key=lambda e: int(e[0]))
    ]


def splits(split: str | Path, concepts: Annotations) -> list[str]:
    return [concept.split for concept in read_split(split).apply(concepts)]


def test_ov_coco_has_48_17_and_15_of_cocos_80() -> None:
    found = splits("coco-48-17", source(*coco80()))
    assert [found.count(split) for split in ("base", "novel", "other")] == [48, 17, 15]


def test_ov_coco_is_the_published_list() -> None:
    path = VOCABULARIES / "ov_coco_48_17.json"
    if not path.is_file():
        pytest.skip("the shared vocabularies are absent")
    published = json.loads(path.read_text())
    for split, key in (("base", "base48"), ("novel", "novel17"), ("other", "unused15")):
        assert OV_COCO[split] == ", ".join(f"{r['id']} {r['name']}" for r in published[key])


def test_ov_coco_is_checked_by_id_and_name() -> None:
    assert splits("coco-48-17", source(Concept(1, "Person"), Concept(5, "airplane"))) == [
        "base",
        "novel",
    ]
    with pytest.raises(
        UserError, match=r"category 3 is 'truck' there and must be 'car' as in COCO; use --split all-base"
    ):
        read_split("coco-48-17").apply(source(Concept(1, "person"), Concept(3, "truck")))
    with pytest.raises(
        UserError, match="category 12 is 'street sign' there and COCO has no category with that id"
    ):
        read_split("coco-48-17").apply(source(Concept(12, "street sign")))


def test_lvis_rare_is_novel() -> None:
    lvis = source(
        *(
            Concept(k, name, (), "other", f)
            for k, (name, f) in enumerate([("a", "r"), ("b", "c"), ("d", "f")])
        )
    )
    assert splits("lvis", lvis) == ["novel", "base", "base"]


def test_lvis_without_letters_counts_photos() -> None:
    counts = [0, 1, 10, 11, 100, 101]
    concepts = read_split("lvis").apply(source(*(Concept(k, f"c{k}") for k in range(6)), counts=list(counts)))
    assert [c.frequency for c in concepts] == ["r", "r", "r", "c", "c", "f"]
    assert [c.split for c in concepts] == ["novel"] * 3 + ["base"] * 3
    with pytest.raises(UserError, match=r"category 1 \('b'\) has neither 'frequency'"):
        read_split("lvis").apply(source(Concept(0, "a", (), "other", "r"), Concept(1, "b")))


def test_the_letters_of_lvis_v1_agree_with_its_photo_counts() -> None:
    path = VOCABULARIES / "detic_lvis_v1_train_cat_info.json"
    if not path.is_file():
        pytest.skip("the shared vocabularies are absent")
    records = json.loads(path.read_text())
    bare = source(*(Concept(r["id"], r["name"]) for r in records), counts=[r["image_count"] for r in records])
    found = read_split("lvis").apply(bare)
    assert [c.frequency for c in found] == [r["frequency"] for r in records]
    assert [sum(c.frequency == f for c in found) for f in "rcf"] == [337, 461, 405]


def test_all_base_is_all_base() -> None:
    assert splits("all-base", named("a", "b")) == ["base", "base"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"base": ["a"], "novel": ["c"]}, ["base", "other", "novel"]),
        ({"base": [10, 20], "novel": [30]}, ["base", "base", "novel"]),
        ({"base": ["A", {"id": 20, "name": "b"}], "novel": [{"name": "c"}]}, ["base", "base", "novel"]),
        ({"novel": ["c"]}, ["base", "base", "novel"]),
        ({"novel": ["c"], "other": ["a"]}, ["other", "base", "novel"]),
        ({"base": ["c"], "source": "somewhere"}, ["other", "other", "base"]),
        ({"base": [], "novel": ["c"]}, ["other", "other", "novel"]),
    ],
)
def test_a_json_split(tmp_path: Path, content: dict[str, Any], expected: list[str]) -> None:
    path = tmp_path / "my.json"
    path.write_text(json.dumps(content))
    split = read_split(path)
    assert split.name == "my.json"
    assert [c.split for c in split.apply(named("a", "b", "c"))] == expected


def test_a_text_split(tmp_path: Path) -> None:
    path = tmp_path / "my.txt"
    path.write_text("# ours\nBase:\n  fire truck\n\n20\nnovel:\nc: the third\n")
    assert splits(path, named("Fire_Truck", "b", "c: the third", "d")) == ["base", "base", "novel", "other"]
    path.write_text("novel:\n7\n20\n")
    seven = source(Concept(3, "7"), Concept(7, "seven"), Concept(20, "b"))
    assert splits(path, seven) == ["novel", "base", "novel"], "a name of digits goes before an id"


def test_a_name_stands_for_all_that_carry_it(tmp_path: Path) -> None:
    path = tmp_path / "my.txt"
    path.write_text("novel:\nbat\n")
    assert splits(path, named("bat", "ball", "Bat")) == ["novel", "base", "novel"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"base": ["umbrela"]}',
            r"names category 'umbrela', which a\.json does not have; did you mean 'umbrella'\?",
        ),
        ('{"base": ["zzzz"]}', "names category 'zzzz', which a.json does not have: remove it"),
        ('{"base": [99]}', "names category id 99, which a.json does not have"),
        ('{"base": [{"id": 10, "name": "cup"}]}', "names category 'cup' with id 10"),
        ('{"base": ["cup"], "novel": ["Cup"]}', "puts 'cup' into both 'base' and 'novel'"),
        ('{"base": [1.5]}', "1.5 in 'base' is neither a name nor an integer category id"),
        ('{"base": [true]}', "True in 'base' is neither"),
        ('{"base": [{}]}', "neither a name nor an integer"),
        ('{"base": "cup"}', "'base' is not a list"),
        ('{"bases": ["cup"]}', r"unknown key 'bases'; did you mean 'base'\?"),
        ('{"zzzzz": ["cup"]}', "unknown key 'zzzzz': expected"),
        ("{}", "names no base and no novel concept"),
        ('{"base": [}', "not valid JSON at line 1, column 11"),
        ('["cup"]', "holds a list, not a split"),
        ("", "names no base and no novel concept"),
        ("cup\n", r"line 1: 'cup' is under no heading; write 'base:' or 'novel:'"),
    ],
)
def test_a_split_that_does_not_fit_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "my.split"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_split(path).apply(named("umbrella", "cup"))


def test_an_unknown_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'coco-48-71' is neither a file .*; did you mean 'coco-48-17'\?"):
        read_split("coco-48-71")
    with pytest.raises(UserError, match="coco-48-17, lvis, all-base: name one of these or give"):
        read_split(tmp_path)
    (tmp_path / "a").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="is not UTF-8 text"):
        read_split(tmp_path / "a")
