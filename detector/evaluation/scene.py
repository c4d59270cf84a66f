"""A data set as a detector meets it at test: photos, the vocabulary's text, and who says what is present."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.index import Index, open_index, require_annotated
from cckt.cache_builder.presence import Rows, choose_present, generator_of
from cckt.cache_builder.store import (
    Column,
    Origin,
    column_of,
    matching_label,
    open_column,
    require_same_teacher,
)
from cckt.cache_builder.vocabulary import Vocabulary
from cckt.detector.config.config import PriorConfig
from cckt.detector.data.presence import disturb_present
from cckt.detector.data.training_priors import priors_column
from cckt.detector.evaluation.protocols import Protocol, protocol_for
from cckt.detector.runs.run_folder import Facts

WITHHELD, WRONG = 0.2, 2.0
"""Of "corrupted": the share of true concepts withheld, and the mean number of wrong ones added."""


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
    teacher: str = ""
    """Label of the teacher whose columns are read; "" is the first's."""
    text_digest: str = ""
    """Of the text column's manifest."""

    def made_of(self, prior: PriorConfig) -> dict[str, str]:
        """Digests of all that detections here follow from, besides the weights and the settings."""
        made = {"index": self.index.digest, "text": self.text_digest}
        if prior.cached:
            with suppress(UserError):  # a run that does not heed priors needs no column of them
                made["priors"] = self.priors(prior.source).manifest.digest
        return made

    def present(self, prior: PriorConfig) -> list[Rows] | None:
        """For each photo the concepts (numbers 0..C-1) said to be in it, of a column the likeliest first;
        None for no prior at all.

        Raises UserError where there is no column of that source. Source: METHOD.md section 3.
        """
        if prior.source == "none":
            return None
        if not prior.cached:
            return self._annotated(prior.source == "corrupted")
        probabilities = self.probabilities(prior)
        assert probabilities is not None
        return choose_present(probabilities, prior.rho, prior.limit, prior.fill, self.index.image_ids)

    def probabilities(self, prior: PriorConfig) -> npt.NDArray[np.float32] | None:
        """(I, C) float32: what the priors say of each photo and concept; None for no prior at all.

        What comes from annotations is 0 or 1. Raises UserError where there is no column of that source.
        """
        if prior.source == "none":
            return None
        if prior.cached:
            said: npt.NDArray[np.float32] = self.priors(prior.source).all()[:, self.rows]
            return said
        table = np.zeros((len(self.index), len(self.rows)), np.float32)
        for image, concepts in enumerate(self._annotated(prior.source == "corrupted")):
            table[image, concepts] = 1
        return table

    def priors(self, source: str) -> Column:
        """The column of a source, "clip" or "mllm". Raises UserError where there is none that fits."""
        name = priors_column(self.index.folder, source, self.teacher)
        return open_column(self.index.folder, name, index_digest=self.index.digest)

    def _annotated(self, corrupted: bool) -> list[Rows]:
        """The annotated concepts of each photo; corrupted alike whenever it is asked, by the photo's id."""
        number = self.index.concepts.places(self.rows)
        answer = []
        for image in range(len(self.index)):
            boxes = self.index.boxes_of(image)
            concepts = number[self.index.box_concepts[boxes][~self.index.iscrowd[boxes]]]
            present = np.unique(concepts[concepts >= 0])
            if corrupted:
                random = generator_of(self.index.image_ids[image])
                present = disturb_present(present, len(self.rows), WITHHELD, WRONG, 0.0, random)
            answer.append(present)
        return answer


def open_scene(
    data: Path | Index, facts: Facts | None = None, protocol: str = "auto", *, scored: bool = True
) -> Scene:
    """Open an index with its text column.

    facts: of the run that will look at it, which may have been trained on another vocabulary: the text column
    is the data set's own, of the run's teacher whatever its label there. scored: whether it is to be scored
    on; boxes that a run found are then refused. Raises UserError where there is no index or text column, no
    concept to find, no photo, the text is of another teacher than the run's, or the protocol does not fit.
    """
    index = data if isinstance(data, Index) else open_index(data)
    if scored:
        require_annotated(index)
    rules = protocol_for(protocol, index)
    label = "" if facts is None else matching_label(index.folder, facts.taught_by, facts.teacher)
    text = open_column(index.folder, column_of(index.folder, "text", label), index_digest=index.digest)
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
    return Scene(index, rows, vocabulary, values, rules, label, text.manifest.digest)


def check_teacher(data: Path, text: Column, facts: Facts) -> None:
    """The text must come from the teacher that taught the run: other teachers' embeddings lie elsewhere."""
    taught = facts.taught_by
    run = Origin("the run's embeddings", taught, facts.embedding_dim)
    name = (taught or {}).get("name") or "NAME"
    step = f"make the column again with cckt cache text {data} --teacher {name} --overwrite"
    require_same_teacher(
        Origin.of(text, f"{data}: column {text.manifest.spec.name}"), run, step=step, imported=True
    )
