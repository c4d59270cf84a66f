"""Build an index: read, clip, drop what may not be seen, sort, and rename into place."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache_builder.errors import UserError
from cache_builder.index.names import PhotoFolder
from cache_builder.index.source import Source, read_source
from cache_builder.index.splits import split_concepts
from cache_builder.index.tables import (
    CARD,
    DTYPES,
    FOLDER,
    NAMES,
    SCHEMA,
    Tables,
    layout_digest,
    read_card,
    tables_digest,
)
from cache_builder.progress import Progress, Silent
from cache_builder.vocabulary import SPLITS, Vocabulary

# A box may stick out of its photo by the rounding of the file's decimals without being worth a count.
CLIP_TOLERANCE_PX = 0.01


@dataclass(frozen=True)
class IndexReport:
    """What an index holds, and what was left out of it and why.

    annotations = boxes + sum(dropped.values()). Reasons: "not_finite" (NaN or infinite coordinates), "no_area"
    (width or height not above 0), "outside_image" (nothing of it inside the photo), "novel", "other"
    (dropped by keep="base"). clipped: boxes cut to their photo and kept. photos_missing: not found on disk.
    """

    folder: Path
    digest: str
    split: str
    keep: str
    images: int
    images_without_boxes: int
    annotations: int
    boxes: int
    crowd: int
    clipped: int
    photos_missing: int
    first_missing: str
    dropped: dict[str, int] = field(default_factory=dict)
    boxes_per_split: dict[str, int] = field(default_factory=dict)
    concepts_per_split: dict[str, int] = field(default_factory=dict)
    unchanged: bool = False

    def lines(self) -> list[str]:
        """The report for a person, a line a fact."""
        concepts = ", ".join(f"{n} {split}" for split, n in self.concepts_per_split.items())
        boxes = ", ".join(f"{n} {split}" for split, n in self.boxes_per_split.items())
        lines = [
            f"{self.images} images ({self.images_without_boxes} without boxes)",
            f"{self.boxes} boxes of {self.annotations} annotations: {boxes}; {self.crowd} of them crowds",
            f"{sum(self.concepts_per_split.values())} concepts: {concepts} (split {self.split}, keep {self.keep})",
        ]
        lines += [f"{n} dropped: {_REASONS[reason]}" for reason, n in self.dropped.items() if n]
        if self.clipped:
            lines.append(f"{self.clipped} clipped to their photo")
        if self.photos_missing:
            lines.append(f"{self.photos_missing} photos are not on disk, {self.first_missing} the first")
        lines.append(f"{self.folder / FOLDER}, {self.digest}" + (" (as it was)" if self.unchanged else ""))
        return lines

    def to_json(self) -> dict[str, Any]:
        """Plain figures for `--json`."""
        return {**asdict(self), "folder": str(self.folder)}


_REASONS = {
    "not_finite": "coordinates that are no finite numbers",
    "no_area": "width or height not above 0",
    "outside_image": "outside their photo",
    "novel": "novel concept (keep base)",
    "other": "other concept (keep base)",
}


def build_index(
    annotations: Path,
    images: Path,
    out: Path,
    split: str | Path,
    keep: str = "all",
    progress: Progress | None = None,
) -> IndexReport:
    """Make the tables of a data set from its COCO-format JSON.

    annotations: COCO, LVIS, Objects365 or any custom file of the format. images: the folder its file names
    start from. out: the data-set folder; the index becomes `out/index/`, whole or not at all: an index that
    was there stays in force until the new one is complete. split: see `split_concepts`. keep: "all", or "base"
    to leave out every box, and every LVIS mark, of a concept that is not base (the leak guard: nothing made
    from the index can see them); concept rows stay, so training and validation share them.

    The same annotations give the same digest whatever the order of the file's lists. Raises UserError for
    every mistake in the file, the folder, the split or the options.
    """
    annotations, images, out, progress = Path(annotations), Path(images), Path(out), progress or Silent()
    if keep not in ("all", "base"):
        raise UserError(f"keep is {keep!r}: expected 'all' or 'base'")
    if not images.is_dir():
        raise UserError(f"{images} is not a folder: give the folder that the photos of {annotations} lie in")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: give a folder for the data set")
    read_card_or_none(out)
    source = read_source(annotations, progress)
    split_list, split_name = split_concepts(source.concepts, split, source.image_counts, annotations)
    concepts = Vocabulary(split_list)
    names, missing = _resolve_names(source, images)
    tables, figures = _tables(source, names, concepts, keep)
    digest = tables_digest(tables, concepts)
    root = images.resolve()
    card = {
        "schema": SCHEMA,
        "digest": digest,
        "tables": "tables-" + layout_digest(tables, digest),
        "split": split_name,
        "keep": keep,
        "source": {"file": annotations.name, "digest": source.digest},
        "image_root": _relative(root, out.resolve()),
        "counts": {
            "images": len(tables.image_ids),
            "boxes": len(tables.annotation_ids),
            "crowd": int(tables.iscrowd.sum()),
            "annotations": len(source.boxes),
        },
        **figures,
        "concepts": concepts.to_json(),
    }
    unchanged = write_index(out, tables, card)
    in_split = concepts.in_split
    return IndexReport(
        folder=out,
        digest=digest,
        split=split_name,
        keep=keep,
        images=len(tables.image_ids),
        images_without_boxes=int(np.count_nonzero(np.diff(tables.box_offsets) == 0)),
        annotations=len(source.boxes),
        boxes=len(tables.annotation_ids),
        crowd=int(tables.iscrowd.sum()),
        clipped=figures["clipped"],
        photos_missing=len(missing),
        first_missing=missing[0] if missing else "",
        dropped=figures["dropped"],
        boxes_per_split={s: int(np.count_nonzero(in_split(s)[tables.box_concepts])) for s in SPLITS},
        concepts_per_split={s: int(in_split(s).sum()) for s in SPLITS},
        unchanged=unchanged,
    )


def read_card_or_none(out: Path) -> dict[str, Any] | None:
    """The card of an index that is about to be replaced; a damaged one counts as none, a newer one is refused."""
    try:
        return read_card(out)
    except UserError as error:
        if "newer" in str(error):
            raise
        return None


def _resolve_names(source: Source, images: Path) -> tuple[list[str], list[str]]:
    folder = PhotoFolder(images)
    names, missing = [], []
    for name in source.file_names:
        resolved, found = folder.resolve(name)
        names.append(resolved)
        if not found:
            missing.append(resolved)
    if missing and len(missing) == len(names):
        raise UserError(
            f"{images} holds none of the {len(names)} photos of {source.path} (the first is {missing[0]!r}): "
            "give the folder that its file names start from"
        )
    return names, missing


def _tables(
    source: Source, names: list[str], concepts: Vocabulary, keep: str
) -> tuple[Tables, dict[str, Any]]:
    """Sort, clip and drop. Returns the tables and the figures "dropped" and "clipped"."""
    image_order = np.argsort(source.images["id"], kind="stable")
    ordered = source.images[image_order]
    image_ids = np.ascontiguousarray(ordered["id"])
    widths, heights = np.ascontiguousarray(ordered["width"]), np.ascontiguousarray(ordered["height"])
    blobs = [names[k].encode("utf-8") for k in image_order]

    boxes = source.boxes
    image_rows = np.searchsorted(image_ids, boxes["image_id"])
    concept_rows = np.searchsorted(concepts.category_ids, boxes["category_id"])
    raw = np.concatenate([boxes["xywh"][:, :2], boxes["xywh"][:, :2] + boxes["xywh"][:, 2:]], axis=1)
    limit = np.stack([widths, heights, widths, heights], axis=1)[image_rows].astype(np.float64)
    clipped = np.clip(raw, 0.0, limit)
    base = concepts.in_split("base") if keep == "base" else np.ones(len(concepts), np.bool_)
    checks = (
        ("not_finite", ~np.isfinite(raw).all(axis=1)),
        ("no_area", ~(boxes["xywh"][:, 2:] > 0).all(axis=1)),
        ("outside_image", ~(clipped[:, 2:] > clipped[:, :2]).all(axis=1)),
        ("novel", ~base[concept_rows] & concepts.in_split("novel")[concept_rows]),
        ("other", ~base[concept_rows]),
    )
    keep_box = np.ones(len(boxes), np.bool_)
    dropped = {}
    for reason, bad in checks:
        dropped[reason] = int(np.count_nonzero(keep_box & bad))
        keep_box &= ~bad
    cut = keep_box & (np.abs(clipped - raw) > CLIP_TOLERANCE_PX).any(axis=1)

    rows = np.flatnonzero(keep_box)
    rows = rows[np.lexsort((boxes["id"][rows], image_rows[rows]))]
    xyxy = clipped[rows]
    sides = xyxy[:, 2:] - xyxy[:, :2]
    areas = boxes["area"][rows]
    box_concepts = concept_rows[rows].astype(np.int32)
    image_row_of = np.empty(len(image_order), np.int64)
    image_row_of[image_order] = np.arange(len(image_order))
    marks: dict[str, NDArray[Any]] = {}
    for name, key in (("neg", "neg_category_ids"), ("not_exhaustive", "not_exhaustive_category_ids")):
        mark_images = image_row_of[source.marks[key][:, 0]]
        mark_rows = np.searchsorted(concepts.category_ids, source.marks[key][:, 1])
        pairs = np.unique(np.stack([mark_images, mark_rows], axis=1)[base[mark_rows]], axis=0)
        marks[f"{name}_offsets"] = _offsets(pairs[:, 0], len(image_ids))
        marks[f"{name}_rows"] = pairs[:, 1].astype(np.int32)
    tables = Tables(
        image_ids=image_ids,
        widths=widths,
        heights=heights,
        file_name_bytes=np.frombuffer(b"".join(blobs), np.uint8),
        file_name_offsets=np.cumsum([0, *map(len, blobs)], dtype=np.int64),
        box_offsets=_offsets(image_rows[rows], len(image_ids)),
        annotation_ids=boxes["id"][rows],
        box_images=image_rows[rows].astype(np.int32),
        box_concepts=box_concepts,
        box_xyxy=xyxy,
        areas=np.where(np.isfinite(areas) & (areas >= 0), areas, sides[:, 0] * sides[:, 1]),
        iscrowd=boxes["iscrowd"][rows] != 0,
        difficult=boxes["difficult"][rows] != 0,
        concept_box_offsets=_offsets(box_concepts, len(concepts)),
        concept_boxes=np.argsort(box_concepts, kind="stable").astype(np.int32),
        **marks,
    )
    return tables, {"dropped": dropped, "clipped": int(np.count_nonzero(cut))}


def _offsets(rows: NDArray[Any], n: int) -> NDArray[np.int64]:
    counts = np.bincount(rows, minlength=n) if len(rows) else np.zeros(n, np.int64)
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])


def _relative(root: Path, out: Path) -> str:
    return root.relative_to(out).as_posix() if root.is_relative_to(out) else root.as_posix()


def write_index(out: Path, tables: Tables, card: dict[str, Any]) -> bool:
    """Put tables and card into `out/index/`; returns whether just that already lay there.

    The card names the folder of its tables and is replaced last, in one step: before it the old index is in
    force, after it the new one, and a build that is killed leaves at most a folder nobody names.
    """
    folder = out / FOLDER
    text = json.dumps(card, indent=1, ensure_ascii=False) + "\n"
    target = folder / card["tables"]
    if _same(folder / CARD, text, target, tables):
        return True
    folder.mkdir(parents=True, exist_ok=True)
    building = folder / f".building-{os.getpid()}"
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir()
    for name in NAMES:
        values = np.ascontiguousarray(getattr(tables, name), dtype=DTYPES[name])
        np.save(building / f"{name}.npy", values, allow_pickle=False)
    if target.exists():  # damaged, or left by a build that was killed before it wrote its card
        shutil.rmtree(target)
    os.rename(building, target)
    temporary = folder / f".{CARD}-{os.getpid()}"
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, folder / CARD)
    _sweep(folder, keep=(CARD, card["tables"]))
    return False


def _same(card: Path, text: str, target: Path, tables: Tables) -> bool:
    try:
        if card.read_text(encoding="utf-8") != text:
            return False
        stored = (np.load(target / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in NAMES)
        return all(np.array_equal(s, getattr(tables, n)) for n, s in zip(NAMES, stored, strict=True))
    except (OSError, ValueError):
        return False


def _sweep(folder: Path, keep: Sequence[str]) -> None:
    """Remove what earlier builds left: old tables (whoever has them mapped keeps them), dead temporaries."""
    for path in folder.iterdir():
        if path.name in keep:
            continue
        if path.name.startswith(("tables-", ".building-")):
            shutil.rmtree(path, ignore_errors=True)
        elif path.name.startswith(f".{CARD}-"):
            path.unlink(missing_ok=True)
