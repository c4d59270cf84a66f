"""What `cckt predict` works on: photos and words that a user names, or those of a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from PIL import Image

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.untrusted.npy_files import read_npy
from cckt.cache_builder.base.untrusted.regular_files import require_regular
from cckt.cache_builder.index import Index, open_index
from cckt.cache_builder.photos import load_photo
from cckt.cache_builder.vocabulary import Vocabulary
from cckt.detector.inference.photo_sources import find_photos, photos_below


@dataclass(frozen=True)
class InputSet:
    """Files to predict on, concepts to detect, and how a photo is decoded.

    image_ids, names: those of the data set, one per path; None without a data set. notes: sentences on photos
    that were left out.
    """

    paths: list[Path]
    concepts: Vocabulary
    load: Callable[[Path], Image.Image] = load_photo
    image_ids: list[int] | None = None
    names: list[str] | None = None
    notes: Sequence[str] = ()


def input_set(
    photos: Sequence[str],
    listed: Iterable[str],
    recursive: bool,
    data: Path | None,
    concepts: Vocabulary | None,
    results: Path | None = None,
) -> InputSet:
    """Return the photos and concepts that the options of `cckt predict` name.

    photos, listed, recursive, results: as for `find_photos`. data: a data set; its photos, ids and
    orientation are used, and its concepts unless `concepts` names others. Raises UserError if neither or both
    of photos and data are named, and without concepts.
    """
    if data is not None:
        if photos:
            raise UserError(
                f"found the photo {photos[0]} and --data {data}, expected one of them; remove one."
            )
        index = open_index(data)
        return InputSet(
            [index.photo_path(row) for row in range(len(index))],
            concepts or index.concepts,
            partial(_load, index, {index.photo_path(row): row for row in range(len(index))}),
            index.image_ids.tolist(),
            [index.file_name(row) for row in range(len(index))],
        )
    if not photos:
        raise UserError("no photos are named; give files or folders of photos, or --data with a data set.")
    if concepts is None:
        raise UserError(
            'no concepts are named; give --vocabulary, such as --vocabulary "forklift, pallet", or --data.'
        )
    notes = [] if recursive else photos_below(photos, results)
    return InputSet(find_photos(photos, listed, recursive, results), concepts, notes=notes)


def _load(index: Index, rows: dict[Path, int], path: Path) -> Image.Image:
    """Return a photo of an index as its boxes refer to it."""
    row = rows[path]
    return load_photo(path, (int(index.widths[row]), int(index.heights[row])), exif=index.exif)


def read_text_table(path: Path, concepts: int) -> npt.NDArray[np.float32]:
    """Read a (C, D) table of text embeddings from .npy, or from .safetensors with one tensor.

    Raises UserError if it cannot be read or has another number of rows.
    """
    try:
        if path.suffix == ".safetensors":
            tensors = safetensors.numpy.load_file(require_regular(path))
            if len(tensors) != 1:
                raise ValueError(f"{len(tensors)} tensors, expected one")
            (table,) = tensors.values()
        else:
            table = read_npy(path)
        table = np.asarray(table, np.float32)
    except (OSError, ValueError, TypeError, safetensors.SafetensorError) as fault:
        raise UserError(
            f"--text {path} cannot be read ({fault}), expected a table of embeddings, one row per concept, "
            "as .npy or .safetensors."
        ) from None
    if table.ndim != 2 or len(table) != concepts:
        raise UserError(
            f"--text {path}: found the shape {table.shape}, expected ({concepts}, D), one row for each of "
            "the concepts in their order; give another table or vocabulary."
        )
    return table
