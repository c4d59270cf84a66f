from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
import pytest
import torch

from cckt.cache_builder.store import open_column
from cckt.detector.config.config import GuidanceConfig
from cckt.detector.data.batch import collate
from cckt.detector.data.dataset import Place, Schedule, TrainingPhotos, batches
from cckt.detector.data.presence import draw_guidance
from cckt.detector.data.transforms import View
from cckt.detector.students.targets import TeacherRows
from tests.detector.tiny import WIDTH, make_data, tiny_config, unit_rows

STILL = ("data.flip=0", "data.random_crop=false", "data.short_sides=64", "guidance.order=row")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), photos=7, sizes=((64, 64), (80, 64)))


def photos_of(folder, *assignments):
    return TrainingPhotos(folder, tiny_config(*assignments))


def same(a, b):
    """Whether two samples or batches are equal to the last bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)
    if hasattr(a, "__dataclass_fields__"):
        return all(same(getattr(a, name), getattr(b, name)) for name in a.__dataclass_fields__)
    return a == b


def test_a_photo_without_boxes_is_a_sample_without_targets(folder):
    sample = photos_of(folder, *STILL)[Place(0, 0, 0)]
    assert sample.image.shape == (3, 64, 64)
    assert len(sample.targets) == 0
    assert sample.targets.teacher["crop"].values.shape == (0, WIDTH)
    assert sample.present.shape == (0,)
    batch = collate([sample, sample])
    assert batch.objects == 0
    assert batch.guidance(torch.zeros(4, WIDTH)).embeddings.shape == (2, 0, WIDTH)


def test_targets_are_the_boxes_of_the_index_without_crowds(folder):
    photos = photos_of(folder, *STILL)
    index, crops = photos.index, unit_rows(len(photos.index.annotation_ids), 2)
    for row in range(len(photos)):
        sample = photos[Place(0, row, row)]
        boxes = [
            k for k in range(len(index.box_images)) if index.box_images[k] == row and not index.iscrowd[k]
        ]
        assert len(sample.targets) == len(boxes)
        for found, k in enumerate(boxes):
            x0, y0, x1, y1 = index.box_xyxy[k]
            size = [index.widths[row], index.heights[row]] * 2
            expected = np.array([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0]) / size
            np.testing.assert_allclose(sample.targets.boxes[found].numpy(), expected, atol=1e-6)
            assert sample.targets.concepts[found] == index.box_concepts[k]
            valid = min(x1 - x0, y1 - y0) >= 16
            assert bool(sample.targets.teacher["crop"].valid[found]) == valid
            if valid:
                np.testing.assert_allclose(sample.targets.teacher["crop"].values[found], crops[k], atol=1e-3)
        assert sample.present.tolist() == sorted(set(sample.targets.concepts.tolist()))
    assert index.iscrowd.any()


def test_embeddings_are_removed_together_with_cropped_boxes(folder, monkeypatch):
    whole = {row: photos_of(folder, *STILL)[Place(0, 0, row)].targets for row in range(7)}
    monkeypatch.setattr("cckt.detector.data.dataset.draw_view", lambda *_: View((0, 0, 24, 24), (48, 48)))
    photos, lost = photos_of(folder, "guidance.order=row"), 0
    for row, targets in whole.items():
        width = float(photos.index.widths[row])
        corner = (targets.boxes[:, :2] - targets.boxes[:, 2:] / 2) * torch.tensor([width, 64.0])
        kept = (corner.round() < 24).all(1)
        sample = photos[Place(0, 0, row)]
        assert torch.equal(sample.targets.concepts, targets.concepts[kept]), row
        for name in ("values", "valid"):
            found, expected = (getattr(one.teacher["crop"], name) for one in (sample.targets, targets))
            assert torch.equal(found, expected[kept]), (row, name)
        assert sample.present.tolist() == sorted(set(targets.concepts[kept].tolist()))
        lost += int((~kept).sum())
    assert lost > 0


def crops_without_one_box(boxes, width, height):
    """Yield (row, crop) of crops to the right of box `row`, or below it, that show a later box."""
    for row, (_, _, x1, y1) in enumerate(boxes.tolist()):
        right, below = (0, round(x1), height, width - round(x1)), (round(y1), 0, height - round(y1), width)
        for crop in (right, below):
            top, left = crop[:2]
            if ((boxes[row + 1 :, 2] > left) & (boxes[row + 1 :, 3] > top)).any():
                yield row, crop


def test_boxes_concepts_and_embeddings_stay_together_if_a_crop_removes_an_earlier_box(folder, monkeypatch):
    photos, seen = photos_of(folder, "guidance.order=row"), 0
    index = photos.index
    crops = open_column(folder, "crops").all().astype(np.float32)
    for image in range(len(photos)):
        rows = np.flatnonzero((index.box_images == image) & ~index.iscrowd)
        boxes, width, height = index.box_xyxy[rows], int(index.widths[image]), int(index.heights[image])
        for removed, crop in crops_without_one_box(boxes, width, height):
            view = View(crop, (48, 48))
            monkeypatch.setattr("cckt.detector.data.dataset.draw_view", lambda *_, view=view: view)
            targets = photos[Place(0, 0, image)].targets
            top, left, crop_height, crop_width = crop
            corners = (boxes - [left, top, left, top]).clip(0, [crop_width, crop_height] * 2)
            kept = ((corners[:, 2:] - corners[:, :2]) > 0).all(1)
            assert not kept[removed]
            assert kept[removed + 1 :].any()
            corners = corners[kept] / ([crop_width, crop_height] * 2)
            expected = np.hstack([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]])
            np.testing.assert_allclose(targets.boxes.numpy(), expected, atol=1e-6)
            np.testing.assert_array_equal(targets.concepts.numpy(), index.box_concepts[rows][kept])
            valid = targets.teacher["crop"].valid.numpy()
            found = targets.teacher["crop"].values.numpy()
            np.testing.assert_array_equal(found[valid], crops[rows][kept][valid])
            seen += 1
    assert seen > 5


def test_a_sample_depends_only_on_seed_and_place(folder):
    one, two = photos_of(folder), pickle.loads(pickle.dumps(photos_of(folder)))  # noqa: S301
    np.random.seed(1)
    torch.manual_seed(1)
    first = [one[Place(1, 5, 3)], one[Place(1, 6, 3)], one[Place(2, 5, 3)]]
    np.random.seed(2)
    torch.manual_seed(2)
    assert same(first[0], two[Place(1, 5, 3)])
    assert not same(first[0], first[1])
    assert not same(first[0], first[2])
    other = photos_of(folder, "train.seed=1")
    assert any(not same(one[Place(0, k, 3)], other[Place(0, k, 3)]) for k in range(5))


def test_a_pickle_holds_paths_and_no_pixels(folder):
    photos = photos_of(folder)
    for row in range(7):
        photos.read(row)
    assert len(pickle.dumps(photos)) < 10_000


def test_photos_that_fit_in_memory_are_read_once(folder):
    photos = photos_of(folder)
    assert photos.fits_in_memory
    assert photos.read(3)[0] is photos.read(3)[0]
    large = photos_of(folder, "data.cache_photos=0")
    assert not large.fits_in_memory
    assert large.read(3)[0] is not large.read(3)[0]
    assert torch.equal(large.read(3)[0], photos.read(3)[0])


def test_a_batch_is_a_copy_of_the_kept_pixels(folder):
    photos = photos_of(folder, *STILL)
    batch = collate([photos[Place(0, 0, 3)], photos[Place(0, 0, 3)]])
    batch.images.zero_()
    assert photos.read(3)[0].any()


def test_an_unreadable_photo_becomes_a_black_image_with_a_reason(tmp_path):
    folder = make_data(tmp_path, photos=4)
    (folder / "photos" / "p3.png").write_bytes(b"no png")
    sample = photos_of(folder)[Place(0, 0, 3)]
    assert "p3.png" in sample.fault
    assert not sample.image.any()
    assert len(sample.targets) == 0
    assert photos_of(folder)[Place(0, 0, 2)].fault == ""


def test_nothing_that_is_known_about_an_unreadable_photo_is_learned(tmp_path):
    class Whole:
        def take(self, view, random):
            return TeacherRows(torch.ones(1, WIDTH), torch.tensor([True]), "image")

    folder = make_data(tmp_path, photos=4)
    photos = photos_of(folder, "guidance.add=3.0")
    photos.rows["image"] = Whole()
    assert photos[Place(0, 0, 3)].targets.teacher["image"].valid.tolist() == [True]
    (folder / "photos" / "p3.png").write_bytes(b"no png")
    photos = photos_of(folder, "guidance.add=3.0")
    photos.rows["image"] = Whole()
    sample = photos[Place(0, 0, 3)]
    assert sample.targets.teacher["image"].valid.tolist() == [False], "a black image is not this photo"
    assert len(sample.present) == 0


def test_without_a_contrastive_loss_crops_are_not_needed(tmp_path, folder):
    photos = photos_of(folder, "terms.region_contrast.weight=0", *STILL)
    assert photos.rows == {}
    assert photos[Place(0, 0, 3)].targets.teacher == {}


def test_guidance_equals_the_annotations_without_noise():
    concepts, rng = np.array([1, 4, 7]), np.random.default_rng(0)
    assert draw_guidance(concepts, 9, GuidanceConfig(order="row"), rng).tolist() == [1, 4, 7]
    orders = {tuple(draw_guidance(concepts, 9, GuidanceConfig(), rng).tolist()) for _ in range(50)}
    assert len(orders) == 6
    assert all(sorted(order) == [1, 4, 7] for order in orders)


def test_guidance_noise_has_the_configured_rates():
    concepts, rng = np.array([1, 4, 7]), np.random.default_rng(0)
    config = GuidanceConfig(drop=0.2, add=0.5, none=0.1)
    draws = [draw_guidance(concepts, 9, config, rng).tolist() for _ in range(3000)]
    seen = Counter(concept for draw in draws for concept in draw)
    assert sum(seen[c] for c in (1, 4, 7)) / 9000 == pytest.approx(0.9 * 0.8, abs=0.02)
    assert sum(n for c, n in seen.items() if c not in (1, 4, 7)) / 3000 == pytest.approx(0.9 * 0.5, abs=0.04)
    assert all(len(set(draw)) == len(draw) for draw in draws)


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_give_the_same_batches(folder, start):
    schedule = Schedule(7, 0, 3, last_step=4)
    in_process = list(batches(photos_of(folder), schedule))
    config = ("data.cache_photos=0", f"data.workers={1 if start == 'spawn' else 2}")
    by_workers = list(batches(photos_of(folder, *config), schedule, start=start))
    assert len(in_process) == len(by_workers) == 4
    assert all(same(a, b) for a, b in zip(in_process, by_workers, strict=True))


def test_a_batch_pads_photos_targets_and_guidance(folder):
    photos = photos_of(folder, *STILL)
    samples = [photos[Place(0, 0, row)] for row in (0, 3, 5)]
    batch = collate(samples)
    assert batch.images.shape == (3, 3, 64, 80)
    assert batch.padding.any((1, 2)).tolist() == [True, False, False]
    assert batch.targets.counts == tuple(len(sample.targets) for sample in samples)
    assert batch.rows == [0, 3, 5]
    text = torch.from_numpy(unit_rows(4, 0))
    given_text = batch.guidance(text)
    assert given_text.counts.tolist() == [len(sample.present) for sample in samples]
    for row, sample in enumerate(samples):
        count = len(sample.present)
        assert torch.equal(given_text.embeddings[row, :count], text[sample.present])
        assert not given_text.embeddings[row, count:].any()
    assert same(batch.to(torch.device("cpu")), batch)


def test_a_novel_target_fails_an_assertion_even_after_the_leak_check(folder):
    photos = photos_of(folder)
    photos.base_of[:] = -1
    with pytest.raises(AssertionError, match="not base"):
        [photos[Place(0, 0, row)] for row in range(7)]
