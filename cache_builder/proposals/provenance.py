"""Who made proposals, and what the maker had seen: part of the recipe of the column `proposals/boxes`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from cckt.cache_builder.base.constants import SAW_NOVEL
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.vocabulary import normalise_name

Maker = Literal["run", "detector", "import", "mllm", "words"]
SawNovel = Literal["yes", "no", "unknown"]


@dataclass(frozen=True)
class Provenance:
    """The maker of proposals."""

    maker: Maker
    """Of proposals: a run of ours, a detector of transformers, or an imported file. Of nouns: a multimodal
    LLM that was asked an open question, or a list of words."""
    name: str
    """Name of the run's folder, of the detector as it was given, or of the file."""
    weights: str
    """Digest of the weights; of an import: of the file."""
    trained_on: str = ""
    """What the maker was trained on, in words."""
    concepts: tuple[str, ...] = ()
    """Names of the concepts whose boxes it was trained on, if they are known: of a run."""
    words: tuple[str, ...] = ()
    """Words that a zero-shot detector was given, or that nouns were chosen from."""
    saw_novel: SawNovel = "unknown"
    """Whether it was trained on boxes of novel classes: of a run by its concepts, else as the user states."""

    def to_json(self) -> dict[str, Any]:
        """Return the provenance as a recipe holds it."""
        return {**vars(self), "concepts": list(self.concepts), "words": list(self.words)}

    @staticmethod
    def from_recipe(recipe: Mapping[str, Any]) -> Provenance:
        """Return the provenance in the recipe of a column `proposals/boxes`.

        Raises UserError for a recipe without one.
        """
        fields = recipe.get("provenance")
        known = set(Provenance.__dataclass_fields__)
        if not isinstance(fields, Mapping) or not {"maker", "name", "weights"} <= set(fields) <= known:
            raise UserError(
                "The recipe of the proposals names no maker: expected an entry provenance with maker, name "
                "and weights; make them again with cckt cache proposals and --overwrite."
            )
        given = dict(fields)
        for key in ("concepts", "words"):
            given[key] = tuple(map(str, given.get(key, ())))
        return Provenance(**given)

    def __str__(self) -> str:
        kinds = {"import": "file", "mllm": "multimodal LLM", "words": "word list"}
        return f"{kinds.get(self.maker, self.maker)} {self.name}"


def check_saw_novel(text: str) -> SawNovel:
    """Return the value of --saw-novel. Raises UserError for another word than yes, no or unknown."""
    if text not in get_args(SawNovel):
        raise UserError(f"--saw-novel {text}: expected yes, no or {SAW_NOVEL}.")
    return cast(SawNovel, text)


def split_words(text: str) -> tuple[str, ...]:
    """Return the words of --words, which are separated by commas or full stops: "cat. a dog." gives two."""
    return tuple(word for part in text.replace(".", ",").split(",") if (word := " ".join(part.split())))


def overlap(names: Iterable[str], concepts: Iterable[Iterable[str]]) -> list[str]:
    """Return the first name of each concept that has a name among `names`; both are compared normalised.

    concepts: the names of each concept.
    """
    known = {normalise_name(name) for name in names}
    listed = [list(one) for one in concepts]
    return [one[0] for one in listed if known & {normalise_name(name) for name in one}]
