from __future__ import annotations

import dataclasses
import shutil

import pytest
import torch

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.index import build_index, open_index
from cckt.detector.training.preflight import check_batch, check_leak, check_validation, gather
from tests.detector.tiny import CONCEPTS, WIDTH, make_data, tiny_config, unit_rows, write_column


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), photos=4)


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "data")


def test_valid_data_give_base_text_and_facts(folder):
    found = gather(tiny_config(), folder)
    assert len(found.photos) == 4
    torch.testing.assert_close(found.text, torch.from_numpy(unit_rows(CONCEPTS, 1)[:4]))
    facts = found.facts
    assert (facts.embedding_dim, facts.n_classes) == (WIDTH, 4)
    assert facts.names == [f"thing {c}" for c in (1, 2, 3, 4)]
    assert facts.category_ids == [1, 2, 3, 4]
    assert facts.text_recipe["teacher"]["name"] == "tiny/random:0"


def test_an_index_with_novel_boxes_is_refused(folder):
    annotations = folder / "annotations.json"
    annotations.write_text(annotations.read_text().replace('"category_id": 1,', '"category_id": 5,'))
    build_index(annotations, folder / "photos", folder, split=folder / "split.json", keep="all")
    with pytest.raises(UserError, match=r"found \d+ boxes of concepts that are not base.*--keep base"):
        gather(tiny_config(), folder)


def test_an_index_without_photos_or_base_is_refused(folder):
    index = open_index(folder)
    empty = dataclasses.replace(index, image_ids=index.image_ids[:0])
    with pytest.raises(UserError, match="without photos"):
        check_leak(empty)
    concepts = type(index.concepts)(dataclasses.replace(c, split="novel") for c in index.concepts)
    nothing = dataclasses.replace(index, concepts=concepts, box_concepts=index.box_concepts[:0])
    with pytest.raises(UserError, match="no base concept"):
        check_leak(nothing)


def test_missing_photos_are_refused_before_training(folder):
    for photo in (folder / "photos").iterdir():
        photo.unlink()
    with pytest.raises(
        UserError, match=r"p0\.png: no such file, and no other of 4 checked photos exists; .*--images"
    ):
        gather(tiny_config(), folder)


@pytest.mark.parametrize("name", ["text", "crops"])
def test_a_missing_column_is_refused_with_the_command_that_makes_it(folder, name):
    shutil.rmtree(folder / name)
    with pytest.raises(UserError, match=f"no column {name} .*cckt cache {name} "):
        gather(tiny_config(), folder)


def test_without_contrast_crops_are_not_needed(folder):
    shutil.rmtree(folder / "crops")
    assert gather(tiny_config("terms.region_contrast.weight=0"), folder).facts.crops_recipe == {}


def test_columns_of_another_index_are_refused_with_both_digests(folder):
    index = open_index(folder)
    write_column(folder, index, "text", unit_rows(CONCEPTS, 1), index_digest="sha256:other")
    with pytest.raises(UserError, match=f"found sha256:other, expected {index.digest}.*cckt cache text"):
        gather(tiny_config(), folder)


def test_crops_of_another_teacher_are_refused(folder):
    index = open_index(folder)
    write_column(folder, index, "text", unit_rows(CONCEPTS, 1), teacher="other/random:1")
    with pytest.raises(UserError, match=r"crops was made by teacher tiny/random:0 .*text by other/random:1"):
        gather(tiny_config(), folder)


def test_crops_of_another_width_are_refused(folder):
    index = open_index(folder)
    write_column(folder, index, "text", unit_rows(CONCEPTS, 1, width=24))
    with pytest.raises(UserError, match="crops is 16 wide, column text 24"):
        gather(tiny_config(), folder)


def test_an_unfinished_column_is_refused(folder):
    index = open_index(folder)
    write_column(folder, index, "text", unit_rows(CONCEPTS, 1), teacher="tiny/random:0", finish=False)
    shutil.rmtree(folder / "text")
    write_column(folder, index, "text", unit_rows(CONCEPTS, 1), finish=False)
    with pytest.raises(UserError, match="not finished"):
        gather(tiny_config(), folder)


def test_validation_data_need_text_of_the_teacher_and_priors(folder):
    facts = gather(tiny_config(), folder).facts
    with pytest.raises(UserError, match="priors/clip"):
        check_validation(tiny_config(), folder, facts)
    check_validation(tiny_config("prior.source=none"), folder, facts)
    check_validation(tiny_config("guidance.enabled=false"), folder, facts)
    other = dataclasses.replace(facts, text_recipe={"teacher": {"name": "x", "weight_digest": "y"}})
    with pytest.raises(UserError, match="text"):
        check_validation(tiny_config("prior.source=none"), folder, other)


def test_a_batch_that_does_not_divide_is_refused():
    check_batch(tiny_config("train.batch=4", "train.accumulate=2"), 2)
    with pytest.raises(UserError, match=r"train\.batch: found 2, expected a multiple of 4 \(4 ranks"):
        check_batch(tiny_config(), 4)
