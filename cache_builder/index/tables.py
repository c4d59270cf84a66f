"""The three tables of a data set on disk, memory-mapped."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.vocabulary import Vocabulary

SCHEMA = 2
"""The newest that is read. 1: all boxes are annotated. 2: box_origins says which are not; written only where
some are not, so that a cckt that knows nothing of them refuses the index instead of believing them."""
FOLDER = "index"
CARD = "index.json"


@dataclass(frozen=True, eq=False)
class Tables:
    """Every array of an index; one `.npy` file each, under the field's name.

    I images by ascending image_id; M boxes by (image row, annotation id); C concepts by category id.
    CSR pairs: the entries of row k are `values[offsets[k] : offsets[k + 1]]`.
    """

    image_ids: NDArray[np.int64]  # (I,)
    widths: NDArray[np.int32]  # (I,) pixels
    heights: NDArray[np.int32]  # (I,) pixels
    file_name_bytes: NDArray[np.uint8]  # utf-8 of all file names, one after another
    file_name_offsets: NDArray[np.int64]  # (I+1,)
    box_offsets: NDArray[np.int64]  # (I+1,) boxes of an image
    neg_offsets: NDArray[np.int64]  # (I+1,) LVIS: concepts verified absent from the image
    neg_rows: NDArray[np.int32]
    not_exhaustive_offsets: NDArray[np.int64]  # (I+1,) LVIS: concepts not annotated to the last
    not_exhaustive_rows: NDArray[np.int32]
    annotation_ids: NDArray[np.int64]  # (M,)
    box_images: NDArray[np.int32]  # (M,) image row
    box_concepts: NDArray[np.int32]  # (M,) concept row
    box_xyxy: NDArray[np.float64]  # (M, 4) pixels of the original image, 0 <= x0 < x1 <= width
    areas: NDArray[np.float64]  # (M,) the file's area (of the mask), or the box's where it gives none
    iscrowd: NDArray[np.bool_]  # (M,)
    difficult: NDArray[np.bool_]  # (M,) the file's "difficult" or "ignore"
    concept_box_offsets: NDArray[np.int64]  # (C+1,) boxes of a concept
    concept_boxes: NDArray[np.int32]  # (M,) box rows, ascending within a concept
    # (M,) 0 annotated, 1 found by a run; None: all are annotated
    box_origins: NDArray[np.uint8] | None = field(default=None, kw_only=True)

    @property
    def names(self) -> tuple[str, ...]:
        """The tables that this index has."""
        return NAMES if self.box_origins is None else (*NAMES, "box_origins")


DTYPES: dict[str, type[np.generic]] = {
    "image_ids": np.int64, "widths": np.int32, "heights": np.int32,
    "file_name_bytes": np.uint8, "file_name_offsets": np.int64, "box_offsets": np.int64,
    "neg_offsets": np.int64, "neg_rows": np.int32,
    "not_exhaustive_offsets": np.int64, "not_exhaustive_rows": np.int32,
    "annotation_ids": np.int64, "box_images": np.int32, "box_concepts": np.int32,
    "box_xyxy": np.float64, "areas": np.float64, "iscrowd": np.bool_, "difficult": np.bool_,
    "concept_box_offsets": np.int64, "concept_boxes": np.int32, "box_origins": np.uint8,
}  # fmt: skip
NAMES = tuple(one.name for one in fields(Tables) if one.name != "box_origins")
# Derived from the others, or (file names) a matter of where photos lie.
_NOT_DIGESTED = {"concept_box_offsets", "concept_boxes", "file_name_bytes", "file_name_offsets"}


def tables_digest(tables: Tables, concepts: Vocabulary) -> str:
    """`"sha256:..."` over the contents of the three tables.

    Of a file name its last part counts, not the folders before it: an index made where the photos lie
    elsewhere is the same index, and a column made for one fits the other.
    """
    digest = hashlib.sha256(concepts.digest.encode())
    for name in tables.names:
        if name not in _NOT_DIGESTED:
            values = np.ascontiguousarray(getattr(tables, name))
            digest.update(f"\n{name} {values.dtype.str} {values.shape}\n".encode())
            digest.update(values.tobytes() if values.dtype == np.bool_ else values.data)
    names = _split_names(tables)
    digest.update(b"\nfile names\n" + b"\0".join(name.rpartition(b"/")[2] for name in names))
    return "sha256:" + digest.hexdigest()


def layout_digest(tables: Tables, digest: str) -> str:
    """16 hex digits over everything on disk: the digest and the full file names."""
    whole = hashlib.sha256(digest.encode() + b"\0".join(_split_names(tables)))
    return whole.hexdigest()[:16]


def _split_names(tables: Tables) -> list[bytes]:
    blob, offsets = tables.file_name_bytes.tobytes(), tables.file_name_offsets.tolist()
    return [blob[low:high] for low, high in pairwise(offsets)]


@dataclass(frozen=True, eq=False)
class Index(Tables):
    """An opened index: the tables as read-only memory maps, and what they were made from.

    Pickling keeps the folder and the digest only: a worker process maps the same files again.
    """

    folder: Path
    digest: str
    image_root: Path
    keep: str
    concepts: Vocabulary
    card: dict[str, Any]  # index.json: split, source, counts, dropped, ...

    def __repr__(self) -> str:
        images, boxes = len(self.image_ids), len(self.annotation_ids)
        return f"Index({self.folder}, {images} images, {boxes} boxes, keep={self.keep})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.folder, self.digest)

    def __len__(self) -> int:
        """The number of images, I."""
        return len(self.image_ids)

    def file_name(self, image: int) -> str:
        """The photo's name below `image_root`, with `/` between folders."""
        low, high = self.file_name_offsets[image], self.file_name_offsets[image + 1]
        return self.file_name_bytes[low:high].tobytes().decode("utf-8")

    def photo_path(self, image: int) -> Path:
        """Where the photo lies; its name was proven to stay inside `image_root` when the index was built."""
        return self.image_root / self.file_name(image)

    def boxes_of(self, image: int) -> slice:
        """The box rows of an image row."""
        return slice(int(self.box_offsets[image]), int(self.box_offsets[image + 1]))

    def boxes_of_concept(self, row: int) -> NDArray[np.int32]:
        """Ascending box rows of a concept row, crowds included."""
        return self.concept_boxes[self.concept_box_offsets[row] : self.concept_box_offsets[row + 1]]

    def negatives_of(self, image: int) -> NDArray[np.int32]:
        """Concept rows LVIS verified to be absent from an image."""
        return self.neg_rows[self.neg_offsets[image] : self.neg_offsets[image + 1]]

    def not_exhaustive_of(self, image: int) -> NDArray[np.int32]:
        """Concept rows of which LVIS annotated not every instance in an image."""
        low, high = self.not_exhaustive_offsets[image], self.not_exhaustive_offsets[image + 1]
        return self.not_exhaustive_rows[low:high]

    @property
    def pseudo(self) -> NDArray[np.bool_]:
        """(M,) bool: boxes that a run found and nobody annotated; card["pseudo"] says which run."""
        if self.box_origins is None:
            return np.zeros(len(self.annotation_ids), np.bool_)
        return np.asarray(self.box_origins).astype(np.bool_)

    def image_row(self, image_id: int) -> int:
        """The row of an image id; KeyError when the index lacks it."""
        row = int(np.searchsorted(self.image_ids, image_id))
        if row == len(self.image_ids) or self.image_ids[row] != image_id:
            raise KeyError(image_id)
        return row

    def rows(self, *splits: str) -> NDArray[np.int64]:
        """Concept rows in any of the splits ("base", "novel", "other")."""
        return self.concepts.rows(*splits)


def open_index(data: Path | str) -> Index:
    """Map the index of a data-set folder (`data/index/`); nothing is read but its card.

    Raises UserError when there is none, it was made by a newer version, or a table is missing or damaged.
    """
    data = Path(data)
    card = read_card(data)
    if card is None:
        raise UserError(
            f"{data} holds no index: make one with cckt data index --annotations FILE.json --images FOLDER "
            f"--out {data}"
        )
    if not {"tables", "digest", "image_root", "keep", "concepts", "counts"} <= card.keys():
        raise _damaged(data, f"{CARD} lacks entries")
    folder = data / FOLDER / card["tables"]
    names = (*NAMES, "box_origins") if card["schema"] >= 2 else NAMES
    arrays = {name: _map(folder / f"{name}.npy", DTYPES[name], data) for name in names}
    root = Path(card["image_root"])
    index = Index(
        **arrays,
        folder=data,
        digest=card["digest"],
        image_root=root if root.is_absolute() else data / root,
        keep=card["keep"],
        concepts=Vocabulary.from_json(card.pop("concepts")),
        card=card,
    )
    _check_lengths(index)
    return index


def _check_lengths(index: Index) -> None:
    """Every table has the rows that its neighbours and the card expect; touches no more than its ends."""
    images, boxes = index.card["counts"]["images"], index.card["counts"]["boxes"]
    expected: dict[str, tuple[int, ...]] = dict.fromkeys(("image_ids", "widths", "heights"), (images,))
    expected |= dict.fromkeys(("annotation_ids", "box_images", "box_concepts", "areas"), (boxes,))
    expected |= dict.fromkeys(("iscrowd", "difficult", "concept_boxes"), (boxes,))
    expected["box_xyxy"] = (boxes, 4)
    if index.box_origins is not None:
        expected["box_origins"] = (boxes,)
    for offsets, values, rows in (
        ("file_name_offsets", "file_name_bytes", images),
        ("box_offsets", "box_xyxy", images),
        ("neg_offsets", "neg_rows", images),
        ("not_exhaustive_offsets", "not_exhaustive_rows", images),
        ("concept_box_offsets", "concept_boxes", len(index.concepts)),
    ):
        expected[offsets] = (rows + 1,)
        ends = getattr(index, offsets)[-1:].tolist()
        if ends != [len(getattr(index, values))]:
            raise _damaged(index.folder, f"its table {offsets}.npy does not fit {values}.npy")
    for name, shape in expected.items():
        if getattr(index, name).shape != shape:
            found = getattr(index, name).shape
            raise _damaged(index.folder, f"its table {name}.npy has shape {found}, not {shape}")


def novel_boxes(index: Index) -> int:
    """How many boxes have a concept that is not base, counted in the tables themselves.

    0 proves that nothing downstream of a `keep="base"` index can see a box of a novel concept; the count says
    nothing against a `keep="all"` index.
    """
    barred = ~index.concepts.in_split("base")
    in_boxes = np.count_nonzero(barred[np.asarray(index.box_concepts)])
    by_concept = np.diff(index.concept_box_offsets)[barred].sum()
    return int(max(in_boxes, by_concept))


def verify_index(index: Index) -> bool:
    """Whether the tables, file names and concepts still are what was built (reads all of them)."""
    by_concept = np.argsort(index.box_concepts, kind="stable")
    counts = np.bincount(index.box_concepts, minlength=len(index.concepts))
    return (
        tables_digest(index, index.concepts) == index.digest
        and index.card["tables"] == "tables-" + layout_digest(index, index.digest)
        and np.array_equal(index.concept_boxes, by_concept)
        and np.array_equal(np.diff(index.concept_box_offsets), counts)
    )


def read_card(data: Path) -> dict[str, Any] | None:
    """index.json of a data-set folder, None when there is no index; UserError when it cannot be used."""
    path = data / FOLDER / CARD
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        schema = int(card["schema"])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError):
        raise _damaged(data, f"{CARD} cannot be read") from None
    if schema > SCHEMA:
        raise UserError(
            f"the index of {data} has schema {schema}, made by a newer cckt; this one reads up to {SCHEMA}: "
            "upgrade cckt, or build the index anew in another folder"
        )
    return dict(card)


def _map(path: Path, dtype: type[np.generic], data: Path) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        raise _damaged(data, f"its table {path.name} is missing or cut short") from None
    if array.dtype != dtype:
        raise _damaged(data, f"its table {path.name} holds {array.dtype}, not {np.dtype(dtype)}")
    return array


def check_replaceable(data: Path) -> None:
    """Raise UserError when the folder's index is of a newer schema; a damaged one may be replaced."""
    with suppress(DamagedIndex):
        read_card(data)


class DamagedIndex(UserError):
    """An index that only building it again can mend."""


def _damaged(data: Path, what: str) -> DamagedIndex:
    return DamagedIndex(f"the index of {data} is damaged ({what}): build it again with cckt data index")


def _reopen(folder: Path, digest: str) -> Index:
    index = open_index(folder)
    assert index.digest == digest, f"the index of {folder} was replaced while it was in use"
    return index
