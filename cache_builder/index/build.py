"""Build an index from an annotation file: read, split, assemble, write."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.errors import UserError, counted
from cckt.cache_builder.base.progress import Progress, Silent
from cckt.cache_builder.index.assemble import assemble
from cckt.cache_builder.index.checks import check_boxes, check_categories, check_files, similar_names
from cckt.cache_builder.index.file_names import ImageFolder
from cckt.cache_builder.index.formats import AnnotationReader, Annotations
from cckt.cache_builder.index.formats.coco import read_coco
from cckt.cache_builder.index.formats.json_stream import require_file
from cckt.cache_builder.index.formats.merge import merge
from cckt.cache_builder.index.formats.repairs import Repairs
from cckt.cache_builder.index.photo_files.headers import why_unreadable
from cckt.cache_builder.index.photo_files.record import (
    headers_of,
    known_records,
    record_bytes,
    record_photos,
    set_apart,
)
from cckt.cache_builder.index.photo_files.sizes import EXIF_CHOICES, SizeFindings, compare_sizes
from cckt.cache_builder.index.reader import check_replaceable
from cckt.cache_builder.index.report import IndexReport
from cckt.cache_builder.index.splits import read_split
from cckt.cache_builder.index.tables import tables_digest, tables_folder
from cckt.cache_builder.index.write import write_index
from cckt.cache_builder.vocabulary import SPLITS, Vocabulary

IMAGES_COLUMN = "images"
"""Folder of the column images in a data set."""


def build_index(
    annotations: Path | Sequence[Path],
    images: Path | None,
    out: Path,
    split: str | Path,
    keep: str = "all",
    progress: Progress | None = None,
    *,
    exif: str = "auto",
    rescale: bool = False,
    lenient: bool = False,
    digests: bool = True,
    read: AnnotationReader = read_coco,
) -> IndexReport:
    """Build the index of a data set from its annotation file.

    annotations: COCO-format JSON: COCO, LVIS, Objects365 or a custom file. Several files are merged.
    images: the folder that file names are relative to. None: the index serves only to score detections.
    out: the data-set folder. The index is written to `out/index/`. An older index there stays valid until the
        new one is complete.
    split: "coco-48-17", "lvis", "all-base" or a file, see `read_split`.
    keep: "all", or "base" to drop every box and every LVIS mark of a concept that is not base. Nothing made
        from such an index can see them (leak guard). Concept rows stay, so that training and validation share
        them.
    exif: whether boxes refer to photos as their EXIF orientation turns them ("apply") or to the stored pixels
        ("ignore"). "auto": the recorded sizes and the boxes decide.
    rescale: scale the boxes of photos that were resized after they were annotated.
    lenient: repair what can only mean one thing (`formats.repairs.KINDS`), count it in the report and list it
        in a file of the index.
    digests: record the digest of every photo, so that columns of a later index can copy rows of unchanged
        photos. Only photos that changed since the last index in `out` are read.
    read: the reader of the format; `annotations` is what it reads.

    The digest does not depend on the order of the lists in the file. Raises UserError for a mistake in the
    file, the folder, the split or the options.
    """
    given = [annotations] if isinstance(annotations, str | Path) else annotations
    sources = [Path(one) for one in given]
    out, progress = Path(out), progress or Silent()
    images = None if images is None else Path(images)
    if keep not in ("all", "base"):
        raise UserError(f"keep is {keep!r}: expected 'all' or 'base'")
    if exif not in EXIF_CHOICES:
        raise UserError(f"--exif is {exif!r}: expected one of {', '.join(EXIF_CHOICES)}")
    if images is None and (exif != "auto" or rescale):
        raise UserError("--exif and --rescale compare annotations with photos; add --images FOLDER")
    for source in sources if read is read_coco else ():
        require_file(source)
    if images is not None and not images.is_dir():
        raise UserError(f"{images} is not a folder: give the folder of the photos of {sources[0]}")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: give a folder for the data set")
    check_replaceable(out)
    rule = read_split(split)
    repairs = Repairs(lenient, None if images is None else ImageFolder(images))
    parts = [read(source, progress, repairs) for source in sources]
    for part in parts:
        check_categories(part)
    found = merge(parts, repairs)
    concepts = Vocabulary(rule.apply(found))
    names, missing = (found.file_names, []) if images is None else _resolve_names(found, repairs)
    check_files(found, names)
    if found.turned and exif == "ignore":
        raise UserError(
            f"--exif ignore does not apply to {found.path}: boxes of this format refer to photos as their "
            "EXIF orientation turns them; leave it out"
        )
    sizes = SizeFindings()
    record, unreadable = None, []
    if images is not None:
        record = record_photos(images, names, progress, known_records(out), digests=digests)
        choice = "apply" if found.turned and exif == "auto" else exif
        sizes = compare_sizes(found, headers_of(record), choice, rescale)
        unreadable = _unreadable(images, names, set(missing), record)
    shares = check_boxes(found)
    tables, dropped, clipped, zero_areas = assemble(found, names, concepts, keep)
    digest = tables_digest(tables, concepts, sizes.exif)
    root = (out if images is None else images).resolve()
    card = {
        "schema": 1,  # all boxes are annotated
        "digest": digest,
        "tables": tables_folder(tables, digest),
        "split": rule.name,
        "keep": keep,
        "source": _source_entry(found, parts),
        "image_root": relative_root(root, out.resolve()),
        "counts": {
            "images": len(tables.image_ids),
            "boxes": len(tables.annotation_ids),
            "crowd": int(tables.iscrowd.sum()),
            "annotations": len(found.boxes),
        },
        "dropped": dropped,
        "clipped": clipped,
        **_exif_entry(sizes, exif),
        **_repairs_entry(repairs),
        "concepts": concepts.to_json(),
    }
    order, changed = np.argsort(found.images["id"], kind="stable"), np.zeros(0, np.int64)
    if record is not None:  # its rows are in the order of image ids
        record, changed = set_apart(record[order], out, card["tables"], digest)
    held = None if record is None or not record["sha256"].any() else record_bytes(record)
    unchanged = write_index(out, tables, card, repairs.file(), held)
    in_split = concepts.in_split
    return IndexReport(
        folder=out,
        digest=digest,
        split=rule.name,
        keep=keep,
        images=len(tables.image_ids),
        images_without_boxes=int(np.count_nonzero(np.diff(tables.box_offsets) == 0)),
        annotations=len(found.boxes),
        boxes=len(tables.annotation_ids),
        crowd=int(tables.iscrowd.sum()),
        clipped=clipped,
        photos_missing=len(missing),
        first_missing=missing[0] if missing else "",
        dropped=dropped,
        boxes_per_split={s: int(np.count_nonzero(in_split(s)[tables.box_concepts])) for s in SPLITS},
        concepts_per_split={s: int(in_split(s).sum()) for s in SPLITS},
        zero_areas=zero_areas,
        shares=shares,
        similar=similar_names(found),
        parents=[concept.name for concept in found.concepts if concept.category_id in set(found.parents)],
        sizes=sizes,
        notes=[note for part in parts for note in part.notes]
        + unreadable
        + _photos_in_the_way(images, out)
        + _changed([names[row] for row in order[changed].tolist()]),
        repairs=repairs.counts,
        repairs_file=card["repairs"]["file"] if repairs.made else "",
        findable=_findable(missing, repairs),
        unchanged=unchanged,
    )


def _changed(names: list[str]) -> list[str]:
    """Return a sentence if photos were replaced under the columns of the data set."""
    if not names:
        return []
    are = counted(len(names), "photo is another", "photos are others")
    return [
        f"{are} than when columns of this data set were made (the first is {names[0]}): these columns keep "
        "the rows of the earlier photos until they are made again with --overwrite"
    ]


def _unreadable(images: Path, names: list[str], missing: set[str], record: NDArray[Any]) -> list[str]:
    """Return a sentence if photos that exist cannot be read."""
    bad = [names[row] for row in np.flatnonzero(record["width"] == 0).tolist() if names[row] not in missing]
    if not bad:
        return []
    reason = why_unreadable(images / bad[0])
    return [
        f"{counted(len(bad), 'photo')} cannot be read, the first is {bad[0]} ({reason}): columns leave such "
        "rows without a value"
    ]


def _photos_in_the_way(images: Path | None, out: Path) -> list[str]:
    """Return a sentence if the photos are in the folder of the column images; a column needs its own."""
    column = (out / IMAGES_COLUMN).resolve()
    if images is None or column not in (images.resolve(), *images.resolve().parents):
        return []
    return [
        f"the photos are in {column}, where cckt cache images would write: for that column, and cckt eval "
        f"with CLIP priors, build the index in another folder, such as --out {out / 'cckt'}"
    ]


def _exif_entry(sizes: SizeFindings, choice: str) -> dict[str, Any]:
    """Return the entry of the card on EXIF orientation; none where no photo is turned by one."""
    if not sizes.applied and not sizes.ignored:
        return {}
    found = {"applied": sizes.applied, "ignored": sizes.ignored}
    return {"exif": {"choice": choice, "reading": sizes.exif, **found}}


def _source_entry(found: Annotations, parts: list[Annotations]) -> dict[str, Any]:
    """Return the entry of the card on the files that were read."""
    names = [part.path.name for part in parts]
    entry: dict[str, Any] = {"file": " and ".join(names), "digest": found.digest}
    if len(parts) > 1:
        entry["files"] = [
            {"file": name, "digest": part.digest} for name, part in zip(names, parts, strict=True)
        ]
    return entry


def _repairs_entry(repairs: Repairs) -> dict[str, Any]:
    """Return the entry of the card on repairs; none where none was made."""
    listed = repairs.file()
    return {"repairs": {"file": listed[0], "counts": repairs.counts}} if listed else {}


def _findable(missing: list[str], repairs: Repairs) -> int:
    """Return the number of missing photos that --lenient would find; 0 if it is enabled."""
    images = repairs.images
    if repairs.enabled or images is None or not missing:
        return 0
    found = 0
    for name in missing:
        with suppress(UserError):  # several files: --lenient refuses them
            found += images.find_one(name, "") is not None
    return found


def _resolve_names(annotations: Annotations, repairs: Repairs) -> tuple[list[str], list[str]]:
    """Return all file names as found on disk, and those that are missing."""
    images = repairs.images
    assert images is not None, "expected a folder of images, found None"
    names, missing = [], []
    for name in annotations.file_names:
        resolved, found = images.resolve(name)
        names.append(resolved)
        if not found:
            missing.append(resolved)
    if missing and len(missing) == len(names):
        findable = _findable(missing, repairs)
        hint = f"; --lenient finds {findable} of them by their base name" if findable else ""
        raise UserError(
            f"{images.root} holds none of the {counted(len(names), 'photo')} of {annotations.path} (the "
            "first is "
            f"{missing[0]!r}): give the folder that its file names start from with --images{hint}"
        )
    return names, missing


def relative_root(root: Path, out: Path) -> str:
    """Return the images folder as index.json names it: relative where it is inside the data-set folder."""
    return root.relative_to(out).as_posix() if root.is_relative_to(out) else root.as_posix()
