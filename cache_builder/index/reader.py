"""Open an index: map its arrays, and check that they fit each other and name no file outside."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.disk_faults import raise_unless_missing
from cckt.cache_builder.base.errors import UserError, quoted
from cckt.cache_builder.base.untrusted.npy_files import read_npy
from cckt.cache_builder.base.untrusted.regular_files import read_regular_text
from cckt.cache_builder.base.untrusted.text import parse_json
from cckt.cache_builder.index.card import SEAL, card_digest, is_sealed
from cckt.cache_builder.index.consistency import misfit
from cckt.cache_builder.index.generations import cards
from cckt.cache_builder.index.tables import CARD, DTYPES, FOLDER, NAMES, SCHEMA, Tables
from cckt.cache_builder.vocabulary import Vocabulary

_TABLES_FOLDER = re.compile(r"tables-[0-9a-f]{16}")


@dataclass(frozen=True, eq=False)
class Index(Tables):
    """An open index: read-only memory maps of the arrays, and the card that describes them.

    Pickling keeps only the folder and the digest; a worker process maps the same files again.
    """

    folder: Path
    """The data-set folder, which holds `index/`."""
    digest: str
    image_root: Path
    """The images folder."""
    keep: str
    """"all", or "base": boxes of other concepts were dropped."""
    concepts: Vocabulary
    card: dict[str, Any]
    """index.json: split, source, counts, dropped and more."""

    def __repr__(self) -> str:
        images, boxes = len(self.image_ids), len(self.annotation_ids)
        return f"Index({self.folder}, {images} images, {boxes} boxes, keep={self.keep})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.folder, self.digest)

    def __len__(self) -> int:
        """Return the number of images, I."""
        return len(self.image_ids)

    def file_name(self, image: int) -> str:
        """Return the file name of an image row relative to `image_root`, with `/` between folders."""
        low, high = self.file_name_offsets[image], self.file_name_offsets[image + 1]
        return self.file_name_bytes[low:high].tobytes().decode("utf-8")

    def photo_path(self, image: int) -> Path:
        """Return the path of an image row. `open_index` has checked that it stays inside `image_root`."""
        return self.image_root / self.file_name(image)

    def boxes_of(self, image: int) -> slice:
        """Return the box rows of an image row."""
        return slice(int(self.box_offsets[image]), int(self.box_offsets[image + 1]))

    def boxes_of_concept(self, row: int) -> NDArray[np.int32]:
        """Return the ascending box rows of a concept row, crowds included."""
        return self.concept_boxes[self.concept_box_offsets[row] : self.concept_box_offsets[row + 1]]

    def negatives_of(self, image: int) -> NDArray[np.int32]:
        """Return the concept rows that LVIS verified to be absent from an image row."""
        return self.neg_rows[self.neg_offsets[image] : self.neg_offsets[image + 1]]

    def not_exhaustive_of(self, image: int) -> NDArray[np.int32]:
        """Return the concept rows with instances that LVIS did not annotate in an image row."""
        low, high = self.not_exhaustive_offsets[image], self.not_exhaustive_offsets[image + 1]
        return self.not_exhaustive_rows[low:high]

    @property
    def exif(self) -> str:
        """ "ignore" or "apply": whether boxes refer to the photo as its EXIF orientation turns it, where both
        readings have the recorded size. Else the size decides. `photos.load_photo` obeys it.
        """
        return "apply" if self.card.get("exif", {}).get("reading") == "apply" else "ignore"

    @property
    def pseudo(self) -> NDArray[np.bool_]:
        """(M,) bool: the box was found by a run and not annotated; card["pseudo"] names the run."""
        if self.box_origins is None:
            return np.zeros(len(self.annotation_ids), np.bool_)
        return np.asarray(self.box_origins).astype(np.bool_)

    def image_row(self, image_id: int) -> int:
        """Return the row of an image id. Raises KeyError for an unknown id."""
        row = int(np.searchsorted(self.image_ids, image_id))
        if row == len(self.image_ids) or self.image_ids[row] != image_id:
            raise KeyError(image_id)
        return row

    def rows(self, *splits: str) -> NDArray[np.int64]:
        """Return the concept rows in any of the splits ("base", "novel", "other")."""
        return self.concepts.rows(*splits)


class DamagedIndexError(UserError):
    """An index that must be built again."""


def open_index(data: Path | str, digest: str | None = None) -> Index:
    """Map the index of a data-set folder (`data/index/`).

    digest: of the index, which may be an earlier one that columns of the data set still belong to; see
    `generations`. Default: the current one.

    Reads the card, the file names and the arrays of rows; boxes and areas are only mapped. Raises UserError
    where there is no index or a newer cckt made it. Raises DamagedIndexError where an array is missing,
    damaged or does not fit the others, and where the card or a file name leads outside: an index may come
    from anywhere.
    """
    data = Path(data)
    card = read_card(data)
    if card is not None and digest is not None and card.get("digest") != digest:
        card = next((dict(one) for one in cards(data) if one["digest"] == digest), None)
        if card is None:
            raise UserError(
                f"{data} holds no index {digest}: expected the current one or one that a column still "
                f"belongs to; run cckt cache info {quoted(data)} to see the digests in use."
            )
    if card is None:
        raise UserError(f"{data} holds no index: make one with {index_command(data)}")
    if not {"tables", "digest", "image_root", "keep", "concepts", "counts"} <= card.keys():
        raise _damaged(data, f"{CARD} lacks entries")
    if not _TABLES_FOLDER.fullmatch(str(card["tables"])):
        raise _damaged(data, f"{CARD} names the folder {card['tables']!r} for its tables")
    edited = is_sealed(card) and card.get(SEAL) != card_digest(card)
    folder = data / FOLDER / card["tables"]
    root = Path(str(card["image_root"]))
    if "\0" in str(root) or (not root.is_absolute() and ".." in root.parts):
        raise _damaged(data, f"{CARD} names the images folder {str(root)!r}, which leaves {data}")
    try:
        concepts = Vocabulary.from_json(card.pop("concepts"))
        counts = {name: int(card["counts"][name]) for name in ("images", "boxes")}
    except (TypeError, KeyError, ValueError, OverflowError, AssertionError):
        raise _damaged(data, f"{CARD} holds concepts or counts that cannot be read") from None
    for entry in ("exif", "repairs"):
        if not isinstance(card.get(entry, {}), dict):
            raise _damaged(data, f"{CARD} holds an entry {entry} that cannot be read")
    names = (*NAMES, "box_origins") if int(card["schema"]) >= 2 else NAMES
    index = Index(
        **{name: _map(folder / f"{name}.npy", DTYPES[name], data) for name in names},
        folder=data,
        digest=card["digest"],
        image_root=root if root.is_absolute() else data / root,
        keep=card["keep"],
        concepts=concepts,
        card=card,
    )
    problem = misfit(index, images=counts["images"], boxes=counts["boxes"], concepts=len(concepts))
    if problem:
        raise _damaged(data, problem)
    if edited:  # last, because the checks above say more about what is wrong
        raise _damaged(data, f"{CARD} was changed after it was built")
    return index


def read_card(data: Path) -> dict[str, Any] | None:
    """Return index.json of a data-set folder, None where there is no index.

    Raises UserError for a newer schema and DamagedIndexError for a file that cannot be read.
    """
    path = data / FOLDER / CARD
    try:
        if path.exists() and not path.is_file():  # opening a pipe would block
            raise _damaged(data, f"{CARD} is no regular file")
        card = parse_json(read_regular_text(path))
        schema = int(card["schema"])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except DamagedIndexError:
        raise
    except (OSError, ValueError, OverflowError, KeyError, TypeError) as error:
        raise_unless_missing(error, path)
        raise _damaged(data, f"{CARD} cannot be read") from None
    if schema > SCHEMA:
        raise UserError(
            f"the index of {data} has schema {schema}, made by a newer cckt; this one reads up to {SCHEMA}: "
            "upgrade cckt, or build the index again in another folder"
        )
    return dict(card)


def check_replaceable(data: Path) -> None:
    """Raise UserError where the folder's index has a newer schema. A damaged index may be replaced."""
    with suppress(DamagedIndexError):
        read_card(data)


def _map(path: Path, dtype: type[np.generic], data: Path) -> NDArray[Any]:
    try:
        if not path.is_file():
            raise FileNotFoundError(path)
        array = read_npy(path, "r")
    except (OSError, ValueError) as error:
        raise_unless_missing(error, path)
        raise _damaged(data, f"its table {path.name} is missing or cut short") from None
    if array.dtype != dtype:
        raise _damaged(data, f"its table {path.name} holds {array.dtype}, not {np.dtype(dtype)}")
    return array


def _damaged(data: Path, reason: str) -> DamagedIndexError:
    return DamagedIndexError(
        f"the index of {data} is damaged ({reason}): build it again with {index_command(data)}"
    )


def index_command(data: Path | str) -> str:
    """Return the command that makes an index in a folder; what only the user knows is in capitals."""
    return f"cckt data index --annotations FILE.json --images FOLDER --out {quoted(data)}"


def _reopen(folder: Path, digest: str) -> Index:
    try:
        return open_index(folder, digest)
    except DamagedIndexError:
        raise
    except UserError as error:
        raise AssertionError(f"the index of {folder} was replaced while it was in use") from error
