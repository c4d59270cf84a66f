"""The leak guard of proposals and nouns: makers that saw novel classes are refused under open-vocabulary
protocols.

A detector that was trained on boxes of novel classes, or that was given their names, finds the novel objects
in the training images for the student. Outside of these protocols (a user's own words) it is welcome to.
"""

from __future__ import annotations

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.index import Index
from cckt.cache_builder.proposals.provenance import Provenance, overlap

OV_SPLITS = ("coco-48-17", "lvis")
"""Splits of the open-vocabulary protocols."""


def is_guarded(index: Index) -> bool:
    """Return whether training on this index follows an open-vocabulary protocol: it was built with --keep
    base, or with the split of OV-COCO or OV-LVIS, and has novel concepts."""
    guarded = index.keep == "base" or index.card.get("split") in OV_SPLITS
    return guarded and bool(len(index.concepts.rows("novel")))


def find_leak(provenance: Provenance, index: Index) -> str:
    """Return why the maker may have seen novel classes of the index, as a clause after its
    name; "" if not."""
    rows = index.concepts.rows("novel")
    novel = [(one.name, *one.synonyms) for one in (index.concepts[int(row)] for row in rows)]
    trained = overlap(provenance.concepts, novel)
    if trained:
        return f"was trained on boxes of {len(trained)} novel concepts ({_some(trained)})"
    given = overlap(provenance.words, novel)
    if given:
        return f"was given the names of {len(given)} novel concepts ({_some(given)})"
    if provenance.maker == "run":
        return ""
    if provenance.saw_novel == "yes":
        return "saw novel classes in its training (--saw-novel yes)"
    if provenance.saw_novel != "no":
        return "may have seen novel classes in its training (--saw-novel unknown)"
    return ""


def require_no_leak(provenance: Provenance, index: Index, name: str) -> None:
    """Raise UserError if training on the index is guarded and the maker may have seen novel classes.

    name: of the column that holds what the maker made, for the message.
    """
    leak = find_leak(provenance, index) if is_guarded(index) else ""
    if leak:
        raise UserError(
            f"{index.folder}: column {name} was made by {provenance}, which {leak}, expected a maker that "
            "never saw them under an open-vocabulary protocol; make the column again with a maker trained "
            "on base boxes, such as cckt cache proposals --from RUN, or state --saw-novel no if that is so."
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (" and others" if len(names) > 5 else "")
