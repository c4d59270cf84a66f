"""Who is asked: a model held here by transformers, or one that vLLM serves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from PIL import Image

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Progress
from cckt.cache_builder.mllm.load import DTYPES, Mllm, place_of
from cckt.cache_builder.mllm.questions import PhotoQuestions, Questions
from cckt.cache_builder.mllm.scorer import Scorer, Scores
from cckt.cache_builder.mllm.served import Engine

BACKENDS = ("transformers", "vllm")


class Asker(Protocol):
    """Answers questions about C concepts, photo by photo. notes: what a person should know of how."""

    questions: Questions
    notes: list[str]

    def about(self, photo: Image.Image) -> Any:
        """What `score` takes of a photo (mode RGB); runs ahead, in another thread."""

    def score(self, about: Any, concepts: Sequence[int] | None = None) -> Scores:
        """What the model says of the concept rows `concepts`, all C by default."""


Ask = Callable[[Sequence[str]], Asker]
"""Names of concepts -> who answers about them."""


class Here:
    """A model in this process."""

    def __init__(self, questions: Questions, scorer: Scorer) -> None:
        self.questions, self.notes = questions, scorer.notes
        self._scorer = scorer

    def about(self, photo: Image.Image) -> PhotoQuestions:
        """The questions as tensors."""
        return self.questions.about(photo)

    def score(self, about: PhotoQuestions, concepts: Sequence[int] | None = None) -> Scores:
        """See `Scorer.score`."""
        return self._scorer.score(about, concepts)


class Served:
    """A model in vLLM's engine, which wants the photo and the words."""

    def __init__(self, questions: Questions, engine: Engine) -> None:
        self.questions = questions
        self.notes: list[str] = [f"{engine.model} is served by vLLM, which shares equal prefixes"]
        self._engine = engine

    def about(self, photo: Image.Image) -> Image.Image:
        """The photo itself."""
        return photo

    def score(self, about: Image.Image, concepts: Sequence[int] | None = None) -> Scores:
        """See `Engine.score`."""
        texts = self.questions.bare if self.questions.template else self.questions.texts
        asked = texts if concepts is None else [texts[row] for row in concepts]
        return self._engine.score(about, asked, template=self.questions.template)


def askers(mllm: Mllm, prompt: str, backend: str, block: int | None, progress: Progress) -> Ask:
    """Who answers about any names, by one of BACKENDS; the model is held once."""
    if backend == "vllm":
        dtype = str(DTYPES[mllm.dtype]).removeprefix("torch.")
        engine = Engine(place_of(mllm.name), mllm.answers, dtype=dtype)
        return lambda names: Served(Questions(mllm, names, prompt), engine)
    scorer = Scorer(mllm, block=block, progress=progress)
    return lambda names: Here(Questions(mllm, names, prompt), scorer)


def check_backend(backend: str) -> None:
    """UserError for a backend that there is not."""
    if backend not in BACKENDS:
        raise UserError(f"--backend {backend} is not known; choose one of {', '.join(BACKENDS)}.")
