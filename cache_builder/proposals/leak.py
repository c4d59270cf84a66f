"""The leak guard of proposals and nouns: makers that saw novel classes, under open-vocabulary protocols.

A detector that was trained on boxes of novel classes, or that was given their names, finds the novel objects
in the training images for the student. Outside of these protocols (a user's own words) it is welcome to.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from cckt.cache_builder.base.errors import UserError, counted, listed, quoted
from cckt.cache_builder.index import Index
from cckt.cache_builder.proposals.noun_phrases import phrases_of
from cckt.cache_builder.proposals.provenance import Provenance, named_in, overlap
from cckt.cache_builder.proposals.table import BOXES
from cckt.cache_builder.store import ColumnName, column_info, parse_name
from cckt.cache_builder.store.kinds import PROPOSALS
from cckt.cache_builder.vocabulary import normalise_name

OV_SPLITS = ("coco-48-17", "lvis")
"""Splits of the open-vocabulary protocols."""

_OV_RECIPE = re.compile(r"(.*-)?(coco|lvis)-.*")


def is_guarded(index: Index, recipe: str = "") -> bool:
    """Return whether training on this index follows an open-vocabulary protocol, and has novel concepts.

    It does if the index was built with --keep base or with the split of OV-COCO or OV-LVIS, or if the recipe
    is one of OV-COCO or OV-LVIS.
    """
    split = index.card.get("split")
    protocol = index.keep == "base" or split in OV_SPLITS or _OV_RECIPE.fullmatch(recipe) is not None
    return protocol and len(index.concepts.rows("novel")) > 0


def leak_notes(provenance: Provenance, index: Index) -> list[str]:
    """Return the warning for a maker whose proposals or nouns training will refuse; nothing for others."""
    leak = find_leak(provenance, index) if is_guarded(index) else ""
    if not leak:
        return []
    return [f"warning: {provenance} {leak}; training under an open-vocabulary protocol refuses it"]


def find_leak(provenance: Provenance, index: Index) -> str:
    """Return in which way the maker may have seen novel classes of the index, as a clause after its name; ""
    if in none.

    Names, and what else they name (`phrases_of`), are compared as `overlap` does; a name that a base concept
    has, letter by letter, is that concept's.
    """
    novel, base = (_names(index, split) for split in ("novel", "base"))
    known = [name for one in base for name in one]
    spelled = {normalise_name(name) for name in known} - {
        normalise_name(name) for one in novel for name in one
    }

    def shared(names: Iterable[str]) -> list[str]:
        others = (name for name in names if normalise_name(name) not in spelled)
        phrases = (phrase for name in others for phrase in phrases_of(name))
        return overlap((one for one in phrases if normalise_name(one) not in spelled), novel)

    trained = shared(provenance.concepts)
    if trained:
        return f"was trained on boxes of {len(trained)} novel concepts ({listed(trained)})"
    given = shared(provenance.words)
    if given:
        return f"was given the names of {len(given)} novel concepts ({listed(given)})"
    asked = named_in(provenance.prompt, novel, known) if provenance.prompt else []
    if asked:
        return f"was given the names of {len(asked)} novel concepts in its prompt ({listed(asked)})"
    if provenance.saw_novel == "yes" and provenance.maker == "run":  # nobody stated it
        return "saw novel classes, or learned from a maker that may have seen them"
    if provenance.saw_novel == "yes":
        return "saw novel classes in its training (--saw-novel yes)"
    if provenance.maker in ("detector", "import") and provenance.saw_novel != "no":
        return "may have seen novel classes in its training (--saw-novel unknown)"
    return ""


def _names(index: Index, split: str) -> list[tuple[str, ...]]:
    """Return the names of each concept of a split, its synonyms last."""
    chosen = (index.concepts[int(row)] for row in index.concepts.rows(split))
    return [one.every_name for one in chosen]


def provenances_of(data: Path | str, name: str) -> dict[str, Provenance]:
    """Return the makers behind a column of the folder `proposals/`: column -> maker; {} for another column.

    A column over proposals has the maker of its proposals, and its own one if its recipe names one (nouns).
    Raises UserError if the proposals are missing.
    """
    parts = parse_name(name)
    if parts is None or not parts.kind.startswith(f"{PROPOSALS}/"):
        return {}
    boxes = str(ColumnName(BOXES, of=parts.of))
    recipes = {one: column_info(data, one).manifest.spec.recipe for one in dict.fromkeys((boxes, name))}
    return {
        one: Provenance.from_recipe(recipe)
        for one, recipe in recipes.items()
        if one == boxes or "provenance" in recipe
    }


def require_no_leak(data: Path | str, index: Index, name: str, recipe: str = "") -> None:
    """Raise UserError if training that reads column `name` is guarded and a maker behind it may have seen
    novel classes. Columns other than proposals, their crops and nouns pass."""
    if not is_guarded(index, recipe):
        return
    for column, provenance in provenances_of(data, name).items():
        leak = find_leak(provenance, index)
        if leak:
            step = _mended(data, column, provenance, leak)
            raise UserError(
                f"{data}: column {column} was made by {provenance}, which {leak}, expected a maker that "
                f"never saw them under an open-vocabulary protocol; {step}."
            )


def _mended(data: Path | str, column: str, provenance: Provenance, leak: str) -> str:
    """Return what mends a leak: the command that makes the column again, with its options."""
    parts = parse_name(column)
    assert parts is not None, f"expected the name of a column, found {column}"
    if parts.kind == BOXES:
        name = f" --name {parts.of}" if parts.of else ""
        other = f"such as cckt cache proposals {quoted(data)} --from RUN{name} --overwrite"
        if provenance.maker != "run" and "--saw-novel" in leak:
            other += ", or with --saw-novel no --overwrite if that is so"
        elif provenance.maker == "detector" and provenance.words:
            other += ", or with other --words"
        return f"make the column again with a maker that did not, {other}"
    options = f" --of {PROPOSALS}-{parts.of}" if parts.of else ""
    options += f" --name {parts.label}" if parts.label else ""
    source = (
        "--nouns-from FILE, with a FILE"
        if provenance.maker == "words"
        else f"--mllm-model {quoted(provenance.name)} --prompt REQUEST, with a REQUEST"
    )
    return (
        f"make the nouns again with cckt cache nouns {quoted(data)}{options} --overwrite {source} that does "
        "not have these names"
    )


def evidence(provenance: Provenance, index: Index) -> str:
    """Return, for a maker without a leak, what proves or states that."""
    novel = len(index.concepts.rows("novel"))
    if provenance.maker == "run":
        trained = counted(len(provenance.concepts), "concept")
        return f"trained on boxes of {trained}, none of the {counted(novel, 'novel one')}"
    if provenance.maker == "mllm":
        return "its answers are its own words; it was given no names"
    if provenance.maker == "words":
        words = counted(len(provenance.words), "word")
        return f"given {words}, none a name of the {counted(novel, 'novel concept')}"
    given = f"given the words {', '.join(provenance.words)}; " if provenance.words else ""
    trained = f" ({provenance.trained_on})" if provenance.trained_on else ""
    return f"{given}its maker states that it saw none of the {counted(novel, 'novel concept')}{trained}"
