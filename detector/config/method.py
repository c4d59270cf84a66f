"""Options of training methods around the queries: language guidance, denoising, one-to-many matching."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cckt.detector.config.checks import at_least, fraction, require


@dataclass(frozen=True)
class GuidanceConfig:
    """Language queries (docs/method/cckt_det.md, eqs. 8, 9 and 28): which concepts guide them in training."""

    enabled: bool = True
    """Add the text embeddings of the present concepts to the queries; False ignores the present concepts."""
    initial: Literal["normal", "xavier"] = "normal"
    """Decision. Initial weights of the projection of the text: "normal", of variance 1, gives it the energy
    of the learned content; "xavier", uniform, about a hundredth of it (the authors' code)."""
    slow: bool = False
    """Train the projections of the text and of the backbone's maps with train.sampling_lr_factor (the
    authors' code)."""
    unguided: float = 0.0
    """Beyond the paper: share of the queries, below 1, that no concept guides in any image, so that objects
    whose concept is not among the present ones are found too. It is rounded to whole queries."""
    drop: float = 0.0
    """Guidance noise, beyond the paper: probability that a present concept is dropped in training."""
    add: float = 0.0
    """Guidance noise: expected number of absent concepts that are added to a photo in training."""
    none: float = 0.0
    """Guidance noise: probability that a training photo gets no guidance at all."""
    priors: float = 0.0
    """Guidance by priors in training, beyond the paper: probability that a photo is guided by its cached
    priors (the column of prior.source, at prior.rho and prior.limit, base concepts only) instead of its
    annotations."""
    order: Literal["shuffled", "row"] = "shuffled"
    """Decision. Order in which present concepts are dealt to the queries in training: drawn per photo, or by
    row of the concept. In evaluation it is by probability, which no row order resembles."""

    def __post_init__(self) -> None:
        fraction("guidance", self, "drop", "none", "priors", "unguided")
        require(self.unguided < 1, "guidance.unguided", self.unguided, "a share below 1")
        at_least("guidance", self, 0, "add")


@dataclass(frozen=True)
class DenoiseConfig:
    """Denoising queries, beyond the paper (docs/method/cckt_det.md, eq. 26)."""

    groups: int = 0
    """Groups of denoising queries; 0 turns them off. A batch with many objects gets fewer groups, so that
    there are never more denoising queries than others. Needs model.reference encoder or guided."""
    box_noise: float = 0.4
    """Largest shift of a side of a positive query's box, in halves of the box's width or height; sides of
    negative queries shift by more than this and at most twice this."""
    wrong_words: float = 0.2
    """Share of negative queries with a near box and a wrong concept; the others have the right concept and a
    far box."""
    weight: float = 1.0
    """Weight of all losses of the denoising queries; inside, the weights of the decoder apply."""

    def __post_init__(self) -> None:
        at_least("denoise", self, 0, "groups", "weight")
        fraction("denoise", self, "box_noise", "wrong_words")


@dataclass(frozen=True)
class OneToManyConfig:
    """A second, one-to-many matching, beyond the paper (docs/method/cckt_det.md, eq. 27)."""

    repeats: int = 0
    """Queries matched with each object in a second matching, over copies of the queries without
    self-attention (so that nothing keeps two of them from finding the same object); 0 turns it off."""
    weight: float = 1.0
    """Weight of all losses of the second matching; inside, the weights of the decoder apply."""
    encoder_repeats: int = 0
    """Encoder cells matched with each object by an auxiliary head on the encoder, which exists in training
    only (as in Co-DETR); it predicts objectness and boxes. 0 turns it off."""
    encoder_weight: float = 1.0
    """Weight of all losses of the auxiliary head; inside, the weights of the decoder apply."""

    def __post_init__(self) -> None:
        at_least("one_to_many", self, 0, "repeats", "weight", "encoder_repeats", "encoder_weight")
