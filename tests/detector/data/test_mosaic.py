"""Mosaics: places and pixels of the four photos, their targets, crops and guidance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.store import open_column
from cckt.detector.config.config import DataConfig
from cckt.detector.data.dataset import TrainingPhotos
from cckt.detector.data.mosaic import Seen, fitting, joined, others_of, quarters
from cckt.detector.data.schedule import Place
from cckt.detector.data.transforms import View
from cckt.detector.students.targets import Targets, TeacherRows
from tests.detector.tiny import make_data, tiny_config

ROWS = np.arange(9)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("mosaic"), photos=9, sizes=((64, 64), (80, 64)))


def test_the_share_and_the_epochs_of_mosaics_are_those_of_the_options() -> None:
    def share(options: DataConfig, epoch: int) -> float:
        return (
            float(np.mean([len(others_of(Place(epoch, at, 0), ROWS, options, 3)) for at in range(600)])) / 3
        )

    assert share(DataConfig(), 0) == 0
    assert share(DataConfig(mosaic=1.0), 0) == 1
    assert share(DataConfig(mosaic=0.3), 0) == pytest.approx(0.3, abs=0.06)
    ends = DataConfig(mosaic=1.0, mosaic_epochs=2)
    assert [share(ends, epoch) for epoch in (0, 1, 2, 9)] == [1, 1, 0, 0]
    some = {
        int(one)
        for at in range(50)
        for one in others_of(Place(0, at, 0), ROWS[2:5], DataConfig(mosaic=1.0), 3)
    }
    assert some == {2, 3, 4}


@pytest.mark.parametrize("size", [(48, 64), (49, 65), (2, 2)])
def test_quarters_fill_the_image(size: tuple[int, int]) -> None:
    a, b, c, d = quarters(size)
    assert (a[0] + c[0], a[1] + b[1]) == size
    assert (b[0] + d[0], c[1] + d[1]) == size
    view = fitting(View(None, (100, 150), True), a)
    assert view.size[0] <= a[0]
    assert view.size[1] <= a[1]
    assert view.flip


def part(colour: int, height: int, width: int, boxes: list[list[float]], first: int) -> Seen:
    rows = torch.arange(first, first + len(boxes))
    teacher = {
        "crop": TeacherRows(rows[:, None].float().expand(-1, 2), rows % 2 == 0),
        "image": TeacherRows(torch.ones(1, 2), torch.tensor([True]), "image"),
    }
    image = torch.full((3, height, width), colour, dtype=torch.uint8)
    targets = Targets(torch.tensor(boxes).reshape(-1, 4), rows, teacher)
    return Seen(image, targets, np.array([colour, 1]), "" if colour != 30 else "p30 is torn")


def test_photos_lie_next_to_the_centre_with_boxes_on_their_pixels() -> None:
    """Quarters of 10 x 12 in an image of 20 x 24; the box of each photo covers all of it, by hand."""
    whole = [0.5, 0.5, 1.0, 1.0]
    parts = [
        part(10, 10, 6, [whole, [0.25, 0.5, 0.5, 1.0]], 0),
        part(20, 5, 12, [whole], 2),
        part(30, 10, 12, [], 3),
        part(40, 4, 3, [whole], 3),
    ]
    found = joined(parts, (20, 24), (0.4, 0.4, 0.4))
    image = found.image
    assert image.shape == (3, 20, 24)
    assert (image[:, 0:10, 6:12] == 10).all()
    assert (image[:, 5:10, 12:24] == 20).all()
    assert (image[:, 10:20, 0:12] == 30).all()
    assert (image[:, 10:14, 12:15] == 40).all()
    assert (image[:, 0:10, 0:6] == 102).all()
    assert (image[:, 15:, 15:] == 102).all()
    pixels = found.targets.boxes * torch.tensor([24, 20, 24, 20])
    expected = [[9, 5, 6, 10], [7.5, 5, 3, 10], [18, 7.5, 12, 5], [13.5, 12, 3, 4]]
    torch.testing.assert_close(pixels, torch.tensor(expected).float())
    assert found.targets.concepts.tolist() == [0, 1, 2, 3]
    assert found.targets.teacher["crop"].values[:, 0].tolist() == [0, 1, 2, 3]
    assert found.targets.teacher["crop"].valid.tolist() == [True, False, True, False]
    assert found.targets.teacher["image"].valid.tolist() == [False]
    assert found.given.tolist() == [1, 10, 20, 30, 40]
    assert found.fault == "p30 is torn"


def test_a_mosaic_of_photos_without_objects_has_none() -> None:
    found = joined([part(colour, 4, 4, [], 0) for colour in (1, 2, 3, 4)], (8, 8), (0, 0, 0))
    assert len(found.targets) == 0
    assert found.targets.teacher["crop"].values.shape == (0, 2)


def test_samples_hold_the_objects_crops_and_guidance_of_four_photos(folder: Path) -> None:
    still = ("data.flip=0", "data.random_crop=false", "data.short_sides=64", "guidance.order=row")
    photos = TrainingPhotos(folder, tiny_config("data.mosaic=1", *still))
    index, crops = photos.index, open_column(folder, "crops").all().astype(np.float32)
    for position in range(6):
        place = Place(0, position, position)
        images = [position, *others_of(place, photos.image_rows, photos.config.data, 0).tolist()]
        sample = photos[place]
        boxes = np.concatenate(
            [np.flatnonzero((index.box_images == image) & ~index.iscrowd) for image in images]
        )
        assert sample.targets.concepts.tolist() == photos.base_of[index.box_concepts[boxes]].tolist()
        assert sample.present.tolist() == sorted(set(sample.targets.concepts.tolist()))
        rows = sample.targets.teacher["crop"]
        np.testing.assert_array_equal(rows.values.numpy()[rows.valid], crops[boxes][rows.valid.numpy()])
        assert tuple(sample.image.shape[-2:]) in ((64, 64), (64, 80))
        for box, row in zip(sample.targets.boxes, boxes, strict=True):  # the middle of a box has its colour
            x, y = (box[:2] * torch.tensor([sample.image.shape[2], sample.image.shape[1]])).int().tolist()
            later = [one for one in boxes if one > row and index.box_images[one] == index.box_images[row]]
            if not later:
                colour = 60 * (int(index.box_concepts[row]) + 1) - 1
                assert abs(int(sample.image[0, y, x]) - colour) < 40
        again = TrainingPhotos(folder, tiny_config("data.mosaic=1", *still))[place]
        assert torch.equal(again.image, sample.image)


def test_mosaics_change_no_other_sample(folder: Path) -> None:
    plain = TrainingPhotos(folder, tiny_config())
    some = TrainingPhotos(folder, tiny_config("data.mosaic=0.5"))
    same = 0
    for position in range(20):
        place = Place(1, position, position % 9)
        if not len(others_of(place, some.image_rows, some.config.data, 0)):
            same += 1
            assert torch.equal(plain[place].image, some[place].image)
            assert torch.equal(plain[place].targets.boxes, some[place].targets.boxes)
    assert 0 < same < 20


def test_mosaics_with_proposals_are_refused() -> None:
    with pytest.raises(UserError, match=r"data\.mosaic: found 0\.5, expected 0 with data\.proposals"):
        tiny_config("data.mosaic=0.5", "data.proposals=5")
