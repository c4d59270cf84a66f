"""A data set as a run is evaluated on it: images, vocabulary, text embeddings, protocol and priors."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.index import Index, open_index, require_boxes_to_score
from cckt.cache_builder.presence import Rows, choose_present, generator_of
from cckt.cache_builder.proposals import find_leak
from cckt.cache_builder.store import (
    Column,
    Origin,
    column_of,
    matching_label,
    open_column,
    repair_command,
    require_same_teacher,
)
from cckt.cache_builder.vocabulary import Vocabulary
from cckt.detector.config.config import PriorConfig
from cckt.detector.data.presence import disturb_present
from cckt.detector.data.training_priors import priors_column
from cckt.detector.evaluation.protocols import OV_COCO_PROTOCOL, OV_LVIS_PROTOCOL, Protocol, protocol_for
from cckt.detector.inference.vocabulary import with_splits
from cckt.detector.runs.run_folder import Facts

CORRUPTED_DROP, CORRUPTED_ADD = 0.2, 2.0
"""Corrupted priors (docs/method/cckt_det.md, eq. 28): probability of removing a true concept, and mean number
of wrong concepts added."""


@dataclass(frozen=True)
class EvaluationSet:
    """An index with the C concepts that a protocol scores.

    rows: (C,) concept rows of the index, ascending; vocabulary: these C concepts; text: (C, D) float32 unit.
    """

    index: Index
    rows: Rows
    vocabulary: Vocabulary
    text: Tensor
    protocol: Protocol
    teacher: str = ""
    """Label of the teacher whose columns are read; "" for the first teacher."""
    text_digest: str = ""
    """Manifest digest of the text column."""
    trained: frozenset[str] | None = None
    """Normalised names of the concepts that the run was trained on; None: those of the split base."""

    @cached_property
    def base(self) -> npt.NDArray[np.bool_]:
        """(C,) concepts of `vocabulary` that the run was trained on."""
        words = self.vocabulary if self.trained is None else with_splits(self.vocabulary, self.trained)
        mask = np.zeros(len(words), bool)
        mask[words.rows("base")] = True
        return mask

    def input_digests(self, prior: PriorConfig) -> dict[str, str]:
        """Return digests of all inputs of an evaluation here, apart from weights and settings."""
        digests = {"index": self.index.digest, "text": self.text_digest}
        if prior.cached:
            with suppress(UserError):  # a run that does not use priors needs no column of them
                digests["priors"] = self.priors_column(prior.source).manifest.digest
        return digests

    def present_concepts(self, prior: PriorConfig) -> list[Rows] | None:
        """Return for each image its present concepts, as rows of `vocabulary`; None for source "none".

        A column gives them most likely first (docs/method/cckt_det.md, eq. 7); annotations give them by row,
        without crowds. Raises UserError if the column is missing.
        """
        if prior.source == "none":
            return None
        if not prior.cached:
            return self._annotated(prior.source == "corrupted")
        probabilities = self.prior_probabilities(prior)
        assert probabilities is not None, f"expected probabilities for prior.source {prior.source}"
        return choose_present(probabilities, prior.rho, prior.limit, prior.fill, self.index.image_ids)

    def prior_probabilities(self, prior: PriorConfig) -> npt.NDArray[np.float32] | None:
        """Return (I, C) float32 priors of each image and concept; None for source "none".

        Priors from annotations are 0 or 1. Raises UserError if the column is missing.
        """
        if prior.source == "none":
            return None
        if prior.cached:
            probabilities: npt.NDArray[np.float32] = self.priors_column(prior.source).all()[:, self.rows]
            return probabilities
        table = np.zeros((len(self.index), len(self.rows)), np.float32)
        for image, concepts in enumerate(self._annotated(prior.source == "corrupted")):
            table[image, concepts] = 1
        return table

    def priors_column(self, source: str) -> Column:
        """Open the column of priors "clip" or "mllm". Raises UserError if it is missing or does not fit."""
        name = priors_column(self.index.folder, source, self.teacher)
        return open_column(self.index.folder, name, index_digest=self.index.digest, prove=True)

    def prior_tau(self, prior: PriorConfig) -> float | None:
        """Return the temperature of the CLIP priors, if these are the source and their column records it."""
        if prior.source != "clip":
            return None
        with suppress(UserError):  # a run that does not use priors needs no column of them
            tau = self.priors_column("clip").manifest.spec.recipe.get("tau")
            return None if tau is None else float(tau)
        return None

    def _annotated(self, corrupted: bool) -> list[Rows]:
        """Return the annotated concepts of each image, without crowds.

        corrupted: disturb them, with the image id as seed, so that every evaluation gets the same.
        """
        number = self.index.concepts.places(self.rows)
        present_of_images = []
        for image in range(len(self.index)):
            boxes = self.index.boxes_of(image)
            concepts = number[self.index.box_concepts[boxes][~self.index.iscrowd[boxes]]]
            present = np.unique(concepts[concepts >= 0])
            if corrupted:
                random = generator_of(self.index.image_ids[image])
                present = disturb_present(present, len(self.rows), CORRUPTED_DROP, CORRUPTED_ADD, 0.0, random)
            present_of_images.append(present)
        return present_of_images


def open_evaluation_set(
    data: Path | Index, facts: Facts | None = None, protocol: str = "auto", *, scored: bool = True
) -> EvaluationSet:
    """Open an index with its text column.

    facts: of the run to evaluate, which may have been trained with another vocabulary: the text is the column
    of this data set made by the run's teacher, whatever its label here. scored: refuse an index without boxes
    or with pseudo boxes, which cannot be scored on. Raises UserError if the index or the text column is
    missing, there is no concept to find or no image, the teachers differ, or the protocol does not fit the
    index or the run.
    """
    index = data if isinstance(data, Index) else open_index(data)
    if scored:
        require_boxes_to_score(index)
    rules = protocol_for(protocol, index)
    if scored and facts is not None:
        check_start(index, facts, rules.name)
    concepts, rows = rules.scored(index)
    label = "" if facts is None else matching_label(index.folder, facts.taught_by, facts.teacher)
    taught = "" if facts is None else (facts.taught_by or {}).get("name") or ""
    name = column_of(index.folder, "text", label)
    text = open_column(index.folder, name, index_digest=index.digest, teacher=taught, prove=True)
    if facts is not None:
        check_teacher(index.folder, text, facts)
    vocabulary = Vocabulary(concepts[int(row)] for row in rows)
    values = torch.from_numpy(text.take(rows).astype(np.float32))
    trained = None if facts is None else frozenset(facts.annotated)
    return EvaluationSet(index, rows, vocabulary, values, rules, label, text.manifest.digest, trained)


def check_start(index: Index, facts: Facts, protocol: str) -> None:
    """Raise UserError if a run that is scored by an open-vocabulary protocol started from weights that may
    have seen novel concepts, or learned from proposals or nouns of such a maker."""
    if protocol not in (OV_COCO_PROTOCOL.name, OV_LVIS_PROTOCOL.name):
        return
    known = [("started from the weights of", one) for one in facts.makers]
    known += [("was trained on proposals or nouns of", one) for one in facts.makers_of_proposals]
    for way, maker in known:
        leak = find_leak(maker, index)
        if leak:
            raise UserError(
                f"--protocol {protocol}: the run {way} {maker}, which {leak}, expected a run that never saw "
                "them; add --protocol custom to score it as a detector of own words."
            )


def check_teacher(data: Path, text: Column, facts: Facts) -> None:
    """Raise UserError unless the text column comes from the run's teacher: embeddings of others differ."""
    taught = facts.taught_by
    run = Origin("the run's embeddings", taught, facts.embedding_dim)
    spec = text.manifest.spec
    wanted = {**spec.recipe, "import": None, "teacher": {"name": (taught or {}).get("name") or "NAME"}}
    step = f"make the column again with {repair_command(str(data), spec.name, wanted)} --overwrite"
    require_same_teacher(Origin.of(text, f"{data}: column {spec.name}"), run, step=step, imported=True)
