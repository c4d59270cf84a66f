"""Open the nouns of proposals: which noun each proposal has, and the embedding of each noun.

docs/method/hd_ovd.md, section 3. `cache_builder/columns/nouns/` makes the columns; the detector
reads them here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.index import Index
from cckt.cache_builder.proposals.noun_phrases import noun_of
from cckt.cache_builder.proposals.noun_weight import NounWeight
from cckt.cache_builder.proposals.provenance import Provenance
from cckt.cache_builder.proposals.table import Proposals
from cckt.cache_builder.store import Column, ColumnName, list_columns, open_column, repair_command

ANSWERS = "proposals/answers"
NOUNS = "proposals/nouns"
TEXTS = "proposals/noun_texts"
WEIGHTS = "proposals/noun_weights"


@dataclass(frozen=True, eq=False)
class Nouns:
    """The nouns of P proposals, U different ones."""

    ids: NDArray[np.int64]
    """(P,) noun of each proposal, a row of `names` and `embeddings`; -1: none."""
    names: tuple[str, ...]
    """The U nouns as `noun_of` spells them, in order of their first proposal."""
    embeddings: NDArray[np.float32]
    """(U, D) unit text embeddings."""
    weight: NounWeight | None
    """The constants of eq. 12; None where they are not fitted."""
    provenance: Provenance
    """Who chose the nouns."""
    repair: str
    """Command that fits the constants, for messages."""

    def base_rows(self, base_names: Sequence[str]) -> NDArray[np.int64]:
        """Return (U,) the row in `base_names` of the equal name for each noun, -1 where there is none.

        Both are compared as `noun_of` spells them: "hot_dogs" equals "hot dog". Of equal base names the first
        one counts. A longer name, such as "hammer and pick", also equals the noun that `noun_of` makes of it
        as an answer, unless another base name has that noun.
        """
        rows: dict[str, int] = {}
        for row, name in enumerate(base_names):
            rows.setdefault(noun_of(name, None)[0], row)
        short = [noun_of(name)[0] for name in base_names]
        for row, noun in enumerate(short):
            if noun and short.count(noun) == 1:
                rows.setdefault(noun, row)
        return np.array([rows.get(name, -1) for name in self.names], np.int64)

    def cosines(self, crops: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return (P,) float32 cosines of crop and noun (docs/method/hd_ovd.md, eq. 11), 0 without a noun.

        crops: (P, D) unit embeddings; a row of zeros, without an embedding, gives 0.
        """
        assert len(crops) == len(self.ids), f"expected {len(self.ids)} crops, found {len(crops)}"
        found = np.zeros(len(crops), np.float32)
        named = np.flatnonzero(self.ids >= 0)
        for lo in range(0, len(named), 8192):
            rows = named[lo : lo + 8192]
            texts = self.embeddings[self.ids[rows]]
            found[rows] = np.einsum("ij,ij->i", crops[rows].astype(np.float32), texts)
        return found

    def weights(self, crops: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return (P,) float32 weights (docs/method/hd_ovd.md, eq. 12); 0 without a noun or a crop embedding.

        crops: (P, D) unit embeddings. Raises UserError where the constants are not fitted.
        """
        if self.weight is None:
            raise UserError(f"The weight of nouns is not fitted to the teacher yet; run `{self.repair}`.")
        weights = self.weight(self.cosines(crops))
        weights[(self.ids < 0) | ~crops.any(axis=1)] = 0
        return weights


def open_nouns(
    data: Path | str, index: Index, proposals: Proposals, label: str = "", *, weighed: bool = True
) -> Nouns:
    """Open the nouns of the data set `data`, over its proposals table `proposals`.

    label: of a second teacher. weighed: with the fitted weight; without it, a column of weights that a killed
    process left unfinished does no harm. Raises UserError if a column is missing, unfinished, of another
    proposals table, or if nouns and texts were not made together.
    """
    assert proposals.index.digest == index.digest, "expected the proposals of this index"
    nouns, texts = (open_over(data, proposals, kind, label) for kind in (NOUNS, TEXTS))
    recipe = nouns.manifest.spec.recipe
    names = tuple(recipe.get("names", ()))
    if list(names) != list(texts.manifest.spec.recipe.get("names", ())) or len(names) != texts.rows:
        spec = nouns.manifest.spec
        command = repair_command(str(data), spec.name, spec.recipe)
        raise UserError(
            f"The columns {spec.name} and {texts.manifest.spec.name} of {data} hold other nouns "
            f"({len(names)} and {texts.rows}), expected the same; run `{command} --overwrite`."
        )
    ids = np.where(nouns.valid_all(), nouns.all()[:, 0].astype(np.int64), -1)
    weights_name = str(ColumnName(WEIGHTS, label, of=proposals.label))
    return Nouns(
        ids=ids,
        names=names,
        embeddings=texts.all(),
        weight=_fitted(data, proposals, weights_name, nouns, texts) if weighed else None,
        provenance=Provenance.from_recipe(recipe),
        repair=repair_command(str(data), weights_name),
    )


def open_over(data: Path | str, proposals: Proposals, kind: str, label: str = "") -> Column:
    """Open a finished column of one of the kinds over proposals, checked against their digest."""
    name = str(ColumnName(kind, label, of=proposals.label))
    return open_column(data, name, index_digest=proposals.digest, prove=True)


def _fitted(
    data: Path | str, proposals: Proposals, name: str, nouns: Column, texts: Column
) -> NounWeight | None:
    """The constants in the column of weights, if it was made from these nouns."""
    if name not in list_columns(data):
        return None
    spec = open_column(data, name).manifest.spec
    if spec.index_digest != proposals.digest:  # of proposals that were replaced: it will be replaced too
        return None
    recipe = spec.recipe
    made_from = {"nouns": nouns.manifest.digest, "noun_texts": texts.manifest.digest}
    if any(recipe["from"].get(key) != digest for key, digest in made_from.items()):
        return None
    return NounWeight.from_json(recipe["weight"])


def read_answers(column: Column) -> list[str]:
    """Return the answers that a column `proposals/answers` holds, "" for an invalid row."""
    return [bytes(row).rstrip(b"\0").decode("utf-8", "replace") for row in column.all()]
