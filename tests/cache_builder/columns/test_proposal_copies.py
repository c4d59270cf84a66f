"""Rows of proposals that are copied when a data set grows: the same bytes, or every row made again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cckt.cache_builder.columns.proposals import cache_proposals
from cckt.cache_builder.index import open_index
from cckt.cache_builder.proposals import Provenance, Selection, open_proposals
from cckt.cache_builder.store import open_column
from tests.cache_builder.column_samples import tree
from tests.cache_builder.columns.growth.growing import Edited, some_photos
from tests.cache_builder.columns.test_proposals import Corners

SELECTION = Selection(top=4, nms=0.7, min_side=4)


class Whole(Corners):
    """Finds a box that depends on the pixels of the photo, and if `together` on the size of the batch."""

    def __init__(self, weights: str = "sha256:w", together: bool = False) -> None:
        super().__init__()
        self.provenance = Provenance("detector", "whole", weights, saw_novel="no")
        self.together = together

    def propose(self, views: Sequence[Any]) -> list[tuple[np.ndarray, np.ndarray]]:
        self.seen.append(len(views))
        moved = 0.01 * len(views) if self.together else 0.0
        return [
            (np.array([[0.1 + moved, 0.1, 0.6 + pixels.mean() / 1000, 0.9]]), np.ones(1))
            for _, pixels in views
        ]


def make(data: Path, proposer: Whole, **options: Any) -> Any:
    return cache_proposals(
        data, proposer, selection=SELECTION, **{"chunk_rows": 4, "batch": 4, "workers": 0, **options}
    )


def grown(folder: Path) -> Edited:
    """Make the proposals of ten photos, then add a photo, remove one, and annotate a box that one repeats."""
    edited = some_photos(folder, photos=10, boxes=1)
    edited.boxes = {key: (name, (1.0, 1.0, 6.0, 6.0), 0) for key, (name, _, _) in edited.boxes.items()}
    make(edited.index(folder / "data"), Whole())
    edited.add_photo("zzz.png", 30)
    edited.remove_photo("001.png")
    edited.add_box("004.png", (5.2, 5.2, 31.0, 41.6))
    edited.index(folder / "data")
    return edited


def test_rows_of_unchanged_photos_are_copied_with_new_marks(tmp_path: Path) -> None:
    edited, proposer = grown(tmp_path), Whole()
    report = make(tmp_path / "data", proposer)
    assert (report.copied_rows, report.made_rows) == (9, 1)
    assert proposer.seen == [4, 4, 1, 1], "nine rows compared, one made"
    make(edited.index(tmp_path / "fresh"), Whole())
    assert tree(tmp_path / "data/proposals") == tree(tmp_path / "fresh/proposals")
    table = open_proposals(tmp_path / "data", open_index(tmp_path / "data"))
    assert table.repeats.sum() == 1, "of the box that was annotated since"


def test_boxes_that_depend_on_the_batch_are_all_made_again(tmp_path: Path) -> None:
    edited = grown(tmp_path)
    proposer = Whole(together=True)
    report = make(tmp_path / "data", proposer)
    assert report.copied_rows == 0
    assert "9 of 9 photos have other boxes when they are made again here, so no row was copied" in str(
        report.notes
    )
    make(edited.index(tmp_path / "fresh"), Whole(together=True))
    assert tree(tmp_path / "data/proposals") == tree(tmp_path / "fresh/proposals")


def test_rows_are_copied_without_a_comparison_as_asked(tmp_path: Path) -> None:
    grown(tmp_path)
    before = open_column(tmp_path / "data", "proposals/boxes").all()
    report = make(tmp_path / "data", Whole(together=True), reuse="any")
    assert (report.copied_rows, report.made_rows) == (9, 1)
    after = open_column(tmp_path / "data", "proposals/boxes").all()
    assert (after[1:3, :5] == before[2:4, :5]).all(), "photo 2 is row 1 now"


def test_another_detector_copies_nothing(tmp_path: Path) -> None:
    grown(tmp_path)
    proposer = Whole(weights="sha256:other")
    report = make(tmp_path / "data", proposer, reuse="any")
    assert (report.copied_rows, sum(proposer.seen)) == (0, 10)
