"""Which photos and views take part in training, and the bank of cached crops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.index import build_index, open_index
from cckt.cache_builder.store import open_column
from cckt.detector.data import dataset
from cckt.detector.data.class_crops import ClassCrops
from cckt.detector.data.dataset import TrainingPhotos
from cckt.detector.data.schedule import Place, Schedule
from cckt.detector.data.transforms import View
from cckt.detector.training.preflight import gather
from cckt.detector.training.train import train
from tests.detector.tiny import CONCEPTS, make_data, render, tiny_config, unit_rows, write_column


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("used"), photos=9)


def test_photos_without_boxes_are_left_out_if_asked(folder: Path) -> None:
    """Photos 0 and 4 of the rendered ones have no box; photo 8 has a tiny one only."""
    index = open_index(folder)
    every = TrainingPhotos(folder, tiny_config())
    assert len(every) == 9
    assert every.image_rows.tolist() == list(range(9))
    some = TrainingPhotos(folder, tiny_config("data.drop_empty_photos=true"))
    assert some.image_rows.tolist() == [1, 2, 3, 5, 6, 7, 8]
    assert len(some) == 7
    assert set(some.image_rows.tolist()) == set(index.box_images.tolist())


def test_a_schedule_of_some_photos_names_their_rows() -> None:
    rows = np.array([1, 4, 5, 9])
    places = [place for part in Schedule(4, 3, 2, last_step=4, image_rows=rows) for place in part]
    assert [place.image for place in places] == rows[
        [p.image for part in Schedule(4, 3, 2, last_step=4) for p in part]
    ].tolist()
    for epoch in (0, 1):
        assert sorted(place.image for place in places if place.epoch == epoch) == rows.tolist()


def test_a_training_never_reads_a_photo_that_is_left_out(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[int] = set()
    read = TrainingPhotos.__getitem__

    def noted(self: TrainingPhotos, place: Place) -> object:
        seen.add(place.image)
        return read(self, place)

    monkeypatch.setattr(TrainingPhotos, "__getitem__", noted)
    config = tiny_config("data.drop_empty_photos=true", "train.epochs=2", "train.batch=3")
    figures = train(config, folder, None, tmp_path / "run")
    assert figures["step"] == 4  # 7 photos: 2 steps an epoch
    assert seen <= {1, 2, 3, 5, 6, 7, 8}


def test_a_data_set_without_boxes_is_refused(tmp_path: Path) -> None:
    render(tmp_path, photos=1)
    files = (tmp_path / "annotations.json", tmp_path / "photos", tmp_path)
    build_index(*files, split=tmp_path / "split.json", keep="base")
    with pytest.raises(UserError, match="found no box, expected some to learn from"):
        gather(tiny_config(), tmp_path)
    with pytest.raises(UserError, match=r"found no photo with a box .* data\.drop_empty_photos=false"):
        gather(tiny_config("data.drop_empty_photos=true", "data.proposals=2"), tmp_path)


def test_views_that_show_no_object_are_drawn_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corner = View((0, 0, 1, 1), (48, 48))
    whole = View(None, (48, 48))
    drawn = iter([corner, corner, whole])
    monkeypatch.setattr(dataset, "draw_view", lambda *_: next(drawn))
    photos = TrainingPhotos(folder, tiny_config("data.emptied_views=redraw"))
    assert len(photos[Place(0, 0, 3)].targets) == 3
    assert next(drawn, None) is None
    monkeypatch.setattr(dataset, "draw_view", lambda *_: View(corner.crop, (48, 48), flip=True))
    whole_photo = photos[Place(0, 0, 3)]  # no draw shows an object: the whole photo, mirrored like the first
    assert len(whole_photo.targets) == 3
    assert tuple(whole_photo.image.shape) == (3, 48, 48)
    plain = TrainingPhotos(folder, tiny_config())
    assert len(plain[Place(0, 0, 3)].targets) == 0
    assert len(photos[Place(0, 0, 4)].targets) == 0  # nothing to show


def test_the_bank_has_a_crop_of_every_class_that_has_one(folder: Path) -> None:
    index, column = open_index(folder), open_column(folder, "crops")
    crops, valid = column.all().astype(np.float32), column.valid_all()
    bank = ClassCrops.of(index, column)
    base = index.concepts.rows("base")
    drawn = [bank.draw(seed) for seed in range(20)]
    for number, concept in enumerate(base):
        own = (index.box_concepts == concept) & valid & ~index.iscrowd
        assert all(bool(have[number]) == own.any() for _, have in drawn)
        found = {tuple(values[number].tolist()) for values, _ in drawn}
        if own.any():
            assert found <= {tuple(row.tolist()) for row in crops[own]}
        else:
            assert found == {(0.0,) * column.width}
    again = bank.draw(3)
    assert torch.equal(again[0], drawn[3][0])
    assert any(not torch.equal(values, drawn[0][0]) for values, _ in drawn)


def test_a_class_without_a_crop_has_none_in_the_bank(tmp_path: Path) -> None:
    folder = make_data(tmp_path, photos=4)
    index = open_index(folder)
    rows = len(index.box_concepts)
    write_column(folder, index, "crops", unit_rows(rows, 2) * 0, np.zeros(rows, bool))
    values, have = ClassCrops.of(index, open_column(folder, "crops")).draw(0)
    assert values.shape == (CONCEPTS - 2, 16)
    assert not have.any()


def test_a_run_with_the_bank_resumes_to_the_bit(folder: Path, tmp_path: Path) -> None:
    config = tiny_config(
        "terms.region_contrast.teacher_bank=cache", "terms.region_contrast.first_epoch=0", "train.epochs=1"
    )
    train(config, folder, None, tmp_path / "whole")
    train(config, folder, None, tmp_path / "parts", stop_after=2)
    train(config, folder, None, tmp_path / "parts", resume=True)
    files = [tmp_path / name / "model.safetensors" for name in ("whole", "parts")]
    assert files[0].read_bytes() == files[1].read_bytes()
