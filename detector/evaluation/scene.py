"""A data set as a detector meets it at test: photos, the vocabulary's text, and who says what is present."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cache_builder.errors import UserError
from cache_builder.index import Index, open_index
from cache_builder.store import Column, Origin, open_column, require_same_teacher, teacher_of
from cache_builder.vocabulary import Vocabulary
from detector.checkpoint import Facts
from detector.config import PriorConfig
from detector.evaluation.protocols import Protocol, protocol_for
from detector.guidance import choose_present

Rows = npt.NDArray[np.int64]
SOURCES = ("clip", "mllm", "oracle", "none")


@dataclass(frozen=True)
class Scene:
    """An index with the concepts that its protocol scores (base and novel, mostly) as vocabulary.

    rows: (C,) concept rows of the index, ascending; vocabulary: these C concepts; text: (C, D) float32 unit.
    """

    index: Index
    rows: Rows
    vocabulary: Vocabulary
    text: Tensor
    protocol: Protocol

    def present(self, prior: PriorConfig) -> list[Rows] | None:
        """For each photo the concepts (numbers 0..C-1) said to be in it, likeliest first; None for no prior
        at all.

        Raises UserError where there is no column of that source. Source: METHOD.md section 3.
        """
        if prior.source == "none":
            return None
        if prior.source == "oracle":
            return self._annotated()
        name = f"priors/{prior.source}"
        column = open_column(self.index.folder, name, index_digest=self.index.digest)
        probabilities = column.all()[:, self.rows]
        return choose_present(probabilities, prior.rho, prior.limit, prior.fill, self.index.image_ids)

    def _annotated(self) -> list[Rows]:
        number = np.full(len(self.index.concepts), -1, np.int64)
        number[self.rows] = np.arange(len(self.rows))
        answer = []
        for image in range(len(self.index)):
            boxes = self.index.boxes_of(image)
            concepts = number[self.index.box_concepts[boxes][~self.index.iscrowd[boxes]]]
            answer.append(np.unique(concepts[concepts >= 0]))
        return answer


def open_scene(data: Path | Index, facts: Facts | None = None, protocol: str = "auto") -> Scene:
    """Open an index with its text column.

    facts: of the run that will look at it, which may have been trained on another vocabulary: the text column
    is the data set's own. Raises UserError where there is no index or text column, no concept to find, no
    photo, the text is of another teacher than the run's, or the protocol does not fit.
    """
    index = data if isinstance(data, Index) else open_index(data)
    rules = protocol_for(protocol, index)
    text = open_column(index.folder, "text", index_digest=index.digest)
    if facts is not None:
        check_teacher(index.folder, text, facts)
    concepts = rules.concepts(index)
    rows = np.array(rules.rows(concepts), np.int64)
    if not len(rows):
        raise UserError(
            f"{index.folder} has neither base nor novel concepts, so there is nothing to find; build the "
            "index with a --split that names them."
        )
    vocabulary = Vocabulary(concepts[int(row)] for row in rows)
    values = torch.from_numpy(text.take(rows).astype(np.float32))
    return Scene(index, rows, vocabulary, values, rules)


def check_teacher(data: Path, text: Column, facts: Facts) -> None:
    """The text must come from the teacher that taught the run: other teachers' embeddings lie elsewhere."""
    taught = teacher_of(facts.text_recipe) or teacher_of(facts.crops_recipe)
    run = Origin("the run's embeddings", taught, facts.embedding_dim)
    name = (taught or {}).get("name") or "NAME"
    step = f"make the column again with cckt cache text {data} --teacher {name} --overwrite"
    require_same_teacher(Origin.of(text, f"{data}: column text"), run, step=step, imported=True)
