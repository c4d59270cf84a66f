"""Protocols: which concepts are scored, and by which rules (docs/method/cckt_det.md, section 1)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from cckt.cache_builder.base.errors import UserError, counted, quoted
from cckt.cache_builder.index import Index
from cckt.cache_builder.index.splits import ov_coco
from cckt.cache_builder.vocabulary import Vocabulary

COCO_FIGURES = ("ap", "ap50_all", "ap75")
SPLIT_FIGURES = ("ap50_base", "ap50_novel", "ap50_all", "ap")
LVIS_FIGURES = ("ap_r", "ap_c", "ap_f", "ap")
OBJECTS365_CONCEPTS = 365


@dataclass(frozen=True)
class Protocol:
    """Rules of scoring.

    meaning: a description in one line. federated: an image is scored only on the concepts verified in it,
    with 300 detections per image (LVIS); else with 100 per image and concept (COCO). scores_other: concepts
    of the split "other" are scored too. top: detections per image that a run gives; None is the run's config.
    headline: names of the figures that papers compare; they get bootstrap intervals.
    """

    name: str
    meaning: str
    federated: bool = False
    scores_other: bool = False
    top: int | None = None
    headline: tuple[str, ...] = SPLIT_FIGURES

    def concepts(self, index: Index) -> Vocabulary:
        """Return all C concepts of the index, in its order, with the splits of this protocol.

        Raises UserError if the index is not of the protocol's data set.
        """
        if self.name == "ov-coco":
            return _ov_coco(index)
        return index.concepts

    def scored(self, index: Index) -> tuple[Vocabulary, npt.NDArray[np.int64]]:
        """Return `concepts`, and the ascending rows of those that are scored.

        Raises UserError as `concepts` does, and if no concept is scored.
        """
        concepts = self.concepts(index)
        if not len(concepts):
            raise UserError(
                f"{index.folder} has no concept, expected at least one to find; index its photos again with "
                f"words, such as cckt data index --images FOLDER --names WORDS --out {quoted(index.folder)}."
            )
        rows = np.array(self.rows(concepts), np.int64)
        if not len(rows):
            raise UserError(
                f"{index.folder} has neither base nor novel concepts, expected at least one to score; build "
                "the index with a --split that names them, or use --protocol coco."
            )
        return concepts, rows

    def rows(self, concepts: Vocabulary) -> list[int]:
        """Return the ascending rows of the concepts that are scored."""
        splits = ("base", "novel", "other") if self.scores_other else ("base", "novel")
        return [row for row, concept in enumerate(concepts) if concept.split in splits]


OV_COCO_PROTOCOL = Protocol(
    "ov-coco", "48 base and 17 novel of COCO's concepts, the 15 others ignored", top=100
)
OV_LVIS_PROTOCOL = Protocol(
    "ov-lvis",
    "LVIS v1 or v0.5, federated, rare concepts are novel",
    federated=True,
    top=300,
    headline=LVIS_FIGURES,
)
COCO_PROTOCOL = Protocol(
    "coco", "every concept, by the rules of the COCO API", scores_other=True, top=100, headline=COCO_FIGURES
)
OBJECTS365_PROTOCOL = Protocol(
    "objects365",
    "the 365 concepts of Objects365, by the rules of the COCO API",
    scores_other=True,
    top=100,
    headline=COCO_FIGURES,
)
CUSTOM_PROTOCOL = Protocol(
    "custom", "base and novel concepts of the index's split, by the rules of the COCO API"
)

PROTOCOLS = {
    one.name: one
    for one in (OV_COCO_PROTOCOL, OV_LVIS_PROTOCOL, COCO_PROTOCOL, OBJECTS365_PROTOCOL, CUSTOM_PROTOCOL)
}


def protocol_for(name: str, index: Index) -> Protocol:
    """Return the protocol of a name, after checking that it fits the index.

    "auto" is ov-lvis if the concepts have frequencies, ov-coco if the index was built with the split
    coco-48-17, else custom; the number of detections is then the run's config. Raises UserError for an
    unknown name, and if the protocol does not fit the index.
    """
    if name == "auto":
        if any(concept.frequency for concept in index.concepts):
            return replace(OV_LVIS_PROTOCOL, top=None)
        return replace(OV_COCO_PROTOCOL if index.card["split"] == "coco-48-17" else CUSTOM_PROTOCOL, top=None)
    if name not in PROTOCOLS:
        raise UserError(f"--protocol {name} is not known; expected one of auto, {', '.join(PROTOCOLS)}.")
    protocol = PROTOCOLS[name]
    if protocol.federated and not any(concept.frequency for concept in index.concepts):
        raise UserError(
            f"--protocol ov-lvis: the concepts of {index.folder} have no frequency, expected r, c or f as in "
            "LVIS; build the index from an LVIS file with --split lvis, or use --protocol custom."
        )
    if name == "objects365" and len(index.concepts) != OBJECTS365_CONCEPTS:
        raise UserError(
            f"--protocol objects365: {index.folder} has {counted(len(index.concepts), 'concept')}, expected "
            f"{OBJECTS365_CONCEPTS}; build the index from an Objects365 file, or use --protocol coco."
        )
    vocabulary = protocol.concepts(index)
    # --keep base drops boxes by the split of the index, which may differ from the protocol's.
    gone = [row for row in protocol.rows(vocabulary) if index.concepts[row].split != "base"]
    if index.keep == "base" and name != "custom" and gone:
        raise UserError(
            f"--protocol {name}: {index.folder} was built with --keep base and holds no box of {len(gone)} "
            "concepts that the protocol scores, expected the boxes of all of them; build an index with "
            "--keep all to score on."
        )
    return protocol


def _ov_coco(index: Index) -> Vocabulary:
    """Return the concepts of the index with the split of OV-COCO, whatever split it was built with."""
    where = f"--protocol ov-coco does not fit {index.folder}"
    step = "use --protocol custom, which scores the split of the index."
    return Vocabulary(ov_coco(index.concepts, where, step))
