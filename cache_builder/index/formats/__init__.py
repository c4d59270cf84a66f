"""Readers of annotation formats. Each one turns a file of its format into `Annotations`.

    coco.py          COCO-format JSON: COCO, LVIS, Objects365 and custom files
    yolo.py          YOLO folders: data.yaml and one text file of labels per image
    yolo_card.py     data.yaml of a YOLO folder: class names, keypoints, folder, photos
    voc.py           Pascal VOC folders: one XML file per image
    image_folder.py  folders of images without annotations
    coco_repairs.py  repair the records of a COCO file where they can only mean one thing
    merge.py         merge the annotations of several files
    segmentation.py  boxes of polygons and of masks
    repairs.py       the list of what was repaired
    json_stream.py   read the lists of a large JSON file record by record

To add a format, write one file with a function that satisfies `AnnotationReader` and give it to
`build_index`. The reader checks the syntax of its format. `Annotations` checks what all formats have in
common: ids are unique, boxes refer to known images and concepts, file names stay inside the images folder.
Splits, clipping, sorting and writing do not depend on the format.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.errors import UserError, counted
from cckt.cache_builder.base.progress import Progress
from cckt.cache_builder.index.file_names import check_inside, plain_name
from cckt.cache_builder.index.formats.repairs import Repairs
from cckt.cache_builder.vocabulary import Concept

IMAGE_DTYPE = np.dtype([("id", "<i8"), ("width", "<i4"), ("height", "<i4")])
"""One image: its id, and its size in pixels."""

BOX_DTYPE = np.dtype(
    {
        "names": ["id", "image_id", "category_id", "xywh", "area", "iscrowd", "difficult"],
        "formats": ["<i8", "<i8", "<i8", ("<f8", 4), "<f8", "i1", "i1"],
    }
)
"""One box. xywh: left, top, width, height in pixels; may be non-finite or outside the image. area: square
pixels, NaN where the file has none."""


def _no_marks() -> NDArray[np.int64]:
    return np.empty((0, 2), np.int64)


@dataclass
class Annotations:
    """The annotations of a data set, in the order of the file. I images, M boxes, C concepts.

    Raises UserError unless ids are unique, every box refers to a listed image and category, and every file
    name stays inside the images folder.
    """

    path: Path
    """File or folder that was read; messages name it."""
    digest: str = ""
    """"sha256:..." of the bytes that were read."""
    images: NDArray[np.void] = field(default_factory=lambda: np.empty(0, IMAGE_DTYPE))
    """(I,) of IMAGE_DTYPE."""
    file_names: list[str] = field(default_factory=list)
    """I names relative to the images folder."""
    boxes: NDArray[np.void] = field(default_factory=lambda: np.empty(0, BOX_DTYPE))
    """(M,) of BOX_DTYPE."""
    concepts: list[Concept] = field(default_factory=list)
    """C concepts by ascending category id; their split is assigned later."""
    parents: list[int] = field(default_factory=list)
    """Ids of categories without boxes that other categories name as their supercategory."""
    image_counts: list[int | None] = field(default_factory=list)
    """C numbers of training images that show the concept (LVIS), None where the file has none."""
    negatives: NDArray[np.int64] = field(default_factory=_no_marks)
    """(K, 2) pairs (position of the image in `images`, category id): verified absent (LVIS)."""
    not_exhaustive: NDArray[np.int64] = field(default_factory=_no_marks)
    """(K, 2) pairs as above: not every instance is annotated (LVIS)."""

    repairs: Repairs = field(default_factory=Repairs)
    """What --lenient repaired."""

    notes: list[str] = field(default_factory=list)
    """Sentences on how the format was read, for the report."""
    turned: bool = False
    """The format itself says that boxes refer to photos as their EXIF orientation turns them."""

    def image_of_box(self) -> NDArray[np.int64]:
        """Return (M,) the position in `images` of the image of each box."""
        return positions_in(self.images["id"], self.boxes["image_id"])

    def __post_init__(self) -> None:
        for name, image_id in zip(self.file_names, self.images["id"].tolist(), strict=True):
            check_inside(
                name,
                f"{self.path}: the file name {name!r} of image {image_id}",
                self.repairs.hint("takes the one file of that base name inside --images"),
            )
        self.file_names = [plain_name(name) for name in self.file_names]
        self._check_ids()

    def _check_ids(self) -> None:
        image_ids, boxes = self.images["id"], self.boxes
        category_ids = np.array([concept.category_id for concept in self.concepts], np.int64)
        for kind, ids in (("image", image_ids), ("annotation", boxes["id"]), ("category", category_ids)):
            ordered = np.sort(ids)
            repeated = ordered[1:][ordered[1:] == ordered[:-1]]
            if len(repeated):
                raise UserError(
                    f"{self.path} has the {kind} id {repeated[0]} more than once ({len(np.unique(repeated))} "
                    "such ids): ids must be unique; renumber or remove the duplicates"
                    + (self.repairs.hint("numbers them by file order") if kind == "annotation" else "")
                )
        for kind, referred, listed in (
            ("image", boxes["image_id"], image_ids),
            ("category", boxes["category_id"], category_ids),
        ):
            unknown = np.flatnonzero(~np.isin(referred, listed))
            if len(unknown):
                first = unknown[0]
                raise UserError(
                    f"{self.path}: annotation {boxes['id'][first]} belongs to {kind} {referred[first]}, "
                    f"which the file does not list ({counted(len(unknown), 'such annotation')}); "
                    f"add the {kind} or remove the annotations"
                )


def positions_in(table: NDArray[np.int64], values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the position in `table`, in any order without repetition, of each value. All are in it."""
    order = np.argsort(table, kind="stable")
    positions: NDArray[np.int64] = order[np.searchsorted(table, values, sorter=order)]
    return positions


class AnnotationReader(Protocol):
    """A function that reads one format."""

    def __call__(self, path: Path, progress: Progress, repairs: Repairs) -> Annotations:
        """Read `path`. Raises UserError for a file that is missing or not of this format.

        repairs: where they are enabled, what can only mean one thing is repaired and noted there.
        """
