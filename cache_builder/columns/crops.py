"""The columns `crops` and `proposals/crops`: the teacher's embedding of every annotated box, or of every
proposal (docs/method/cckt_det.md, eq. 2; docs/method/hd_ovd.md, section 3)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cckt.cache_builder.base.constants import CROP, MIN_SIDE, TABLE
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.columns.fast_pixels import agreement_of, as_pixels, fast_pixels
from cckt.cache_builder.columns.growth.begin import require_same_bytes
from cckt.cache_builder.columns.images import CopyingReader, encoder, teacher_recipe
from cckt.cache_builder.columns.options import Making, Options
from cckt.cache_builder.columns.remake import Made, Remake, remake_from_photos
from cckt.cache_builder.columns.report import CacheReport, report_of
from cckt.cache_builder.columns.views import (
    PLAIN,
    BoxTable,
    index_of,
    jittered_boxes,
    photos_with_crops,
    usable_boxes,
    view_recipe,
)
from cckt.cache_builder.index import Index, open_index
from cckt.cache_builder.photos import check_photos, load_or_reason
from cckt.cache_builder.proposals import open_proposals
from cckt.cache_builder.runner import Item, run_chunks
from cckt.cache_builder.store import ColumnName, ColumnSpec, check_label, column_spec
from cckt.cache_builder.store.kinds import FLIPPED, PROPOSALS
from cckt.cache_builder.teacher.clip import Teacher
from cckt.cache_builder.teacher.crop_rules import (
    RULES,
    check_rule,
    crop_rectangles,
    foreground,
)
from cckt.cache_builder.teacher.preprocess import Preprocess

CROWD = "the box is a crowd"
SMALL = f"the box is under {MIN_SIDE:.0f} px on a side"


def cache_crops(
    data: Path,
    teacher: str | Teacher,
    *,
    crop: str = CROP,
    view: str = "",
    name: str = "",
    fast: bool = False,
    of: str = TABLE,
    **options: Unpack[Options],
) -> CacheReport:
    """Make the column `crops` of the data set `data`: (M, D) float16 unit, row m for box m.

    of: "proposals", or "proposals-NAME" for a second table, makes `proposals/crops` instead: (P, D), row p
    for proposal p.

    crop: "box", the rectangle (the default and the paper's rule), or "square", the context square around its
    centre; see `crop_rectangles`. Crops go through the teacher's preprocessing. Rows of crowds and of boxes
    under 16 px on a side are invalid (zeros, flag 0). Each photo is decoded once for each chunk; crops of
    several photos share a batch. view: "flipped" makes the column `crops-flipped` of mirrored crops,
    "jitter-K" the column `crops-jitter-K` of boxes moved and scaled; `cache_photos` makes several views from
    one decoding. name, fast: see `cache_images`. options: see `Making`.

    After a kill the same call resumes. Raises UserError for what the user can correct.
    """
    making = Making(**options)
    check_rule(crop)
    index = open_index(data)
    table = box_table(data, index, of)
    photos = photos_with_crops(table)
    if of != TABLE and not len(photos):
        raise UserError(
            f"{data}: all {len(table)} proposals of {of} are under {MIN_SIDE:.0f} px on a side, expected "
            "larger ones that a teacher can embed; make them again with a larger --min-side or from another "
            "source, and --overwrite."
        )
    check_photos(index, photos)
    loaded = making.teacher(teacher)
    column = replace(crops_name(table), label=check_label(name), view=view)
    spec = crops_spec(table, loaded, crop, making.batch, making.chunk_rows, column, fast)
    reader = crop_reader(table, loaded, crop, view, fast, making.strict)
    encode = crop_encoder(loaded, crop, making.batch)
    growth = making.begin(data, spec, table)  # after everything that may be refused
    donor, writer = growth.donor, growth.writer
    if donor is not None and fast:
        donor.reduction = reader.reduction_of
    require_same_bytes(growth, reader, encode, making.reuse)

    def spans(lo: int, hi: int) -> list[tuple[int, int]]:
        found = photo_spans(table.box_images[lo:hi], lo)
        return donor.long_spans(found) if donor is not None else found

    run = run_chunks(
        writer,
        reader if donor is None else CopyingReader(reader, donor),
        encode,
        batch=making.batch,
        independent=True,
        spans=spans,
        unit="boxes" if of == TABLE else "proposals",
        **making.reading,
    )
    agreed = None
    if fast:
        agreed = agreement_of(growth.readable, run.manifest, replace(reader, fast=False), loaded)
    growth.finish(run.manifest)
    return report_of(
        writer,
        run,
        making.reporter,
        strict=making.strict,
        expected=(CROWD, SMALL),
        agreement=agreed,
        photos=len(photos),
    )


@dataclass(frozen=True)
class CropReader:
    """Reads rows of `crops` and of its views: the teacher's (3, S, S) uint8 pixels of a box. Picklable.

    table: the boxes to crop, of an index or of its proposals.
    fast: near the teacher's preprocessing, not equal to it. on_device: with `fast`, leave the resize to the
    device; the data are uint8 pixels (3, h, w) of any size.
    """

    table: BoxTable
    preprocess: Preprocess
    crop: str = CROP
    strict: bool = False
    view: str = ""
    fast: bool = False
    on_device: bool = False
    grid: int = 0
    """Patches on a side, of the rule "oadp"; its data are (pixels, foreground patches (G, G) bool)."""

    @property
    def index(self) -> Index:
        """The index that the table belongs to."""
        return index_of(self.table)

    def __call__(self, lo: int, hi: int) -> Iterable[Item]:
        """Return the items of box rows [lo, hi) of one photo, decoded only if a box has an embedding."""
        photo: Image.Image | str = ""
        if usable_boxes(self.table, lo, hi).any():
            image = int(self.table.box_images[lo])
            photo = load_or_reason(self.index, image, strict=self.strict, reduction=self.reduction(image))
        return self.items(lo, hi, photo)

    def items(self, lo: int, hi: int, photo: Image.Image | Tensor | str) -> list[Item]:
        """Return the same items; photo: decoded (an image, or `as_pixels` of it), or why it cannot be."""
        usable, crowd = usable_boxes(self.table, lo, hi), self.table.iscrowd[lo:hi]
        items = [
            Item(row, reason=CROWD if crowd[row - lo] else SMALL)
            for row in (lo + np.flatnonzero(~usable)).tolist()
        ]
        rows = lo + np.flatnonzero(usable)
        if isinstance(photo, str):
            return items + [Item(row, reason=photo) for row in rows.tolist()]
        if not len(rows):
            return items
        flipped = self.view == FLIPPED
        if self.fast:
            whole = as_pixels(photo)
            for row, part in zip(rows.tolist(), self._parts(rows, whole), strict=True):
                items.append(Item(row, fast_pixels(self.preprocess, part, self.on_device, flipped)))
            return items
        assert isinstance(photo, Image.Image)
        rectangles = self._rectangles(rows)
        masks = foreground(self._boxes(rows), rectangles, self.grid) if self.grid else None
        for at, (row, (left, top, right, bottom)) in enumerate(
            zip(rows.tolist(), rectangles.tolist(), strict=True)
        ):
            crop = photo.crop((left, top, right, bottom))
            if flipped:
                crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            pixels = self.preprocess.pixels(crop)
            if masks is not None:
                items.append(Item(row, (pixels, masks[at, :, ::-1] if flipped else masks[at])))
            else:
                items.append(Item(row, pixels))
        return items

    def reduction_of(self, table: BoxTable, image: int) -> int:
        """Return `reduction` for an image row of another table."""
        return replace(self, table=table).reduction(image)

    def reduction(self, image: int) -> int:
        """Return n such that the JPEG of an image row may be decoded at 1/n for all its crops."""
        boxes = self.table.boxes_of(image)
        if not self.fast:
            return 1
        rows = boxes.start + np.flatnonzero(usable_boxes(self.table, boxes.start, boxes.stop))
        rectangles = self._rectangles(rows)
        return self.preprocess.reduction(rectangles[:, 2:] - rectangles[:, :2])

    def _rectangles(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n, 4) rectangles of box rows (n,) of one photo, in whole pixels of its full size."""
        if not len(rows):
            return np.zeros((0, 4), np.int64)
        image = int(self.table.box_images[rows[0]])
        size = int(self.index.widths[image]), int(self.index.heights[image])
        return crop_rectangles(self._boxes(rows), size, self.crop)

    def _boxes(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """(n, 4) boxes of rows (n,), jittered if the view is."""
        number = ColumnName("crops", view=self.view).jitter
        return jittered_boxes(self.table, rows, number) if number else self.table.box_xyxy[rows]

    def _parts(self, rows: NDArray[np.int64], pixels: Tensor) -> Iterator[Tensor]:
        """Views into the photo (3, H, W), which may be reduced in size."""
        image = int(self.table.box_images[rows[0]])
        full = np.array([self.index.widths[image], self.index.heights[image]] * 2)
        shown = np.array([pixels.shape[2], pixels.shape[1]] * 2)
        rectangles = self._rectangles(rows)
        if (full != shown).any():
            rectangles = np.rint(rectangles * (shown / full)).astype(np.int64)
        for left, top, right, bottom in rectangles.tolist():
            yield pixels[:, top:bottom, left:right]


def crop_reader(
    table: BoxTable, teacher: Teacher, crop: str, view: str = "", fast: bool = False, strict: bool = False
) -> CropReader:
    """Return the reader for a teacher; on CUDA the device resizes.

    Raises UserError for the rule "oadp" with `fast`, or with a teacher that is no ViT.
    """
    if crop == "oadp" and fast:
        raise UserError("--fast cannot be used with --crop oadp, which masks exact patches. Remove one.")
    on_device = fast and teacher.device.type == "cuda"
    grid = teacher.two_stream.grid if crop == "oadp" else 0
    return CropReader(table, teacher.preprocess, crop, strict, view, fast, on_device, grid)


def crop_encoder(
    teacher: Teacher, crop: str, batch: int
) -> Callable[[list[Any]], Callable[[], NDArray[np.float32]]]:
    """Return the runner's map of the items of a `CropReader` with the rule `crop`; see `images.encoder`."""
    if crop != "oadp":
        return encoder(teacher, batch)

    def encode(
        items: list[tuple[NDArray[np.uint8], NDArray[np.bool_]]],
    ) -> Callable[[], NDArray[np.float32]]:
        pixels, masks = zip(*items, strict=True)
        return teacher.launch_masked(np.stack(pixels), np.stack(masks), batch)

    return encode


def box_table(data: Path, index: Index, of: str) -> BoxTable:
    """Return the table that `of` names: "boxes" is the index, "proposals" or "proposals-NAME" a proposals
    table.

    Raises UserError for another name, and for a proposals table that is missing, unfinished, empty or of
    another index.
    """
    table, dash, label = of.partition("-")
    if of == TABLE:
        return index
    if table != PROPOSALS or (dash and not label):
        raise UserError(f"--of {of}: expected boxes, proposals or proposals-NAME; name one of these.")
    return open_proposals(data, index, check_label(label))


def crops_name(table: BoxTable) -> ColumnName:
    """Return the name of the plain column of crops over a table."""
    return PLAIN if isinstance(table, Index) else ColumnName("proposals/crops", of=table.label)


def plain_name(of: str) -> ColumnName:
    """Return the name of the plain column of crops over the table that `of` names; see `box_table`."""
    return PLAIN if of == TABLE else ColumnName("proposals/crops", of=of.partition("-")[2])


def crops_spec(
    table: BoxTable,
    teacher: Teacher,
    crop: str,
    batch: int,
    chunk_rows: int,
    name: ColumnName = PLAIN,
    fast: bool = False,
) -> ColumnSpec:
    """Return the spec of the column."""
    return column_spec(
        name,
        rows=len(table.box_images),
        width=teacher.width,
        chunk_rows=chunk_rows,
        index_digest=table.digest,
        recipe={**teacher_recipe(teacher, batch, fast), "crop": RULES[crop], **view_recipe(name)},
    )


def remake_crops(made: Made) -> Remake | None:
    """See `recompute.REMAKE`."""
    teacher = made.teacher()
    if teacher is None:
        return None
    recipe = made.spec.recipe
    rule, fast = recipe["crop"]["rule"], "fast" in recipe
    reader = replace(crop_reader(made.table, teacher, rule, made.name.view, fast), on_device=False)
    return remake_from_photos(teacher, reader, crop_encoder(teacher, rule, recipe["batch"]), recipe["batch"])


def photo_spans(images: NDArray[np.int32], lo: int) -> list[tuple[int, int]]:
    """Return ranges of box rows that share a photo; images (n,): image rows of the boxes from row `lo` on."""
    cuts = [0, *(np.flatnonzero(np.diff(images)) + 1).tolist(), len(images)]
    return [(lo + start, lo + stop) for start, stop in itertools.pairwise(cuts) if start < stop]
