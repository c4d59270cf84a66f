"""The student contract: what training, evaluation, prediction and export need of a detector.

A student is an `nn.Module` that derives from `Student`. It knows no data set, no store, no teacher and no
distillation term; it owns its architecture, its matching and its detection losses. Distillation terms
(`losses/terms/`) see only its output and its pairs. `build.py` lists the students.

Shape legend: L output layers, B images, N regions (queries or RoIs), C concepts of the vocabulary, D width of
the teacher, G most present concepts of an image in the batch, K pairs.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from cckt.detector.config.config import Config
from cckt.detector.students.targets import PaddedTargets

MASKED = -1e4
"""Logit or score of masked entries: no loss, no match, last in every order. Finite, for the gradients' sake,
and within the range of float16."""


@dataclass(frozen=True)
class PresentText:
    """Text embeddings of the concepts that guide each image, most probable first."""

    embeddings: Tensor
    """(B, G, D) unit text embeddings; rows from `counts[b]` on are padding (zeros). G may be 0."""
    counts: Tensor
    """(B,) int64, present concepts of each image, 0..G."""

    @staticmethod
    def gather(text: Tensor, rows: list[Tensor]) -> PresentText:
        """Gather and pad rows of the text matrix.

        text: (C, D) unit; rows: per image a (G_b,) int64 tensor of rows of `text`, most probable first.
        """
        counts = torch.tensor([len(one) for one in rows], dtype=torch.int64)
        width = int(counts.max()) if len(rows) else 0
        embeddings = text.new_zeros((len(rows), width, text.shape[1]))
        for b, one in enumerate(rows):
            embeddings[b, : len(one)] = text[one.to(text.device)]
        return PresentText(embeddings, counts.to(text.device))


@dataclass(frozen=True)
class StudentOutput:
    """Regions of every output layer; the last layer (index -1) is the prediction.

    A student with more outputs (of training only, say) returns a subclass.
    """

    boxes: Tensor
    """(L, B, N, 4) float32 cxcywh in [0, 1], relative to the unpadded image."""
    logits: Tensor
    """(L, B, N, C) float32 class logits."""
    region: Tensor
    """(L, B, N, D) float32 unit region embeddings, comparable with the teacher's crops."""
    objectness: Tensor | None = None
    """(L, B, N) float32 logits: the region shows an object of any concept; None without such a head."""
    text_region: Tensor | None = None
    """(L, B, N, D) float32 unit embeddings in text space, compared with texts for classification
    (docs/method/hd_ovd.md, eq. 22); None without such a head."""
    relation: Tensor | None = None
    """(L, B, N, D) float32, not normalised: embeddings of the text-space relation head (eq. 30)."""
    background: Tensor | None = None
    """(D,) learned embedding of the background (eq. 23); given with `text_region`."""
    image: Tensor | None = None
    """(B, D) float32 unit embeddings of the whole images (eq. 38); in training only."""
    kept: Tensor | None = None
    """(B, N) bool: False at regions that only fill the tensor (fewer RoIs in an image); None keeps all."""

    def last(self) -> StudentOutput:
        """Return the prediction as an output of one layer."""

        def cut(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[-1:]

        return StudentOutput(
            self.boxes[-1:],
            self.logits[-1:],
            self.region[-1:],
            cut(self.objectness),
            cut(self.text_region),
            cut(self.relation),
            self.background,
            self.image,
            self.kept,
        )


@dataclass(frozen=True)
class AgnosticRegions:
    """Class-agnostic regions of images, in any order: S per image."""

    boxes: Tensor
    """(B, S, 4) float32 cxcywh in [0, 1], relative to the unpadded image."""
    objectness: Tensor
    """(B, S) float32 logits: the region shows an object of any concept; MASKED where there is no region."""


@dataclass(frozen=True)
class Pairs:
    """Which region of the output stands for which object, in the same order of images on every layer.

    An object may have several regions (RoIs); a term then takes their mean where it needs one per object.
    """

    images: Tensor
    """(K,) int64, image of the pair."""
    regions: Tensor
    """(L, K) int64, region within the image."""
    objects: Tensor
    """(L, K) int64, object within the image."""
    proposals: Pairs | None = None
    """Pairs of regions with the proposals of the targets: `objects` then counts proposals; no region is also
    in a pair with an object. None if the targets have no proposals, or the student does not match them."""

    def of_image(self, layer: int, image: int) -> tuple[Tensor, Tensor]:
        """Return regions and objects of one image on one layer."""
        here = self.images == image
        return self.regions[layer, here], self.objects[layer, here]


@dataclass(frozen=True)
class ExtraRegions:
    """Further region embeddings that terms may distil into; only those in a pair take part."""

    name: str
    """Name of the student's loss that the terms' losses are added to."""
    weight: float
    """Factor on the terms' losses."""
    region: Tensor
    """(B, S, D) float32 unit."""
    pairs: Pairs
    """Of one layer."""


@dataclass(frozen=True)
class DetectionLoss:
    """A student's detection losses: weighted sums over layers and pairs, not yet divided by the objects,
    unless `means` says otherwise."""

    losses: dict[str, Tensor]
    """Name -> loss of the regions of the output."""
    auxiliary: dict[str, Tensor] = field(default_factory=dict)
    """Name -> loss of what exists in training only."""
    extra: tuple[ExtraRegions, ...] = ()
    means: dict[str, Tensor] = field(default_factory=dict)
    """Name -> loss that the student has divided itself (by sampled anchors or RoIs, say): the objective does
    not divide it by the objects."""


class Student(nn.Module):
    """Base class of the students.

    Constructed as `Class(config, embedding_dim, pretrained=True)`. embedding_dim: D of the teacher.
    pretrained: False skips pretrained weights, because a checkpoint follows.
    """

    has_extra_regions = False
    """Whether `detection_loss` returns `ExtraRegions`."""
    region_trained = True
    """Whether something trains the region embedding in this epoch; set before each step. Matching may ignore
    an untrained one (`matcher.similarity_from`)."""
    output_layers = 1
    """L, the number of output layers; terms keep a queue for each. Set in the constructor."""

    @abstractmethod
    def encode(self, images: Tensor, padding: Tensor | None) -> Any:
        """Compute everything that needs no concepts: most of the work, done once for many vocabularies.

        images: (B, 3, H, W), normalised. padding: (B, H, W) bool, True in the padding, or None.
        """

    @abstractmethod
    def decode(
        self, encoded: Any, text: Tensor, guidance: PresentText | None, training: Any = None
    ) -> StudentOutput:
        """Compute the output of encoded images for a vocabulary.

        text: (C, D) unit, the concepts to score. guidance: the present concepts; None for none. training:
        what `training_inputs` returned, in a training step.
        """

    def forward(
        self,
        images: Tensor,
        padding: Tensor | None,
        text: Tensor,
        guidance: PresentText | None,
        training: Any = None,
    ) -> StudentOutput:
        """Encode and decode."""
        return self.decode(self.encode(images, padding), text, guidance, training)

    def region_proposals(self, encoded: Any, text: Tensor) -> AgnosticRegions:
        """Return class-agnostic regions of encoded images, without guidance; of equal logits the first is
        better.

        text: (C, D) unit, the base concepts. Default: the boxes of the last layer, ranked by objectness if
        the output has it, else by the highest class logit. A student with denser boxes returns them too.
        """
        output = self.decode(encoded, text, None)
        objectness = getattr(output, "objectness", None)
        logits = output.logits[-1].max(-1).values if objectness is None else objectness[-1]
        kept = getattr(output, "kept", None)
        if kept is not None:
            logits = logits.masked_fill(~kept, MASKED)
        return AgnosticRegions(output.boxes[-1].float(), logits.float())

    def training_inputs(self, targets: PaddedTargets, text: Tensor) -> Any:
        """Draw further inputs of a training step (denoising queries, say) from torch's generator; None for
        none."""
        return None

    @abstractmethod
    def match(self, output: Any, targets: PaddedTargets, text: Tensor) -> Pairs:
        """Assign regions to objects, without gradients. text: (C, D) unit, the rows that `concepts` point to.

        Return K pairs on every layer; a subclass of `Pairs` may hold more for `detection_loss`.
        """

    @abstractmethod
    def detection_loss(
        self, output: Any, targets: PaddedTargets, pairs: Any, present: Tensor | None, training: Any
    ) -> DetectionLoss:
        """Compute the detection losses.

        present: (B, G) int64 rows of the text matrix that guided the images, -1 past the end. Every parameter
        must get a gradient, be it zero, in every step: ranks rely on it.
        """

    @abstractmethod
    def parameter_groups(self) -> Mapping[str, list[nn.Parameter]]:
        """Return the trainable parameters, each in one group: "backbone", "sampling" or "rest".

        The optimiser applies `train.backbone_lr_factor` and `train.sampling_lr_factor` to the first two.
        """

    def prepare_training(self, checkpoint_activations: bool) -> None:
        """Set memory layout and activation checkpointing before the first step. Raises UserError if
        unsupported."""

    def prepare_inference(self) -> None:
        """Set memory layout, the same as in training, so that both compute the same sums; drop demands of
        training (a kernel, say) that inference does not have."""

    @classmethod
    def check_device(cls, config: Config, device: torch.device) -> list[str]:
        """Return notes on what `device` lacks; raise UserError if the config demands it."""
        return []
