"""A list of words from which the teacher chooses the noun of each proposal: `--nouns-from FILE`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.digests import digest_of
from cckt.cache_builder.base.errors import UserError, counted
from cckt.cache_builder.base.untrusted.regular_files import read_regular
from cckt.cache_builder.proposals.noun_phrases import noun_of
from cckt.cache_builder.proposals.provenance import Provenance
from cckt.cache_builder.store import Column, Origin, require_same_teacher
from cckt.cache_builder.teacher.clip import Teacher

ROWS = 4096
"""Proposals that are compared with the words at once."""

MOST_BYTES = 50_000_000
"""Size of a list above which the file is refused: it is something else."""


@dataclass(frozen=True)
class WordList:
    """The different words of a file, in their order."""

    names: list[str]
    """As `noun_of` spells them."""
    provenance: Provenance


def read_words(path: Path) -> WordList:
    """Read a word list: one word or phrase a line, UTF-8; lines that have no word are skipped.

    Raises UserError if the file cannot be read, and if it has no usable word.
    """
    try:
        size = path.stat().st_size
        content = read_regular(path) if size <= MOST_BYTES else None  # once: it may be a pipe of the shell
        text = None if content is None else content.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise UserError(
            f"--nouns-from {path}: cannot be read as text ({error}); give a UTF-8 file with a word per line."
        ) from None
    if content is None or text is None:
        raise UserError(
            f"--nouns-from {path}: has {size} bytes, expected at most {MOST_BYTES} for a list of words; give "
            "a file with one word per line."
        )
    lines = text.splitlines()
    names = list(dict.fromkeys(noun for line in lines if (noun := noun_of(line, None)[0])))
    if not names:
        raise UserError(
            f"--nouns-from {path}: none of its {counted(len(lines), 'line')} is a usable word, expected a "
            "word or "
            "phrase of letters per line; give another file."
        )
    # The lines as they are: the leak guard compares them with the names of concepts.
    given = tuple(dict.fromkeys([*names, *(line.strip() for line in lines if line.strip())]))
    return WordList(names, Provenance("words", path.name, digest_of(content), words=given))


def require_teacher_of(crops: Column, teacher: Teacher) -> None:
    """Raise UserError if the crops are of another teacher."""
    step = "name the teacher of the crops with --teacher, or make the crops again with this one"
    mine = Origin(f"--teacher {teacher.name}", teacher.recipe(), teacher.width)
    require_same_teacher(Origin.of(crops), mine, step=step)


def nearest_words(crops: Column, texts: NDArray[np.float32], teacher: Teacher) -> NDArray[np.int64]:
    """Return (P,) the row of `texts` (U, D) with the largest cosine to each crop; -1 without an embedding.

    Of equal cosines the first word wins. Raises UserError if the crops are of another teacher.
    """
    require_teacher_of(crops, teacher)
    ids = np.full(len(crops), -1, np.int64)
    valid = crops.valid_all()
    for lo in range(0, len(crops), ROWS):
        rows = lo + np.flatnonzero(valid[lo : lo + ROWS])
        if len(rows):
            ids[rows] = (crops.take(rows).astype(np.float32) @ texts.T).argmax(axis=1)
    return ids
