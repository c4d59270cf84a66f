"""Who made proposals, and what the maker had seen: part of the recipe of the column `proposals/boxes`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from cckt.cache_builder.base.constants import NAME_PROMPT, SAW_NOVEL
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.proposals.noun_phrases import joined, words_of
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
    prompt: str = ""
    """Request to the multimodal LLM, if it is not the default one."""

    def to_json(self) -> dict[str, Any]:
        """Return the provenance as a recipe holds it; without an empty prompt, as in earlier versions."""
        fields = {**vars(self), "concepts": list(self.concepts), "words": list(self.words)}
        return {key: value for key, value in fields.items() if key != "prompt" or value}

    @staticmethod
    def from_recipe(recipe: Mapping[str, Any]) -> Provenance:
        """Return the provenance in the recipe of a column `proposals/boxes`, or of one of nouns, whose recipe
        also has the prompt.

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
        if given["maker"] == "mllm" and recipe.get("prompt", NAME_PROMPT) != NAME_PROMPT:
            given["prompt"] = str(recipe["prompt"])
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


def overlap(names: Iterable[str], concepts: Iterable[Sequence[str]]) -> list[str]:
    """Return the first name of each concept that has a name among `names`.

    concepts: the names of each concept. Names are compared normalised, and as nouns: "umbrellas", "an
    umbrella" and "Umbrella" are one name, and so are "traffic light" and "traffic-light".
    """
    known = {form for name in names for form in forms_of(name)}
    return [one[0] for one in concepts if any(known & forms_of(name) for name in one)]


def forms_of(name: str) -> set[str]:
    """Return the forms of a name that are compared; two names are equal if they share one."""
    return {normalise_name(name), joined(words_of(name))} - {""}


def named_in(text: str, concepts: Sequence[Sequence[str]], others: Sequence[str]) -> list[str]:
    """Return the first name of each concept that a text names, in their order.

    concepts: the names of each concept. others: names of other concepts. The longest name wins: "a hot dog"
    does not name "dog" where "hot dog" is another concept.
    """
    rows = {joined(words_of(name)): -1 for name in others}
    rows |= {joined(words_of(name)): row for row, names in enumerate(concepts) for name in names}
    rows.pop("", None)  # of a name without letters
    names = [*others, *(name for one in concepts for name in one)]
    most = max((len(words_of(name)) for name in names), default=0)
    words, found, at = words_of(text), set(), 0
    while at < len(words):
        longest = range(min(most, len(words) - at), 0, -1)
        count = next((one for one in longest if joined(words[at : at + one]) in rows), 1)
        found.add(rows.get(joined(words[at : at + count]), -1))
        at += count
    return [concepts[row][0] for row in sorted(found - {-1})]
