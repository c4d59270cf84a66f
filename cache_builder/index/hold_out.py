"""Divide annotations by photo into two COCO-format files, stratified by concept."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.atomic_files import write_together
from cckt.cache_builder.base.boxes import xywh_of
from cckt.cache_builder.base.errors import UserError, counted, listed, quoted
from cckt.cache_builder.base.ownership import Mark, require_ours_or_absent
from cckt.cache_builder.base.progress import Progress, Silent
from cckt.cache_builder.base.untrusted.regular_files import read_regular, read_regular_text
from cckt.cache_builder.base.untrusted.text import parse_json
from cckt.cache_builder.index.derive import require_annotated
from cckt.cache_builder.index.formats.coco import read_coco
from cckt.cache_builder.index.formats.repairs import Repairs
from cckt.cache_builder.index.reader import Index, open_index

TRAIN, VAL, SPLIT = "train.json", "val.json", "split.json"
"""Files of `hold_out`: the larger part, the held-out part, and the splits of the concepts of an index."""


def _counts(images: int, boxes: int) -> str:
    return f"{counted(images, 'image')}, {counted(boxes, 'box', 'boxes')}"


@dataclass(frozen=True)
class HoldOutReport:
    """Counts of the two files."""

    folder: Path
    train_images: int
    val_images: int
    train_boxes: int
    val_boxes: int
    only_train: list[str]
    """Concepts with boxes of which the held-out part has none: they are in too few photos."""
    images: str
    """The folder that the file names start from; "" where a JSON file was divided."""
    exif: str
    """Of the index: its files must be indexed with this --exif; "ignore" needs no option."""
    splits: bool = False
    """Whether split.json was written."""

    def lines(self) -> list[str]:
        """Return the report as text, one fact per line."""
        lines = [
            f"{self.folder / TRAIN}: {_counts(self.train_images, self.train_boxes)}",
            f"{self.folder / VAL}: {_counts(self.val_images, self.val_boxes)}",
        ]
        if self.only_train:
            alone = counted(len(self.only_train), "concept has", "concepts have")
            lines.append(f"{alone} boxes only in {TRAIN}: {listed(self.only_train)}")
        if self.images:
            lines += ["index both with:", *(self._index_command(name) for name in (TRAIN, VAL))]
        return lines

    def _index_command(self, name: str) -> str:
        options = " --exif apply" if self.exif == "apply" else ""
        if self.splits:
            options += f" --split {quoted(self.folder / SPLIT)}" + " --keep base" * (name == TRAIN)
        return (
            f"cckt data index --annotations {quoted(self.folder / name)} --images {quoted(self.images)}"
            f"{options} --out {quoted(self.folder / Path(name).stem)}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {**asdict(self), "folder": str(self.folder)}


def hold_out(
    source: Path, out: Path, share: float, seed: int = 0, progress: Progress | None = None
) -> HoldOutReport:
    """Write `out/train.json` and `out/val.json`, two COCO-format files without a common photo.

    source: a COCO-format file, whose records are kept as they are, or a data-set folder. share: of the
    photos, for val.json; each concept has about this share of its photos there. The same seed gives the same
    files.
    For an index with splits, `out/split.json` has them. Raises UserError for a source that cannot be read or
    divided, and for an existing file with other contents: the same call again changes nothing.
    """
    if not 0 < share < 1:
        raise UserError(f"--share is {share:g}: expected a share of the photos between 0 and 1, such as 0.1")
    if seed < 0:
        raise UserError(f"--seed is {seed}: expected a number of at least 0")
    index = open_index(source) if source.is_dir() else None
    coco = _coco_of_index(index) if index is not None else _coco_of_file(source, progress or Silent())
    ids = np.array([int(image["id"]) for image in coco["images"]], np.int64)
    category_ids = np.array(sorted(int(category["id"]) for category in coco["categories"]), np.int64)
    boxes = np.array(
        [(int(one["image_id"]), int(one["category_id"])) for one in coco["annotations"]], np.int64
    ).reshape(-1, 2)
    order = np.argsort(ids, kind="stable")  # the files do not depend on the order of the source
    shown = np.zeros((len(ids), len(category_ids)), np.bool_)
    shown[np.searchsorted(ids[order], boxes[:, 0]), np.searchsorted(category_ids, boxes[:, 1])] = True
    held = choose_held_out(shown, share, seed)
    if held.all() or not held.any():
        raise UserError(
            f"{source} has {counted(len(ids), 'photo')}, of which a share of {share:g} gives "
            f"{np.count_nonzero(held)}, "
            "expected at least one photo on each side; choose another --share"
        )
    held_ids = set(ids[order][held].tolist())
    files: dict[str, str] = {}  # in the order in which they appear
    if index is not None and len(index.rows("base")) < len(index.concepts):
        named = {
            split: [concept.name for concept in index.concepts if concept.split == split]
            for split in ("base", "novel")
        }
        files[SPLIT] = json.dumps(named, indent=1) + "\n"
    counts = []
    for name, inside in ((TRAIN, False), (VAL, True)):
        part = {
            **coco,
            "images": [one for one in coco["images"] if (int(one["id"]) in held_ids) is inside],
            "annotations": [
                one for one in coco["annotations"] if (int(one["image_id"]) in held_ids) is inside
            ],
        }
        counts.append((len(part["images"]), len(part["annotations"])))
        files[name] = json.dumps(part)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            # Nothing in a COCO file says who wrote it, so one with other contents may be the user's.
            require_ours_or_absent(out / name, _holds(text), "what this command writes")
        write_together({out / name: text.encode() for name, text in files.items()})
    except OSError as fault:
        raise UserError(
            f"{out} cannot be written ({fault.strerror}): free space or choose another --out"
        ) from fault
    name_of = {int(category["id"]): str(category["name"]) for category in coco["categories"]}
    only_train = shown.any(0) & ~shown[held].any(0)
    return HoldOutReport(
        out,
        counts[0][0],
        counts[1][0],
        counts[0][1],
        counts[1][1],
        [name_of[one] for one in category_ids[only_train].tolist()],
        str(index.image_root) if index is not None and index.photo_path(0).exists() else "",
        index.exif if index is not None else "ignore",
        SPLIT in files,
    )


def choose_held_out(shown: NDArray[np.bool_], share: float, seed: int) -> NDArray[np.bool_]:
    """Return (I,) bool: the held-out images, about `share` of the images of each concept.

    shown: (I, C) bool, whether an image shows a concept. Iterative stratification (Sechidis et al., 2011):
    the concept with the fewest images left is divided next, and each of its images goes to the side that
    lacks the most of it. Images without concepts come last.
    """
    images = len(shown)
    rng = np.random.default_rng(seed)
    order = rng.permutation(images)
    held = np.zeros(images, np.bool_)
    open_images = np.ones(images, np.bool_)
    lacking = share * shown.sum(0)  # images of each concept that the held-out side still lacks
    left = shown.sum(0).astype(np.int64)
    total_lacking, total_left = share * images, images

    def assign(image: int, wanted: float, available: int) -> None:
        nonlocal total_lacking, total_left
        surplus = 2 * wanted - available  # above 0: the held-out side lacks more than the other
        takes = surplus > 0 if surplus != 0 else 2 * total_lacking > total_left
        held[image] = takes
        open_images[image] = False
        lacking[shown[image]] -= takes
        left[shown[image]] -= 1
        total_lacking -= takes
        total_left -= 1

    while (left > 0).any():
        concept = int(np.where(left > 0, left, images + 1).argmin())
        for image in order[shown[order, concept] & open_images[order]].tolist():
            assign(image, float(lacking[concept]), int(left[concept]))
    for image in order[open_images[order]].tolist():
        assign(image, total_lacking, total_left)
    return held


def _holds(text: str) -> Mark:
    """Return a mark of files that hold this text."""

    def holds(path: Path) -> bool:
        try:
            return path.is_file() and read_regular(path) == text.encode()
        except OSError:
            return False

    return holds


def _coco_of_file(path: Path, progress: Progress) -> dict[str, Any]:
    read_coco(path, progress, Repairs())  # refuses what is no COCO-format file
    try:
        coco: dict[str, Any] = parse_json(read_regular_text(path, "utf-8-sig"))
    except ValueError as error:
        raise UserError(f"{path}: found no readable JSON ({error}), expected a COCO-format file.") from None
    missing = [key for key in ("images", "annotations", "categories") if key not in coco]
    if missing:
        raise UserError(f"{path}: found no {missing[0]!r}, expected a COCO-format file.")
    return coco


def _coco_of_index(index: Index) -> dict[str, Any]:
    """Return an index as a COCO-format dict. Raises UserError for an index with boxes that a run found."""
    require_annotated(index)
    category_ids = index.concepts.category_ids
    images = []
    for row, (ident, width, height) in enumerate(
        zip(index.image_ids.tolist(), index.widths.tolist(), index.heights.tolist(), strict=True)
    ):
        image = {"id": ident, "file_name": index.file_name(row), "width": width, "height": height}
        for key, marks in (
            ("neg_category_ids", index.negatives_of(row)),
            ("not_exhaustive_category_ids", index.not_exhaustive_of(row)),
        ):
            if len(marks):
                image[key] = category_ids[marks].tolist()
        images.append(image)
    xyxy = np.asarray(index.box_xyxy)
    xywh = xywh_of(xyxy).tolist()
    annotations = [
        {
            "id": int(index.annotation_ids[box]),
            "image_id": int(index.image_ids[index.box_images[box]]),
            "category_id": int(category_ids[index.box_concepts[box]]),
            "bbox": xywh[box],
            "area": float(index.areas[box]),
            "iscrowd": int(index.iscrowd[box]),
            **({"ignore": 1} if index.difficult[box] else {}),
        }
        for box in range(len(xyxy))
    ]
    categories = []
    for concept in index.concepts:
        category: dict[str, Any] = {"id": concept.category_id, "name": concept.name}
        if concept.synonyms:
            category["synonyms"] = list(concept.synonyms)
        if concept.frequency:
            category["frequency"] = concept.frequency
        categories.append(category)
    return {"images": images, "annotations": annotations, "categories": categories}
