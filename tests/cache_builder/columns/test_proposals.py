"""The column `proposals/boxes`, its table, and crops of proposals: made, killed, shared, checked, refused."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Silent
from cckt.cache_builder.columns import proposals as room
from cckt.cache_builder.columns.all_at_once import cache_photos
from cckt.cache_builder.columns.crops import CropReader, cache_crops, photo_spans
from cckt.cache_builder.columns.proposals import cache_proposals, import_proposals
from cckt.cache_builder.columns.recompute import verify_data
from cckt.cache_builder.columns.views import jittered_boxes
from cckt.cache_builder.doctor.data import check_data
from cckt.cache_builder.index import open_index
from cckt.cache_builder.proposals import Provenance, Selection, leak, list_proposals, open_proposals
from cckt.cache_builder.store import column_info, diff_columns, open_column, pull, repair_command
from cckt.cache_builder.teacher.clip import Teacher
from tests.cache_builder.column_samples import tree
from tests.cache_builder.samples import index_photos, write_photos

SELECTION = Selection(top=4, nms=0.7)
BAD = np.array([[0.0, 0.0, 0.05, 0.05]])
"""Too small."""


class Corners:
    """A proposer for tests: boxes that depend on the pixels; none for photo 4, known by its size."""

    def __init__(self, empty: tuple[int, int] | None = None, small: bool = False) -> None:
        self.provenance = Provenance("detector", "corners", "sha256:w", saw_novel="no")
        self.recipe: dict[str, Any] = {"size": 8}
        self.empty, self.small = empty, small
        self.seen: list[int] = []

    def prepare(self, photo: Image.Image) -> tuple[tuple[int, int], np.ndarray]:
        return photo.size, np.asarray(photo.resize((4, 4)), np.float64)

    def propose(self, views: Sequence[Any]) -> list[tuple[np.ndarray, np.ndarray]]:
        self.seen.append(len(views))
        found = []
        for size, pixels in views:
            if self.small or size == self.empty:
                found.append((BAD, np.ones(1)))
                continue
            rng = np.random.default_rng(int(pixels.sum()))
            corners = rng.uniform(0, 0.5, (9, 2))
            found.append(
                (np.concatenate([corners, corners + rng.uniform(0.3, 0.7, (9, 2))], 1), rng.random(9))
            )
        return found


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "set", photos=6, boxes=2)


def size_of(data: Path, image: int) -> tuple[int, int]:
    index = open_index(data)
    return int(index.widths[image]), int(index.heights[image])


def make(data: Path, **options: Any):
    proposer = options.pop("proposer", None) or Corners(size_of(data, 4))
    return cache_proposals(data, proposer, selection=SELECTION, **{"chunk_rows": 2, "workers": 0, **options})


def test_a_table_holds_the_rows_of_the_column(data: Path) -> None:
    report = make(data)
    index = open_index(data)
    table = open_proposals(data, index)
    column = open_column(data, "proposals/boxes", index_digest=index.digest)
    assert (column.rows, column.width, column.dtype) == (6, 24, np.float32)
    assert column.valid_all().all(), "an image without a proposal has a valid row"
    rows = column.all().reshape(6, 4, 6)
    seen = 0
    for image in range(6):
        part = table.boxes_of(image)
        count = part.stop - part.start
        np.testing.assert_array_equal(table.box_xyxy[part], rows[image, :count, :4])
        np.testing.assert_array_equal(table.scores[part], rows[image, :count, 4])
        np.testing.assert_array_equal(table.repeats[part], rows[image, :count, 5] == 1)
        assert (np.diff(table.scores[part]) <= 0).all(), "best first"
        assert (table.box_images[part] == image).all()
        assert table.ranks[part].tolist() == list(range(count))
        assert (count == 0) == (image == 4)
        seen += count
    assert len(table) == seen > 6
    assert table.provenance == Provenance("detector", "corners", "sha256:w", saw_novel="no")
    assert report.notes[0].startswith(f"{seen} proposals, ")
    assert report.notes[1] == "1 image has no proposal"


def test_kills_and_many_makers_change_no_byte(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(data)
    whole = tree(data / "proposals/boxes")
    digest = open_proposals(data, open_index(data)).digest
    shutil.rmtree(data / "proposals")
    proposer = Corners(size_of(data, 4))
    monkeypatch.setattr(room, "load_or_reason", _failing(3))
    with pytest.raises(RuntimeError, match="killed"):
        make(data, proposer=proposer)
    monkeypatch.undo()
    assert column_info(data, "proposals/boxes").missing
    with pytest.raises(UserError, match="is not finished"):
        open_proposals(data, open_index(data))
    make(data, part=(1, 2), workers=2)
    report = make(data)
    assert report.skipped_chunks > 0
    assert tree(data / "proposals/boxes") == whole
    assert open_proposals(data, open_index(data)).digest == digest


def _failing(at: int):
    load, calls = room.load_or_reason, []

    def failing(*args: Any, **options: Any):
        calls.append(1)
        if len(calls) > at:
            raise RuntimeError("killed")
        return load(*args, **options)

    return failing


def test_an_unreadable_photo_has_no_proposals(data: Path) -> None:
    (data.parent / "photos" / "003.png").write_text("not a photo")
    report = make(data)
    assert report.invalid == 1
    assert "003.png is not an image in a supported format" in report.notes
    table = open_proposals(data, open_index(data))
    assert table.boxes_of(3) == slice(table.offsets[3], table.offsets[3])


def test_a_detector_without_proposals_is_refused(data: Path) -> None:
    with pytest.raises(
        UserError, match=r"detector corners found no proposal of at least 16 px .* --overwrite"
    ):
        make(data, proposer=Corners(small=True))
    with pytest.raises(UserError, match=r"without a proposal in any of its 6 images.*--min-side below 16 px"):
        open_proposals(data, open_index(data))


def test_no_table_and_a_table_of_another_index_are_refused(data: Path) -> None:
    with pytest.raises(UserError, match=r"no column proposals/boxes .*`cckt cache proposals "):
        open_proposals(data, open_index(data))
    make(data)
    annotations = data.parent / "coco.json"
    annotations.write_text(
        annotations.read_text().replace('"area"', '"surface"', 1).replace("[3.0, ", "[4.0, ")
    )
    index_photos(data.parent)
    with pytest.raises(UserError, match="was made for another index: found sha256:"):
        open_proposals(data, open_index(data))
    assert "made for another index" in "; ".join(
        one.message for one in check_data(data) if one.level == "bad"
    )


def results(data: Path, **changes: Any) -> Path:
    index, records = open_index(data), []
    for image in (0, 1, 5):
        size = index.widths[image], index.heights[image]
        records.append({"image_id": image, "bbox": [2, 3, int(size[0]) - 9, int(size[1]) - 9], "score": 0.5})
        records.append({"image_id": image, "bbox": [9, 9, 20, 18], "score": 0.75 + image / 100})
    path = data.parent / "found.json"
    path.write_text(json.dumps([one | changes for one in records]))
    return path


def test_an_imported_file_gives_its_boxes_best_first(data: Path) -> None:
    report = import_proposals(data, results(data), selection=SELECTION, trained_on="VOC", saw_novel="no")
    table = open_proposals(data, open_index(data))
    assert np.diff(table.offsets).tolist() == [2, 2, 0, 0, 0, 2]
    np.testing.assert_array_equal(table.box_xyxy[0], [9, 9, 29, 27])
    assert table.scores[:2].tolist() == [0.75, 0.5]
    maker = table.provenance
    assert (maker.maker, maker.name, maker.trained_on, maker.saw_novel) == (
        "import",
        "found.json",
        "VOC",
        "no",
    )
    assert report.notes[1] == "3 images have no proposal"
    command = repair_command("d", "proposals/boxes", table.recipe)
    expected = "cckt cache proposals d --import FILE --trained-on VOC --saw-novel no --top 4 --nms 0.7"
    assert command == expected


def test_a_corrected_statement_on_the_maker_keeps_the_table(data: Path) -> None:
    import_proposals(data, results(data))
    digest = open_proposals(data, open_index(data)).digest
    with pytest.raises(UserError, match="holds a column of another recipe"):
        import_proposals(data, results(data), saw_novel="no")
    import_proposals(data, results(data), saw_novel="no", overwrite=True)
    assert open_proposals(data, open_index(data)).digest == digest


def test_an_import_that_cannot_be_used_writes_nothing(data: Path) -> None:
    with pytest.raises(UserError, match=r"all of its 6 boxes are under 16 px on a side.*lower --min-side"):
        import_proposals(data, results(data, bbox=[1, 1, 15, 40]))
    with pytest.raises(UserError, match="--saw-novel maybe: expected yes, no or unknown"):
        import_proposals(data, results(data), saw_novel="maybe")
    assert list_proposals(data) == []


def test_crops_of_proposals_equal_crops_of_the_same_boxes(data: Path, teacher: Teacher) -> None:
    """The boxes of an index, imported as proposals, have the embeddings of its annotated boxes."""
    index = open_index(data)
    records = [
        {"image_id": int(image), "bbox": [*box[:2], *(box[2:] - box[:2])], "score": -float(row)}
        for row, (image, box) in enumerate(zip(index.box_images, index.box_xyxy, strict=True))
    ]
    path = data.parent / "same.json"
    path.write_text(json.dumps(records))
    import_proposals(data, path, selection=Selection(9, nms=1.0, min_side=0.0))
    table = open_proposals(data, index)
    assert len(table) == len(index.box_images)
    for crop in ("box", "square"):
        cache_crops(data, teacher, crop=crop, overwrite=True)
        cache_crops(data, teacher, crop=crop, of="proposals", overwrite=True)
        ours, theirs = open_column(data, "proposals/crops"), open_column(data, "crops")
        both = ours.valid_all() & theirs.valid_all()
        assert both.sum() == len(both) - 2, "a crowd and a small box"
        np.testing.assert_allclose(ours.all()[both], theirs.all()[both], atol=2e-3)
        assert ours.manifest.spec.index_digest == table.digest


def test_making_proposals_again_invalidates_their_crops_only(data: Path, teacher: Teacher) -> None:
    make(data)
    cache_photos(data, teacher, kinds=("crops",), workers=0)
    reports = cache_photos(data, teacher, kinds=("crops",), of="proposals", flipped=True, jitter=1, workers=0)
    names = [report.name for report in reports]
    assert names == ["proposals/crops", "proposals/crops-flipped", "proposals/crops-jitter-1"]
    assert all(report.ok for report in verify_data(data))
    import_proposals(data, results(data), overwrite=True)
    found = {
        report.name: [problem.kind for problem in report.problems] for report in verify_data(data, sample=0)
    }
    assert found["crops"] == found["proposals/boxes"] == []
    assert found["proposals/crops"] == ["index", "rows"]
    with pytest.raises(
        UserError, match=r"a column of another proposals table: found sha256:.*expected sha256:"
    ):
        cache_crops(data, teacher, of="proposals", crop="square")
    message = "; ".join(one.message for one in check_data(data) if one.level == "bad")
    assert "made for another proposals table" in message
    assert "--of proposals" in message
    cache_crops(data, teacher, of="proposals", workers=0)
    assert all(report.ok for report in verify_data(data, ["proposals/crops"], sample=0))


def test_a_second_table_has_its_own_columns(data: Path, teacher: Teacher, tmp_path: Path) -> None:
    make(data)
    import_proposals(data, results(data), name="file")
    assert list_proposals(data) == ["file", ""]
    cache_crops(data, teacher, of="proposals-file", name="b")
    spec = open_column(data, "proposals-file/crops-b").manifest.spec
    assert spec.index_digest == open_proposals(data, open_index(data), "file").digest
    command = repair_command("d", spec.name, spec.recipe)
    assert command.startswith("cckt cache crops d --of proposals-file --name b --teacher ")
    pull(data, tmp_path / "copy")
    assert tree(tmp_path / "copy/proposals-file") == tree(data / "proposals-file")
    assert diff_columns(
        (data, "proposals-file/boxes"), (tmp_path / "copy", "proposals-file/boxes")
    ).same_bytes


@pytest.mark.parametrize("of", ["proposal", "proposals-", "images", ""])
def test_an_unknown_table_is_refused(data: Path, teacher: Teacher, of: str) -> None:
    with pytest.raises(UserError, match=f"--of {of}: expected boxes, proposals or proposals-NAME"):
        cache_crops(data, teacher, of=of)


def test_a_reader_of_proposals_is_picklable(data: Path, teacher: Teacher) -> None:
    make(data)
    table = open_proposals(data, open_index(data))
    reader = CropReader(table, teacher.preprocess)
    sent = pickle.loads(pickle.dumps(reader))  # noqa: S301
    (lo, hi), *_ = photo_spans(table.box_images, 0)
    for ours, theirs in zip(reader(lo, hi), sent(lo, hi), strict=True):
        np.testing.assert_array_equal(ours.data, theirs.data)


def test_jitter_of_a_proposal_depends_on_its_image_and_rank(data: Path) -> None:
    make(data)
    table = open_proposals(data, open_index(data))
    rows = np.arange(len(table))
    moved = jittered_boxes(table, rows, 1)
    np.testing.assert_array_equal(jittered_boxes(table, rows[3:5], 1), moved[3:5])
    assert (moved != table.box_xyxy).any(1).all()
    assert (moved != jittered_boxes(table, rows, 2)).any(1).all()


def test_a_leak_is_told_before_the_detector_works(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Notes(Silent):
        def __init__(self) -> None:
            self.told: list[str] = []

        def note(self, message: str) -> None:
            self.told.append(message)

    class Stop(Exception):
        pass

    class Stopped(Corners):
        def propose(self, views: Sequence[Any]) -> list[tuple[np.ndarray, np.ndarray]]:
            raise Stop

    monkeypatch.setattr(leak, "is_guarded", lambda index: True)
    proposer, notes = Stopped(), Notes()
    proposer.provenance = Provenance("detector", "corners", "sha256:w", saw_novel="yes")
    with pytest.raises(Stop):
        make(data, proposer=proposer, progress=notes)
    (told,) = notes.told
    assert told.startswith("warning: detector corners")
    assert told.endswith("training under an open-vocabulary protocol refuses it")
