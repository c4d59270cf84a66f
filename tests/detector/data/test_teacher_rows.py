"""Teacher rows of crops: flipped and jittered views."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.index import open_index
from cckt.cache_builder.store import open_column
from cckt.detector.data.dataset import Place
from tests.detector.data.test_dataset import STILL, photos_of, same
from tests.detector.tiny import make_data, unit_rows, write_column


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), photos=7, sizes=((64, 64), (80, 64)))


def flipped_folder(path):
    folder = make_data(path, photos=7)
    rows = len(open_index(folder).annotation_ids)
    valid = open_column(folder, "crops").valid_all()
    for seed, name in ((3, "crops-flipped"), (4, "crops-jitter-1"), (5, "crops-jitter-2")):
        write_column(folder, open_index(folder), name, unit_rows(rows, seed) * valid[:, None], valid)
    return folder


def test_a_flipped_photo_has_the_embeddings_of_the_flipped_crops(tmp_path):
    folder = flipped_folder(tmp_path)
    whole = ("data.random_crop=false", "guidance.order=row", "data.jittered_crops=never")
    photos, seen = photos_of(folder, "data.flip=0.5", *whole), Counter()
    upright, mirrored = (open_column(folder, name).all() for name in ("crops", "crops-flipped"))
    for row in range(7):
        boxes = photos.index.boxes_of(row)
        rows = boxes.start + np.flatnonzero(~photos.index.iscrowd[boxes])
        centres = (photos.index.box_xyxy[rows, 0] + photos.index.box_xyxy[rows, 2]) / 2 / 64
        for epoch in range(6):
            targets = photos[Place(epoch, row, row)].targets
            flip = not np.allclose(targets.boxes[:, 0], centres, atol=1e-6)
            if len(rows):
                np.testing.assert_allclose(targets.boxes[:, 0], 1 - centres if flip else centres, atol=1e-6)
                seen[flip] += 1
            expected = (mirrored if flip else upright)[rows].astype(np.float32)
            np.testing.assert_array_equal(targets.teacher["crop"].values, expected)
    assert min(seen[True], seen[False]) > 3
    plain = photos_of(folder, "data.flip=1", "data.flipped_crops=never", *whole)
    assert plain.rows["crop"].flipped is None
    rows = plain.index.boxes_of(3)
    np.testing.assert_array_equal(
        plain[Place(0, 0, 3)].targets.teacher["crop"].values, upright[rows].astype(np.float32)
    )


def test_an_upright_photo_draws_from_all_jittered_views(tmp_path):
    folder = flipped_folder(tmp_path)
    photos = photos_of(folder, *STILL)
    views = [open_column(folder, name).all() for name in ("crops", "crops-jitter-1", "crops-jitter-2")]
    rows, seen = photos.index.boxes_of(3), Counter()
    for epoch in range(20):
        targets = photos[Place(epoch, 3, 3)].targets
        for row, found in zip(
            range(rows.start, rows.stop), targets.teacher["crop"].values.numpy(), strict=True
        ):
            (view,) = [k for k, values in enumerate(views) if (values[row].astype(np.float32) == found).all()]
            seen[view] += 1
    assert sum(seen.values()) == 60
    assert all(seen[view] > 8 for view in range(3))
    assert same(photos[Place(4, 3, 3)], photos_of(folder, *STILL)[Place(4, 3, 3)])


def test_views_of_crops_do_not_change_other_random_draws(tmp_path, folder):
    with_views, without_views = (
        photos_of(flipped_folder(tmp_path)),
        photos_of(make_data(tmp_path / "plain", photos=7)),
    )
    for row in range(7):
        one, other = with_views[Place(1, row, row)], without_views[Place(1, row, row)]
        assert torch.equal(one.image, other.image)
        assert torch.equal(one.present, other.present)


def test_missing_views_of_crops_are_refused_with_the_command_that_makes_them(folder):
    for option, view in (("flipped", "--flipped"), ("jittered", "--jitter 1")):
        message = rf"There is no column crops-.* `cckt cache crops .* {view} --teacher tiny/random:0`"
        with pytest.raises(UserError, match=message):
            photos_of(folder, f"data.{option}_crops=always", "data.flip=0.5")
