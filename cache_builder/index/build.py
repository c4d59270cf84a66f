"""Build an index: read, split, assemble, write."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Progress, Silent
from cckt.cache_builder.index.assemble import assemble
from cckt.cache_builder.index.formats.coco import Source, read_source
from cckt.cache_builder.index.formats.json_stream import require_file
from cckt.cache_builder.index.names import PhotoFolder
from cckt.cache_builder.index.report import IndexReport
from cckt.cache_builder.index.splits import read_split
from cckt.cache_builder.index.tables import check_replaceable, layout_digest, tables_digest
from cckt.cache_builder.index.write import write_index
from cckt.cache_builder.vocabulary import SPLITS, Vocabulary


def build_index(
    annotations: Path,
    images: Path | None,
    out: Path,
    split: str | Path,
    keep: str = "all",
    progress: Progress | None = None,
) -> IndexReport:
    """Make the tables of a data set from its COCO-format JSON.

    annotations: COCO, LVIS, Objects365 or any custom file of the format. images: the folder its file names
    start from; None for boxes alone, which is enough to score detections on. out: the data-set folder; the
    index becomes `out/index/`, whole or not at all: an index that was there stays in force until the new one
    is complete. split: "coco-48-17", "lvis", "all-base" or a file, see `read_split`. keep: "all", or "base"
    to leave out every box, and every LVIS mark, of a concept that is not base (the leak guard: nothing made
    from the index can see them); concept rows stay, so training and validation share them.

    The same annotations give the same digest whatever the order of the file's lists. Raises UserError for
    every mistake in the file, the folder, the split or the options.
    """
    annotations, out, progress = Path(annotations), Path(out), progress or Silent()
    images = None if images is None else Path(images)
    if keep not in ("all", "base"):
        raise UserError(f"keep is {keep!r}: expected 'all' or 'base'")
    require_file(annotations)
    if images is not None and not images.is_dir():
        raise UserError(f"{images} is not a folder: give the folder that the photos of {annotations} lie in")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: give a folder for the data set")
    check_replaceable(out)
    rule = read_split(split)
    source = read_source(annotations, progress)
    concepts = Vocabulary(rule.apply(source))
    names, missing = _resolve_names(source, images) if images is not None else (source.file_names, [])
    tables, dropped, clipped = assemble(source, names, concepts, keep)
    digest = tables_digest(tables, concepts)
    root = (out if images is None else images).resolve()
    card = {
        "schema": 1,  # all boxes are annotated
        "digest": digest,
        "tables": "tables-" + layout_digest(tables, digest),
        "split": rule.name,
        "keep": keep,
        "source": {"file": annotations.name, "digest": source.digest},
        "image_root": relative_root(root, out.resolve()),
        "counts": {
            "images": len(tables.image_ids),
            "boxes": len(tables.annotation_ids),
            "crowd": int(tables.iscrowd.sum()),
            "annotations": len(source.boxes),
        },
        "dropped": dropped,
        "clipped": clipped,
        "concepts": concepts.to_json(),
    }
    unchanged = write_index(out, tables, card)
    in_split = concepts.in_split
    return IndexReport(
        folder=out,
        digest=digest,
        split=rule.name,
        keep=keep,
        images=len(tables.image_ids),
        images_without_boxes=int(np.count_nonzero(np.diff(tables.box_offsets) == 0)),
        annotations=len(source.boxes),
        boxes=len(tables.annotation_ids),
        crowd=int(tables.iscrowd.sum()),
        clipped=clipped,
        photos_missing=len(missing),
        first_missing=missing[0] if missing else "",
        dropped=dropped,
        boxes_per_split={s: int(np.count_nonzero(in_split(s)[tables.box_concepts])) for s in SPLITS},
        concepts_per_split={s: int(in_split(s).sum()) for s in SPLITS},
        unchanged=unchanged,
    )


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


def relative_root(root: Path, out: Path) -> str:
    """The photo folder as index.json names it: relative where it lies inside the data-set folder."""
    return root.relative_to(out).as_posix() if root.is_relative_to(out) else root.as_posix()
