"""One row in each table is a kind of column: its name, its command, info, verify and diff follow from it."""

from __future__ import annotations

import inspect
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cckt import cli
from cckt.cache_builder.base import constants
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.columns import clip_priors, crops, images, mllm_priors, proposals, text
from cckt.cache_builder.columns.nouns.cache import cache_nouns
from cckt.cache_builder.columns.nouns.weights import fit_nouns
from cckt.cache_builder.columns.options import Making
from cckt.cache_builder.columns.recompute import REMAKE, TABLE_ROWS, verify_data
from cckt.cache_builder.columns.remake import Made, Remake
from cckt.cache_builder.index import open_index
from cckt.cache_builder.proposals import Selection
from cckt.cache_builder.store import (
    KINDS,
    ColumnKind,
    ColumnName,
    ColumnSpec,
    Setting,
    check_label,
    column_info,
    column_spec,
    diff_columns,
    list_columns,
    open_column,
    open_writer,
    parse_name,
    repair_command,
)
from cckt.cache_builder.store.format.spec import TABLES
from cckt.cache_builder.store.kinds import FLIPPED, JITTER
from cckt.cache_builder.store.settings import at
from tests.cache_builder.column_samples import tree
from tests.cache_builder.samples import write_photos

LABELS = st.from_regex(r"[a-z0-9_]{1,8}", fullmatch=True).filter(lambda label: label not in (FLIPPED, JITTER))

BRIGHTNESS = ColumnKind(
    name="brightness",
    table="images",
    dtype="float32",
    unit=False,
    has_valid=True,
    takes_label=True,
    views=(FLIPPED,),
    settings=(Setting("--scale", at("scale"), 1.0), Setting("--dark", at("dark"))),
    help="mean brightness of an image",
)
"""A kind of the tests: (I, 1), the row number over the scale."""


def brightness(rows: NDArray[np.int64], scale: float) -> NDArray[np.float32]:
    return (np.asarray(rows)[:, None] + 1).astype(np.float32) / np.float32(scale)


def remake_brightness(made: Made) -> Remake:
    return lambda rows: brightness(rows, made.spec.recipe["scale"])


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> ColumnKind:
    """The kind, by one row in each table."""
    monkeypatch.setitem(KINDS, BRIGHTNESS.name, BRIGHTNESS)
    monkeypatch.setitem(REMAKE, BRIGHTNESS.name, remake_brightness)
    return BRIGHTNESS


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "set", photos=5, boxes=1)


def write(data: Path, name: ColumnName, scale: float, stored: float | None = None) -> ColumnSpec:
    """Make the column; stored: the scale of the values, where it is not the recipe's."""
    index = open_index(data)
    spec = column_spec(
        name,
        rows=len(index),
        width=1,
        chunk_rows=2,
        index_digest=index.digest,
        recipe={"scale": scale, "dark": False},
    )
    writer = open_writer(data, spec)
    for chunk in writer.missing():
        lo, hi = spec.bounds(chunk)
        writer.write(chunk, brightness(np.arange(lo, hi), stored or scale), np.arange(lo, hi) != 3)
    writer.finish()
    return spec


# Names


@st.composite
def names(draw: st.DrawFn) -> ColumnName:
    """Any name of any kind."""
    kind = KINDS[draw(st.sampled_from(sorted(KINDS)))]
    label = draw(st.just("") | LABELS) if kind.takes_label else ""
    views = [st.just("")]
    if FLIPPED in kind.views:
        views.append(st.just(FLIPPED))
    if JITTER in kind.views:
        views.append(st.integers(1, 99).map(lambda number: f"{JITTER}-{number}"))
    of = draw(st.just("") | LABELS) if kind.name.startswith("proposals/") else ""
    return ColumnName(kind.name, label, draw(st.one_of(*views)), of)


@given(names())
def test_every_name_is_parsed_back(name: ColumnName) -> None:
    assert parse_name(str(name)) == name
    assert name.label == check_label(name.label)
    assert ColumnSpec(str(name), "images", 1, 1).name == str(name)


@given(names(), names())
def test_different_names_are_different_words(one: ColumnName, other: ColumnName) -> None:
    assert (str(one) == str(other)) == (one == other)


UNKNOWN = [
    "notes",
    "Crops",
    "crops-",
    "crops--flipped",
    "crops-two-words",
    "crops-jitter",
    "crops-jitter-0",
    "crops-jitter-01",
    "crops-flipped-b",
    "text-flipped",
    "images-jitter-1",
    "priors",
    "priors/",
    "priors/clip/x",
    "priors/mllm-b",
    "priors/other",
    "../crops",
    "crops/values",
    "crops-ä",
    "proposals",
    "proposals/",
    "proposals/other",
    "proposals/boxes-b",
    "proposals/boxes-flipped",
    "proposals-/boxes",
    "proposals-b",
    "proposals-b/",
    "proposals-b-c/boxes",
    "proposals-flipped/crops",
    "proposals-b/proposals/boxes",
    "crops-b/boxes",
]


@pytest.mark.parametrize("name", ["", "crops\n", *UNKNOWN])
def test_an_unknown_name_is_no_column(name: str) -> None:
    assert parse_name(name) is None


def test_an_unknown_name_is_refused(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"no column notes under .*: found none"):
        column_info(data, "notes")
    assert cli.run(["cache", "verify", str(data), "notes"]) == 2
    assert "There is no column notes" in capsys.readouterr().err


def test_a_folder_that_is_no_column_is_not_listed(data: Path) -> None:
    for name in ("notes", "photos", "priors/other", "crops-two-words"):
        (data / name).mkdir(parents=True)
        (data / name / "zarr.json").write_text("{}")
    assert list_columns(data) == []


# Tables


def test_every_kind_is_whole() -> None:
    for name, kind in KINDS.items():
        assert name == kind.name
        assert parse_name(name) == ColumnName(name)
        assert kind.table in TABLES
        assert kind.help
        assert "\n" not in kind.help
        options = [setting.option for setting in kind.settings]
        assert len(set(options)) == len(options)


def test_every_kind_says_how_its_rows_are_made_again() -> None:
    assert set(REMAKE) == set(KINDS)
    assert set(TABLE_ROWS) == set(TABLES)


def default(function: Any, parameter: str) -> Any:
    return inspect.signature(function).parameters[parameter].default


def test_a_setting_has_the_default_of_its_maker() -> None:
    """A command leaves out what the maker takes by itself."""
    defaults = {
        "text": {
            "--templates": default(text.cache_text, "templates"),
            "--precision": default(text.cache_text, "precision"),
        },
        "crops": {
            "--crop": default(crops.cache_crops, "crop"),
            "--batch": Making().batch,
            "--precision": Making().precision,
        },
        "images": {"--batch": Making().batch, "--precision": Making().precision},
        "priors/clip": {"--tau": default(clip_priors.cache_clip_priors, "tau")},
        "priors/mllm": {
            "--mllm-prompt": default(mllm_priors.cache_mllm_priors, "prompt"),
            "--precision": default(mllm_priors.cache_mllm_priors, "dtype"),
        },
        "proposals/boxes": {
            "--saw-novel": default(proposals.import_proposals, "saw_novel"),
            "--top": Selection().top,
            "--nms": Selection().nms,
            "--min-side": Selection().min_side,
            "--precision": Making().precision,
            "--batch": constants.PROPOSAL_BATCH,
        },
        "proposals/crops": {
            "--crop": default(crops.cache_crops, "crop"),
            "--batch": Making().batch,
            "--precision": Making().precision,
        },
    }
    naming = {
        "--prompt": default(cache_nouns, "prompt"),
        "--crop": default(cache_nouns, "crop"),
        "--precision": default(cache_nouns, "dtype"),
        "--choose": default(cache_nouns, "choose"),
    }
    defaults |= dict.fromkeys(("proposals/answers", "proposals/nouns", "proposals/noun_texts"), naming)
    defaults["proposals/noun_weights"] = {"--w-max": default(fit_nouns, "w_max")}
    for name, kind in KINDS.items():
        found = {setting.option: setting.default for setting in kind.settings if setting.default is not None}
        assert found == defaults[name]
    assert (constants.TAU, constants.TEMPLATES, constants.BATCH) == (0.07, "ensemble12", 256)
    assert images.PHOTOS_PER_SPAN == 8


# A new kind


def test_a_new_kind_is_named_and_has_its_command(toy: ColumnKind) -> None:
    name = parse_name("brightness-b-flipped")
    assert name == ColumnName("brightness", "b", "flipped")
    assert parse_name("brightness-jitter-1") is None
    command = repair_command("a set", str(name), {"scale": 2.0, "dark": True})
    assert shlex.split(command) == [
        *("cckt", "cache", "brightness", "a set", "--name", "b", "--flipped", "--scale", "2.0", "--dark")
    ]
    assert repair_command("set", "brightness", {"scale": 1.0}) == "cckt cache brightness set"


def test_a_new_kind_is_listed_and_shown(
    toy: ColumnKind, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = write(data, ColumnName("brightness", "b"), 2.0)
    assert (spec.table, spec.dtype, spec.unit, spec.has_valid) == ("images", "float32", False, True)
    assert list_columns(data) == ["brightness-b"]
    assert cli.run(["cache", "info", str(data)]) == 0
    shown = capsys.readouterr().out
    assert "mean brightness of an image" in shown
    assert "5 x 1 float32 over images, 3 chunks of 2" in shown
    assert column_info(data, "brightness-b").command.endswith("--name b --scale 2.0")


def test_a_new_kind_is_verified_and_made_again(toy: ColumnKind, data: Path) -> None:
    write(data, ColumnName("brightness"), 2.0)
    (report,) = verify_data(data)
    assert report.ok
    assert report.agreement is not None
    assert (report.agreement.rows, report.agreement.largest_difference) == (4, 0)
    assert cli.run(["cache", "verify", str(data)]) == 0


def test_rows_of_a_new_kind_that_are_wrong_are_found_and_repaired(toy: ColumnKind, data: Path) -> None:
    write(data, ColumnName("brightness"), 2.0, stored=-2.0)
    (report,) = verify_data(data)
    assert [problem.kind for problem in report.problems] == ["recompute"]
    (data / "brightness/values/c.1.0").unlink()
    (report,) = verify_data(data, repair=True)
    assert report.repaired == (1,)
    assert report.command == repair_command(str(data), "brightness", {"scale": 2.0})


def test_rows_of_a_new_kind_whose_photo_is_readable_are_recoverable(toy: ColumnKind, data: Path) -> None:
    index = open_index(data)
    name, recipe = ColumnName("brightness"), {"scale": 1.0}
    spec = column_spec(name, rows=5, width=1, chunk_rows=5, index_digest=index.digest, recipe=recipe)
    writer = open_writer(data, spec)
    writer.write(0, brightness(np.arange(5), 1), np.arange(5) != 3, {3: "003.png is empty (0 bytes)"})
    writer.finish()
    (report,) = verify_data(data, repair=True, sample=0)
    assert [(problem.kind, problem.chunk) for problem in report.problems] == [("recoverable", 0)]


def test_a_new_kind_is_compared(toy: ColumnKind, data: Path, tmp_path: Path) -> None:
    write(data, ColumnName("brightness"), 2.0)
    write(data, ColumnName("brightness", "b"), 4.0)
    found = diff_columns((data, "brightness"), (data, "brightness-b"))
    assert ("recipe.scale", 2.0, 4.0) in found.fields
    assert found.agreement is not None
    assert found.compared == 4
    assert cli.run(["cache", "diff", str(data), str(data), "brightness", "--against", "brightness-b"]) == 0
    assert cli.run(["cache", "pull", str(data), str(tmp_path / "copy")]) == 0
    assert tree(tmp_path / "copy/brightness") == tree(data / "brightness")
    assert open_column(tmp_path / "copy", "brightness").all().shape == (5, 1)


def test_a_kind_without_a_way_to_make_rows_again_is_verified_by_its_bytes(
    toy: ColumnKind, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(REMAKE, toy.name)
    write(data, ColumnName("brightness"), 2.0)
    (report,) = verify_data(data)
    assert report.ok
    assert report.agreement is None
