"""Columns of several teachers in one data set: the run's teacher, in training and in evaluation."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.index import open_index
from cckt.cache_builder.store import column_of, list_teachers, matching_label
from cckt.detector.data.training_priors import priors_column
from cckt.detector.doctor import check_evaluation, check_training
from cckt.detector.evaluation.evaluation_set import open_evaluation_set
from cckt.detector.runs.run_folder import Facts
from cckt.detector.training.preflight import check_validation, gather
from tests.detector.tiny import CONCEPTS, make_data, tiny_config, unit_rows, write_column

SECOND = "large/openai"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The tiny data set, and columns of a second, narrower teacher labelled vitl14."""
    folder = make_data(tmp_path_factory.mktemp("teachers") / "data", photos=4)
    index = open_index(folder)
    boxes = len(index.box_images)
    write_column(folder, index, "text-vitl14", unit_rows(CONCEPTS, 5, 8), teacher=SECOND)
    valid = np.ones(boxes, bool)
    write_column(folder, index, "crops-vitl14", unit_rows(boxes, 6, 8), valid, teacher=SECOND)
    write_column(folder, index, "crops-vitl14-flipped", unit_rows(boxes, 7, 8), valid, teacher=SECOND)
    priors = np.full((len(index), CONCEPTS), 0.9, np.float32)
    write_column(folder, index, "priors/clip-vitl14", priors, teacher=SECOND)
    return folder


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "data")


def test_no_teacher_at_all(tmp_path):
    assert list_teachers(tmp_path) == {}
    assert column_of(tmp_path, "text") == "text"  # open_column reports that it is missing
    assert matching_label(tmp_path, {"weight_digest": "sha256:x"}, "b") == "b"
    with pytest.raises(
        UserError, match=r"has no column text-b, of the teacher labelled 'b'.*no column text;"
    ):
        column_of(tmp_path, "text", "b")


def test_who_is_there(folder):
    names = {label: teacher["name"] for label, teacher in list_teachers(folder).items()}
    assert names == {"": "tiny/random:0", "vitl14": SECOND}
    assert set(list_teachers(folder, "crops")) == {"", "vitl14"}  # views are not teachers


def test_a_run_learns_from_the_teacher_it_names(folder):
    first, second = gather(tiny_config(), folder), gather(tiny_config("data.teacher=vitl14"), folder)
    assert first.facts.teacher == ""
    assert (second.facts.teacher, second.facts.embedding_dim) == ("vitl14", 8)
    assert second.facts.text_recipe["teacher"]["name"] == SECOND
    np.testing.assert_array_equal(second.text, unit_rows(CONCEPTS, 5, 8)[:4])
    crops = [column.manifest.spec.name for column in second.photos.rows["crop"].columns]
    assert crops == ["crops-vitl14", "crops-vitl14-flipped"]
    assert first.photos.rows["crop"].columns[0].manifest.spec.name == "crops"


def test_a_teacher_that_is_not_there(folder):
    expected = (
        r"has no column text-vith14, of the teacher labelled 'vith14' \(data\.teacher\); found the first "
        r"\(tiny/random:0\), vitl14 \(large/openai\); choose one of these, or make it with `cckt cache all "
        r".* --teacher NAME --name vith14`\.$"
    )
    with pytest.raises(UserError, match=expected):
        gather(tiny_config("data.teacher=vith14"), folder)
    (finding,), facts = check_training(tiny_config("data.teacher=vith14"), folder)
    assert finding.level == "bad"
    assert "vitl14 (large/openai)" in finding.message
    assert facts is None
    shutil.rmtree(folder / "crops-vitl14")
    with pytest.raises(UserError, match=r"has no column crops-vitl14, .*found the first \(tiny.*\);"):
        gather(tiny_config("data.teacher=vitl14"), folder)


def test_a_label_that_cannot_be(folder):
    with pytest.raises(UserError, match=r"data\.teacher.*lower-case letters"):
        tiny_config("data.teacher=ViT-L")


def test_evaluation_finds_the_runs_teacher_and_its_priors(folder):
    config = tiny_config("data.teacher=vitl14")
    facts = gather(config, folder).facts
    scene = open_evaluation_set(folder, facts)
    assert (scene.teacher, scene.text.shape[1]) == ("vitl14", 8)
    assert scene.priors_column("clip").manifest.spec.name == "priors/clip-vitl14"
    check_validation(config, folder, facts)
    assert open_evaluation_set(folder, gather(tiny_config(), folder).facts).teacher == ""
    assert check_evaluation(config, folder, facts)[0].level == "good"


def test_evaluation_finds_the_runs_teacher_under_another_label(folder):
    facts = gather(tiny_config("data.teacher=vitl14"), folder).facts
    assert open_evaluation_set(folder, dataclasses.replace(facts, teacher="")).teacher == "vitl14"
    assert open_evaluation_set(folder, dataclasses.replace(facts, teacher="other")).teacher == "vitl14"


def test_evaluation_where_the_runs_teacher_is_not(folder):
    facts = gather(tiny_config("data.teacher=vitl14"), folder).facts
    shutil.rmtree(folder / "text-vitl14")
    with pytest.raises(UserError, match=r"has no column text-vitl14, .*found the first \(tiny.*\);"):
        open_evaluation_set(folder, facts)
    with pytest.raises(UserError, match=r"was made by teacher tiny.*expected the same"):
        open_evaluation_set(folder, dataclasses.replace(facts, teacher=""))


def test_priors_of_an_mllm_are_of_no_teacher(folder):
    assert priors_column(folder, "mllm", "vitl14") == "priors/mllm"
    assert priors_column(folder, "clip", "vitl14") == "priors/clip-vitl14"
    with pytest.raises(UserError, match=r"has no column priors/clip-b, .*found vitl14 \(large/openai\)"):
        priors_column(folder, "clip", "b")


def test_facts_of_older_runs(tmp_path):
    facts = Facts(8, 1, ["cat"], [1], "sha256:i", {}, {})
    facts.save(tmp_path)
    text = (tmp_path / "facts.json").read_text().replace(',\n  "teacher": ""', "")
    assert '"teacher"' not in text
    (tmp_path / "facts.json").write_text(text)
    assert Facts.load(tmp_path) == facts
