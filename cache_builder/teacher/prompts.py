"""From concept names to sentences and their mean embedding (docs/method/cckt_det.md, eq. 1).

A template is a sentence with one `{}`. The ensemble of a concept is the mean of the unit embeddings of its
sentences, made unit again. Articles are not corrected: CLIP's ensembles have "a photo of a umbrella." too,
and the mean over templates hides it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.constants import TEMPLATES
from cckt.cache_builder.base.digests import digest_of
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.untrusted.regular_files import read_regular_text
from cckt.cache_builder.base.untrusted.text import parse_json
from cckt.cache_builder.vocabulary import Concept

ENSEMBLE12 = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
    "a cropped photo of a {}.",
    "a photo of a {} in the scene.",
    "a photo of many {}.",
    "a blurry photo of a {}.",
    "a photo of a {}.",
)
"""The 12 templates of the default, `TEMPLATES`."""

SINGLE = ("a photo of a {}.",)

SETS = ("single", TEMPLATES, "imagenet80")


@dataclass(frozen=True)
class Templates:
    """A named list of templates; `name` is the set's name, or "own" for a list of the user."""

    name: str
    patterns: tuple[str, ...]

    @property
    def digest(self) -> str:
        """ "sha256:..." of the patterns in order."""
        return digest_of(json.dumps(self.patterns).encode())

    def fill(self, words: str) -> list[str]:
        """Return one sentence for each template."""
        return [pattern.replace("{}", words) for pattern in self.patterns]


def resolve_templates(templates: str | Path | Sequence[str]) -> Templates:
    """Return the templates of `--templates`: the name of a set, a file, or a list.

    A file holds one template on each line, or a JSON list of templates. Every template has `{}` exactly once.

    Raises UserError for an unknown name, a file without templates, or a template without exactly one `{}`.
    """
    if not isinstance(templates, str | Path):
        return _checked(tuple(templates), "the list given as templates")
    if templates == "single":
        return Templates("single", SINGLE)
    if templates == TEMPLATES:
        return Templates(TEMPLATES, ENSEMBLE12)
    if templates == "imagenet80":
        from cckt.cache_builder.teacher.clip import imagenet_templates  # open_clip is slow to import

        return Templates("imagenet80", imagenet_templates())
    path = Path(templates)
    if not path.is_file():
        raise UserError(
            f"--templates {templates} is neither one of {', '.join(SETS)} nor a file; "
            "give one of them, or a file with one template on each line, with {} for the name."
        )
    return _checked(_read(path), str(path))


def spoken(name: str) -> str:
    """Return a category's name as used in sentences: underscores become spaces, runs of spaces one space.

    Brackets are kept. LVIS has "bow_(weapon)" and "bow_(decorative_ribbons)", which would get one embedding
    without them.
    """
    return " ".join(name.replace("_", " ").split())


def wordings(concept: Concept, synonyms: bool = False) -> list[str]:
    """Return the wordings of a concept, its name first, then with `synonyms` its synonyms, each once."""
    names = [concept.name, *(concept.synonyms if synonyms else ())]
    return list(dict.fromkeys(spoken(name) for name in names))


def embed_concepts(
    concepts: Sequence[Concept],
    templates: Templates,
    encode: Callable[[list[str]], NDArray[np.float32]],
    *,
    synonyms: bool = False,
) -> NDArray[np.float32]:
    """Return (C, D) float32 unit text embeddings of `concepts`; docs/method/cckt_det.md, eq. 1.

    encode: maps B sentences to (B, D) float32 unit rows. A concept's row is the normalised mean over all its
    sentences, templates x wordings. Sums are taken in float64, so that the order of templates has no effect.
    """
    sentences = [[s for words in wordings(c, synonyms) for s in templates.fill(words)] for c in concepts]
    rows = encode([sentence for group in sentences for sentence in group])
    starts = np.cumsum([0, *(len(group) for group in sentences)])[:-1]
    if not len(concepts):
        return rows
    return unit_rows(np.add.reduceat(rows.astype(np.float64), starts, axis=0))


def unit_rows(rows: NDArray[Any]) -> NDArray[np.float32]:
    """Return rows (n, D) scaled to length 1, float32; AssertionError for a row of zeros."""
    rows = rows.astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    assert np.all(lengths > 0), "expected no row of zeros"
    unit: NDArray[np.float32] = (rows / lengths).astype(np.float32)
    return unit


def _read(path: Path) -> tuple[str, ...]:
    try:
        text = read_regular_text(path)
        if text.lstrip().startswith("["):
            return tuple(parse_json(text))
    except (OSError, ValueError) as fault:
        raise UserError(
            f"{path} cannot be read as templates ({fault}); give one on each line, or a JSON list of strings."
        ) from None
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def _checked(patterns: tuple[str, ...], where: str) -> Templates:
    if not patterns:
        raise UserError(f"{where} holds no template; give at least one sentence with a {{}} for the name.")
    for pattern in patterns:
        if not isinstance(pattern, str) or pattern.count("{}") != 1:
            raise UserError(
                f"{where} holds the template {pattern!r}; each must hold {{}} exactly once, where the name "
                "goes."
            )
    return Templates("own", patterns)
