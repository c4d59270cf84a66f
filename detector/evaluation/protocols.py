"""What is scored and by which rules: the benchmarks of the papers, by name.

Source: METHOD.md section 1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.index import Index
from cckt.cache_builder.index.splits import ov_coco
from cckt.cache_builder.vocabulary import Vocabulary

COCO_FIGURES = ("ap", "ap50_all", "ap75")
SPLIT_FIGURES = ("ap50_base", "ap50_novel", "ap50_all", "ap")
LVIS_FIGURES = ("ap_r", "ap_c", "ap_f", "ap")
OBJECTS365_CONCEPTS = 365


@dataclass(frozen=True)
class Protocol:
    """One way to score.

    federated: photos are judged only on the concepts they were checked for, 300 detections a photo (LVIS);
    else 100 a photo and concept (COCO). everything: `other` concepts are scored too. top: detections a run
    gives for a photo; None leaves it to the run's config. headline: the figures people compare, which get
    bootstrap intervals.
    """

    name: str
    meaning: str
    federated: bool = False
    everything: bool = False
    top: int | None = None
    headline: tuple[str, ...] = SPLIT_FIGURES

    def concepts(self, index: Index) -> Vocabulary:
        """All C concepts of the index, in its rows, with the splits of this protocol.

        Raises UserError where the index is no data set of the benchmark.
        """
        if self.name == "ov-coco":
            return _ov_coco(index)
        return index.concepts

    def rows(self, concepts: Vocabulary) -> list[int]:
        """Ascending rows of the concepts that are scored."""
        splits = ("base", "novel", "other") if self.everything else ("base", "novel")
        return [row for row, concept in enumerate(concepts) if concept.split in splits]


OV_COCO_PROTOCOL = Protocol(
    "ov-coco", "48 base and 17 novel of COCO's concepts, the 15 others ignored", top=100
)
OV_LVIS_PROTOCOL = Protocol(
    "ov-lvis", "LVIS v1 or v0.5, federated; rare is novel", federated=True, top=300, headline=LVIS_FIGURES
)
COCO_PROTOCOL = Protocol(
    "coco", "every concept, by the COCO API's rules", everything=True, top=100, headline=COCO_FIGURES
)
OBJECTS365_PROTOCOL = Protocol(
    "objects365", "its 365 concepts, by the COCO API's rules", everything=True, top=100, headline=COCO_FIGURES
)
CUSTOM_PROTOCOL = Protocol("custom", "base and novel of the index's own split, by the COCO API's rules")

PROTOCOLS = {
    one.name: one
    for one in (OV_COCO_PROTOCOL, OV_LVIS_PROTOCOL, COCO_PROTOCOL, OBJECTS365_PROTOCOL, CUSTOM_PROTOCOL)
}


def protocol_for(name: str, index: Index) -> Protocol:
    """The protocol of a name, once it is known to fit the index.

    "auto" is ov-lvis if the concepts have frequencies, ov-coco if the index was built with the split
    coco-48-17, else custom, and leaves the number of detections to the run's config. Raises UserError for an
    unknown name and for an index that the protocol does not fit.
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
            f"--protocol ov-lvis: the concepts of {index.folder} have no frequency (r, c, f), as LVIS's do; "
            "build the index from LVIS's own file with --split lvis, or take --protocol custom."
        )
    if name == "objects365" and len(index.concepts) != OBJECTS365_CONCEPTS:
        raise UserError(
            f"--protocol objects365: {index.folder} has {len(index.concepts)} concepts, expected "
            f"{OBJECTS365_CONCEPTS}; build the index from Objects365's own file, or take --protocol coco."
        )
    vocabulary = protocol.concepts(index)
    # What an index kept to base left out follows its own split, not the protocol's.
    gone = [row for row in protocol.rows(vocabulary) if index.concepts[row].split != "base"]
    if index.keep == "base" and name != "custom" and gone:
        raise UserError(
            f"--protocol {name}: {index.folder} was built with --keep base and holds no box of {len(gone)} "
            "concepts that are to be found; build an index with --keep all to score on."
        )
    return protocol


def _ov_coco(index: Index) -> Vocabulary:
    """The index's concepts under OV-COCO's split, whatever split it was built with."""
    where = f"--protocol ov-coco does not fit {index.folder}"
    step = "take --protocol custom, which scores the index's own split."
    return Vocabulary(ov_coco(index.concepts, where, step))
