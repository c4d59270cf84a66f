from __future__ import annotations

import shutil

import numpy as np
import pytest

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.index import open_index
from cckt.detector.config.config import PriorConfig
from cckt.detector.data.dataset import Place, TrainingPhotos
from cckt.detector.data.training_priors import TrainingPriors
from cckt.detector.training.train import train
from tests.detector.tiny import CONCEPTS, make_data, tiny_config, write_column

OPTIONS = ("data.flip=0", "data.random_crop=false", "guidance.order=row", "prior.rho=0.5")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    data = make_data(tmp_path_factory.mktemp("data"), photos=4)
    index = open_index(data)
    probabilities = np.zeros((4, CONCEPTS), np.float32)
    probabilities[1] = (0.6, 0.1, 0.9, 0.4, 0.0, 0.0)
    probabilities[2] = (0.0, 0.0, 0.0, 0.7, 0.9, 0.8)  # the two most probable ones are novel
    probabilities[3] = (0.9, 0.8, 0.7, 0.6, 0.0, 0.0)
    write_column(data, index, "priors/clip", probabilities)
    return data


def test_a_photo_without_probable_concepts_has_no_guidance(folder):
    assert TrainingPriors(folder, open_index(folder), PriorConfig(rho=0.5)).of(0).tolist() == []


def test_base_concepts_above_rho_are_given_most_probable_first_without_novel_ones(folder):
    priors = TrainingPriors(folder, open_index(folder), PriorConfig(rho=0.5, limit=3))
    assert priors.of(1).tolist() == [2, 0]
    assert priors.of(2).tolist() == [3]
    assert priors.of(3).tolist() == [0, 1, 2]
    crowded_out = TrainingPriors(folder, open_index(folder), PriorConfig(rho=0.5, limit=2))
    assert crowded_out.of(2).tolist() == []  # the limit is reached before the base concept


def test_photos_are_guided_by_priors_at_the_configured_rate(folder):
    always = TrainingPhotos(folder, tiny_config(*OPTIONS, "guidance.priors=1"))
    assert always[Place(0, 0, 1)].present.tolist() == [0, 2]
    half = TrainingPhotos(folder, tiny_config(*OPTIONS, "guidance.priors=0.5"))
    never = TrainingPhotos(folder, tiny_config(*OPTIONS))
    annotated = never[Place(0, 0, 1)].present.tolist()
    assert annotated != [0, 2]
    drawn = [half[Place(0, position, 1)].present.tolist() for position in range(200)]
    assert 70 < drawn.count([0, 2]) < 130
    assert drawn.count([0, 2]) + drawn.count(annotated) == 200


def test_targets_and_pixels_do_not_depend_on_the_guidance(folder):
    one = TrainingPhotos(folder, tiny_config(*OPTIONS, "guidance.priors=1"))[Place(0, 3, 3)]
    other = TrainingPhotos(folder, tiny_config(*OPTIONS))[Place(0, 3, 3)]
    assert (one.image == other.image).all()
    assert (one.targets.boxes == other.targets.boxes).all()


def test_priors_without_a_column_are_refused(folder, tmp_path):
    with pytest.raises(UserError, match=r"prior.source 'oracle', expected clip or mllm"):
        TrainingPriors(folder, open_index(folder), PriorConfig(source="oracle"))
    with pytest.raises(UserError, match="priors/mllm"):
        TrainingPriors(folder, open_index(folder), PriorConfig(source="mllm"))


def test_a_resumed_run_may_change_options_of_priors_only_if_training_does_not_use_them(folder, tmp_path):
    used, other = (*OPTIONS, "guidance.priors=0.5"), "prior.rho=0.6"
    train(tiny_config(*used), folder, None, tmp_path / "heeds", max_steps=1)
    with pytest.raises(
        UserError, match=r"option prior\.rho: found 0\.6, but the run in .* was started with 0\.5"
    ):
        train(tiny_config(*used, other), folder, None, tmp_path / "heeds", resume=True, max_steps=1)
    unused = ("guidance.enabled=false", "guidance.priors=0.5")
    train(tiny_config(*OPTIONS, *unused), folder, None, tmp_path / "unused", max_steps=1)
    train(tiny_config(*OPTIONS, *unused, other), folder, None, tmp_path / "unused", resume=True, max_steps=2)
    train(tiny_config(*OPTIONS), folder, None, tmp_path / "does not", max_steps=1)
    resumed = train(
        tiny_config(*OPTIONS, other), folder, None, tmp_path / "does not", resume=True, max_steps=2
    )
    assert resumed["step"] == 2


def test_a_resumed_run_refuses_a_new_column_of_priors(tmp_path):
    data = make_data(tmp_path / "data", photos=3)
    index = open_index(data)
    config = tiny_config(*OPTIONS, "guidance.priors=0.5")
    probabilities = np.full((3, CONCEPTS), 0.6, np.float32)
    write_column(data, index, "priors/clip", probabilities)
    train(config, data, None, tmp_path / "run", max_steps=1)
    shutil.rmtree(data / "priors" / "clip")
    write_column(data, index, "priors/clip", probabilities, teacher="another/random:1")
    with pytest.raises(UserError, match=r"started with other data \(priors_recipe differs\)"):
        train(config, data, None, tmp_path / "run", resume=True, max_steps=2)
