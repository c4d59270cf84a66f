"""Options of the student, its matching and its losses; `config.py` joins them with the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cckt.detector.config.checks import at_least, fraction, require


@dataclass(frozen=True)
class ModelConfig:
    """The student: Deformable DETR with language queries (METHOD.md section 4)."""

    backbone: str = "resnet50"
    """Any timm model that gives feature maps at `strides` (features_only)."""
    backbone_weights: str = "imagenet"
    """"imagenet": timm's default weights of that name; "none": from scratch; "tag:NAME": another timm tag
    of it; "shapeworld": shipped with the package; else the path of a .safetensors file."""
    norm: Literal["auto", "frozen", "batch", "group"] = "auto"
    """What becomes of the backbone's BatchNorm: "frozen" as in DETR, "batch" trains it, "group" replaces it
    by GroupNorm; "auto" is frozen with pretrained weights and batch without. Other norms are left alone."""
    freeze_stride: int = 4
    """Pretrained backbones only: the layers up to this stride keep their weights (DETR's stem and first stage
    are stride 4). 0 trains all."""
    strides: tuple[int, ...] = (8, 16, 32)
    """The backbone's feature maps that enter the pyramid, finest first."""
    levels: int = 4
    """Levels of the pyramid: the strides, and for the rest stride-2 convolutions over the last map."""
    hidden: int = 256
    """d. Must divide by heads and by 32 (GroupNorm groups), and by 4 (sine positions)."""
    heads: int = 8
    """Attention heads."""
    points: int = 4
    """Sampling points per head and level."""
    encoder_layers: int = 6
    """Encoder layers; 0 hands the pyramid to the decoder as it is."""
    decoder_layers: int = 6
    """Decoder layers, each with its own heads and loss."""
    ffn: int = 1024
    """Width of the feed-forward layers."""
    dropout: float = 0.1
    """Dropout of both transformers. In training without it the graph is also smaller and faster."""
    queries: int = 300
    """N. The paper has 300 on COCO and 600 on LVIS."""
    class_head: Literal["text", "linear"] = "text"
    """Decision. "text" scores cosines with the text embeddings (learned scale and bias), so that it names
    novel classes too; "linear" is a closed set of `n_classes`."""
    class_embedding: Literal["own", "region"] = "own"
    """Decision. What the text head compares with the text: "own", a projection d -> D of its own, leaves the
    region embedding to the distillation alone; "region" shares the region embedding, which ties the
    similarity score to the focal loss too (open-vocabulary heads without distillation do so)."""
    reference: Literal["learned", "encoder", "guided"] = "learned"
    """Where queries begin to look. "learned": a point of each query's own (the paper); "encoder": the boxes
    of the N likeliest cells of the encoder, by an objectness head with losses of its own; "guided": for each
    present concept's run of queries the cells where objectness times that concept's probability is highest,
    by a region embedding of the cells that is trained on the concepts given (without
    model.guidance: as "encoder")."""
    attention_kernel: Literal["auto", "torch", "triton"] = "auto"
    """Who samples the pyramid: "auto" takes Triton's kernel on CUDA where it can be had, else PyTorch;
    "torch" never takes it; "triton" refuses to do without."""
    guidance: bool = True
    """Language queries: the present concepts' text added to the queries. False ignores what is passed."""

    def __post_init__(self) -> None:
        at_least("model", self, 1, "heads", "points", "decoder_layers", "ffn", "queries", "levels", "hidden")
        at_least("model", self, 0, "encoder_layers", "freeze_stride")
        require(0 <= self.dropout < 1, "model.dropout", self.dropout, "a number from 0 to below 1")
        require(self.hidden % 32 == 0, "model.hidden", self.hidden, "a multiple of 32 (GroupNorm)")
        require(
            self.hidden % self.heads == 0, "model.heads", self.heads, f"a divisor of hidden {self.hidden}"
        )
        rising = (
            len(self.strides) > 0 and list(self.strides) == sorted(set(self.strides)) and self.strides[0] > 0
        )
        require(rising, "model.strides", self.strides, "rising strides, such as 8,16,32")
        require(
            self.levels >= len(self.strides),
            "model.levels",
            self.levels,
            f"at least the {len(self.strides)} strides",
        )


@dataclass(frozen=True)
class MatcherConfig:
    """Weights of the matching cost (METHOD.md section 5)."""

    cost_class: float = 2.0
    """Focal class cost."""
    cost_similarity: float = 1.0
    """Minus the similarity probability of the object's concept (eq. 4)."""
    cost_l1: float = 5.0
    """L1 of normalised cxcywh."""
    cost_giou: float = 2.0
    """Minus generalised IoU."""
    alpha: float = 0.25
    """Focal alpha."""
    gamma: float = 2.0
    """Focal gamma."""

    def __post_init__(self) -> None:
        at_least("matcher", self, 0, "cost_class", "cost_similarity", "cost_l1", "cost_giou", "gamma")
        fraction("matcher", self, "alpha")


@dataclass(frozen=True)
class LossConfig:
    """Weights and kinds of the losses (METHOD.md section 5)."""

    loss_class: float = 2.0
    """Focal loss over all classes."""
    loss_l1: float = 5.0
    """L1 of normalised cxcywh."""
    loss_giou: float = 2.0
    """1 - generalised IoU."""
    loss_contrast: float = 1.0
    """Regional contrastive distillation (eqs. 5, 6); 0 turns it off."""
    loss_proposals: float = 1.0
    """All losses of the encoder's cells (model.reference); within, they are weighted as the decoder's."""
    loss_denoise: float = 1.0
    """All losses of the denoising queries (train.denoise_groups), likewise."""
    loss_one_to_many: float = 1.0
    """All losses of the one-to-many matching (train.one_to_many), likewise."""
    contrast_from_epoch: int = 31
    """First epoch (counted from 0) with the contrastive loss."""
    tau: float = 0.07
    """Temperature of every cosine."""
    negatives: Literal["image", "batch"] = "image"
    """Decision. Where the contrast's other queries and objects come from: the same photo, or the batch (of
    all ranks, but of one accumulated part: cut into more of them, a step has fewer negatives)."""
    teacher_bank: Literal["instance", "class"] = "instance"
    """Decision. "instance": each object's own crop; "class": one valid crop of each class a step, chosen at
    random from the batch, multi-positive (the authors' code)."""
    alpha: float = 0.25
    """Focal alpha."""
    gamma: float = 2.0
    """Focal gamma."""

    def __post_init__(self) -> None:
        at_least("loss", self, 0, "loss_class", "loss_l1", "loss_giou", "loss_contrast", "gamma")
        at_least("loss", self, 0, "contrast_from_epoch")
        at_least("loss", self, 0, "loss_proposals", "loss_denoise", "loss_one_to_many")
        require(self.tau > 0, "loss.tau", self.tau, "a number above 0")
        fraction("loss", self, "alpha")
