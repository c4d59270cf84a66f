"""Vocabularies: the concepts of a data set, or of a list that a user types."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.digests import digest_of
from cckt.cache_builder.base.errors import UserError

SPLITS = ("base", "novel", "other")
"""base: boxes may be trained on. novel: to be found, never trained on. other: ignored."""


def normalise_name(name: str) -> str:
    """Return the form in which names are compared: lower case, `_` as a space, single spaces."""
    return " ".join(name.replace("_", " ").casefold().split())


def nearest_name(name: str, names: Iterable[str]) -> str:
    """Return `"; did you mean 'x'?"` for the end of an error message, or "" where no name is similar."""
    by_form = {normalise_name(other): other for other in names}
    close = get_close_matches(normalise_name(name), by_form, n=1, cutoff=0.6)
    return f"; did you mean {by_form[close[0]]!r}?" if close else ""


@dataclass(frozen=True)
class Concept:
    """One entry of a vocabulary."""

    category_id: int
    """The data set's id; 1, 2, ... in a free vocabulary."""
    name: str
    """As the data set spells it; LVIS joins words with `_`."""
    synonyms: tuple[str, ...] = ()
    """Other names of the concept, without `name`."""
    split: str = "novel"
    """One of SPLITS."""
    frequency: str = ""
    """LVIS: "r" (rare), "c" (common), "f" (frequent); else ""."""

    @property
    def every_name(self) -> tuple[str, ...]:
        """The name, then the synonyms."""
        return (self.name, *self.synonyms)

    def __post_init__(self) -> None:
        assert self.split in SPLITS, f"expected a split of {SPLITS}, found {self.split!r}"
        assert self.frequency in ("", "r", "c", "f"), f"expected r, c, f or '', found {self.frequency!r}"


class Vocabulary(Sequence[Concept]):
    """An immutable list of C concepts. Row k is concept k everywhere: text column, logits, priors.

    typed: the user wrote the concepts and their synonyms, as `Vocabulary.free` reads them; False for the
    concepts of a data set.
    """

    def __init__(self, concepts: Iterable[Concept], *, typed: bool = False) -> None:
        self._concepts = tuple(concepts)
        self.typed = typed
        self._row_of = {concept.category_id: row for row, concept in enumerate(self._concepts)}
        assert len(self._row_of) == len(self._concepts), "expected unique category ids, found duplicates"

    @overload
    def __getitem__(self, row: int) -> Concept: ...
    @overload
    def __getitem__(self, row: slice) -> tuple[Concept, ...]: ...
    def __getitem__(self, row: int | slice) -> Concept | tuple[Concept, ...]:
        return self._concepts[row]

    def __len__(self) -> int:
        return len(self._concepts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self._concepts == other._concepts

    def __hash__(self) -> int:
        return hash(self._concepts)

    def __repr__(self) -> str:
        return f"Vocabulary({len(self)} concepts: {', '.join(self.names[:3])}{', ...' * (len(self) > 3)})"

    @property
    def names(self) -> list[str]:
        """The C names, in row order."""
        return [concept.name for concept in self._concepts]

    @property
    def category_ids(self) -> NDArray[np.int64]:
        """(C,) int64 category ids, in row order."""
        return np.array([concept.category_id for concept in self._concepts], dtype=np.int64)

    @property
    def digest(self) -> str:
        """`"sha256:..."` over every field of every concept, in order."""
        return digest_of(json.dumps(self.to_json()).encode())

    def rows(self, *splits: str) -> NDArray[np.int64]:
        """Return the ascending concept rows in any of `splits`; all C rows without an argument."""
        assert set(splits) <= set(SPLITS), f"expected splits of {SPLITS}, found {splits}"
        wanted = splits or SPLITS
        return np.array([row for row, c in enumerate(self._concepts) if c.split in wanted], dtype=np.int64)

    def places(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return (C,) int64: the position of each concept in `rows`, -1 for a concept that is not there."""
        places = np.full(len(self), -1, np.int64)
        places[rows] = np.arange(len(rows))
        return places

    def in_split(self, *splits: str) -> NDArray[np.bool_]:
        """Return (C,) bool: whether the concept is in any of `splits`."""
        return np.array([concept.split in splits for concept in self._concepts], dtype=np.bool_)

    def row_of(self, category_id: int) -> int:
        """Return the row of a category id. Raises KeyError for an unknown id."""
        return self._row_of[category_id]

    def row_named(self, name: str) -> int:
        """Return the row of a name or synonym, ignoring case and `_`. Names go before synonyms.

        The first row where several concepts have the name. Raises UserError with the most similar name where
        no concept has it.
        """
        form = normalise_name(name)
        for row, concept in enumerate(self._concepts):
            if normalise_name(concept.name) == form:
                return row
        for row, concept in enumerate(self._concepts):
            if form in map(normalise_name, concept.synonyms):
                return row
        raise UserError(
            f"the vocabulary has no concept named {name!r}{nearest_name(name, self.names)}"
            if self._concepts
            else f"the vocabulary is empty, so it has no concept named {name!r}"
        )

    def to_json(self) -> list[dict[str, Any]]:
        """Return C dicts, as index.json holds them."""
        return [{**asdict(concept), "synonyms": list(concept.synonyms)} for concept in self._concepts]

    @staticmethod
    def from_json(records: Iterable[dict[str, Any]]) -> Vocabulary:
        """Return the vocabulary of `to_json`. Raises ValueError or TypeError for anything else."""
        concepts = [Concept(**{**r, "synonyms": tuple(r["synonyms"])}) for r in records]
        for one in concepts:
            if type(one.category_id) is not int or abs(one.category_id) >= 2**63:
                raise ValueError(f"expected whole numbers as category ids, found {one.category_id!r}")
            if not all(isinstance(name, str) for name in one.every_name):
                raise ValueError(f"expected texts as names, found {one.name!r}")
        return Vocabulary(concepts)

    @staticmethod
    def free(text: str | Sequence[str]) -> Vocabulary:
        """Return the vocabulary of a typed text, such as `"forklift, pallet, tv|television"`.

        Commas separate concepts; in a list of entries they are part of the name. `|` separates a name from
        its synonyms. Category ids count from 1, and every split is "novel". Raises UserError for an empty
        vocabulary, an entry without a name, and a name that occurs twice.
        """
        entries = text.split(",") if isinstance(text, str) else list(text)
        if isinstance(text, str) and entries and not entries[-1].strip():
            entries.pop()  # a trailing comma, or an empty text
        if not entries:
            raise UserError(
                "the vocabulary is empty: name at least one concept, "
                "for example 'forklift, pallet, tv|television'"
            )
        concepts: list[Concept] = []
        seen: dict[str, int] = {}
        for number, entry in enumerate(entries, 1):
            names = [" ".join(name.split()) for name in entry.split("|")]
            if not all(names):
                raise UserError(
                    f"entry {number} of the vocabulary ({entry.strip()!r}) has an empty name: "
                    "separate concepts by one comma and synonyms by one '|'"
                )
            for name in names:
                if normalise_name(name) in seen:
                    raise UserError(
                        f"the vocabulary names {name!r} twice (entries {seen[normalise_name(name)]} and "
                        f"{number}): keep one of them"
                    )
                seen[normalise_name(name)] = number
            concepts.append(Concept(number, names[0], tuple(names[1:])))
        return Vocabulary(concepts, typed=True)
