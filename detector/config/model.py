"""Options of the student: architecture, matching and detection losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cckt.cache_builder.base.constants import TAU
from cckt.detector.config.checks import at_least, at_most, fraction, require


@dataclass(frozen=True)
class ModelConfig:
    """The student detector (docs/method/cckt_det.md, section 4)."""

    student: str = "deformable_detr"
    """Name of the student in the table of `detector/students/build.py`."""
    backbone: str = "resnet50"
    """Any timm model with feature maps at `strides` (features_only)."""
    backbone_weights: str = "tag:tv_in1k"
    """"tag:NAME": the timm weights of `backbone` with this tag (tv_in1k: torchvision's for ResNet-50);
    "imagenet": timm's default weights of that name; "none": from scratch; "shapeworld": the weights in this
    package; else the path of a .safetensors file with timm's names."""
    norm: Literal["auto", "frozen", "batch", "group"] = "auto"
    """BatchNorm of the backbone: "frozen" as in DETR, "batch" trains it, "group" replaces it by GroupNorm;
    "auto" is frozen with pretrained weights and batch without. Other norms stay as they are."""
    freeze_stride: int = 4
    """Pretrained backbones only: layers up to this stride are frozen (DETR's stem and first stage have stride
    4). 0 trains all."""
    drop_path: float = 0.0
    """Rate of drop path (stochastic depth) in the last block of the backbone, timm's drop_path_rate; it rises
    linearly from 0 in the first block."""
    strides: tuple[int, ...] = (8, 16, 32)
    """Strides of the backbone's feature maps in the pyramid, finest first."""
    levels: int = 4
    """Levels of the pyramid: the strides, then stride-2 convolutions over the last map."""
    hidden: int = 256
    """Hidden size d. A multiple of heads, of 32 (GroupNorm groups) and of 4 (sine positions)."""
    heads: int = 8
    """Attention heads."""
    points: int = 4
    """Sampling points per head and level."""
    encoder_layers: int = 6
    """Encoder layers; 0 passes the pyramid to the decoder unchanged."""
    decoder_layers: int = 6
    """Decoder layers, each with its own heads and loss."""
    ffn: int = 1024
    """Width of the feed-forward layers."""
    dropout: float = 0.1
    """Dropout of both transformers. At 0 the training graph is also smaller and faster."""
    queries: int = 300
    """Queries N. The paper uses 300 on COCO and 600 on LVIS."""
    class_embedding: Literal["own", "region"] = "own"
    """Decision. What the class head compares with the text: "own", a separate projection d -> D, leaves the
    region embedding to the distillation; "region" shares the region embedding, which ties the similarity
    score to the focal loss too (open-vocabulary heads without distillation do so)."""
    reference: Literal["learned", "encoder", "guided"] = "learned"
    """Initial position of the queries. "learned": a learned point per query (the paper); "encoder": the boxes
    of the N encoder cells with the highest objectness, from a head with its own losses; "guided": for the
    queries of each present concept, the cells with the highest objectness times probability of that concept,
    from a region embedding of the cells that is trained on the present concepts (without guidance.enabled: as
    "encoder")."""
    objectness: bool = False
    """Head that predicts whether a query shows an object of any concept (docs/method/hd_ovd.md, eq. 15)."""
    text_projector: bool = False
    """Head that projects region embeddings to text space, with a learned background (HD-OVD, eq. 22)."""
    relation_head: bool = False
    """Text-space relation head (HD-OVD, eqs. 29 and 30); needs text_projector."""
    image_head: bool = False
    """Head that embeds the whole image, for training (HD-OVD, eqs. 37 and 38)."""
    attention_kernel: Literal["auto", "torch", "triton"] = "auto"
    """Implementation of deformable sampling: "auto" uses the Triton kernel on CUDA if it runs there, else
    PyTorch; "torch" never uses it; "triton" raises an error if it does not run."""
    tau: float = TAU
    """Temperature of every cosine: similarity probability, matching, contrast, scores and export."""

    def __post_init__(self) -> None:
        at_least("model", self, 1, "heads", "points", "decoder_layers", "ffn", "queries", "levels", "hidden")
        at_least("model", self, 0, "encoder_layers", "freeze_stride")
        at_most("model", self, 1000, "encoder_layers", "decoder_layers", "heads", "points", "levels")
        at_most("model", self, 100_000, "hidden", "ffn", "queries")
        require(0 <= self.dropout < 1, "model.dropout", self.dropout, "a number from 0 to below 1")
        require(0 <= self.drop_path < 1, "model.drop_path", self.drop_path, "a number from 0 to below 1")
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
        require(self.tau > 0, "model.tau", self.tau, "a number above 0")
        require(
            self.text_projector or not self.relation_head,
            "model.relation_head",
            self.relation_head,
            "false without model.text_projector, whose weights it transfers",
        )


@dataclass(frozen=True)
class MatcherConfig:
    """Weights of the matching cost (docs/method/cckt_det.md, eq. 14)."""

    cost_class: float = 2.0
    """Weight of the focal class cost (eq. 13)."""
    cost_similarity: float = 1.0
    """Weight of minus the similarity probability of the object's concept (eq. 12)."""
    similarity_from: Literal["trained", "start"] = "trained"
    """Decision. Epochs with cost_similarity: "trained", those in which something trains the region embedding
    (a distillation term that has begun, or model.class_embedding=region), since an untrained one is random;
    "start", all epochs (the paper does not say)."""
    cost_l1: float = 5.0
    """Weight of the L1 distance of normalised cxcywh boxes."""
    cost_giou: float = 2.0
    """Weight of minus the generalised IoU."""
    alpha: float = 0.25
    """Focal alpha."""
    gamma: float = 2.0
    """Focal gamma."""
    class_agnostic: bool = False
    """Match objects by objectness, boxes and nothing else (docs/method/hd_ovd.md, eq. 14); needs
    model.objectness. Proposals are always matched so, after the objects and to queries that are still
    free."""

    def __post_init__(self) -> None:
        at_least("matcher", self, 0, "cost_class", "cost_similarity", "cost_l1", "cost_giou", "gamma")
        fraction("matcher", self, "alpha")


@dataclass(frozen=True)
class LossConfig:
    """Weights of the detection losses (docs/method/cckt_det.md, eqs. 16 and 17)."""

    loss_class: float = 2.0
    """Weight of the focal loss over all classes."""
    loss_l1: float = 5.0
    """Weight of the L1 distance of normalised cxcywh boxes."""
    loss_giou: float = 2.0
    """Weight of 1 - generalised IoU."""
    loss_proposals: float = 1.0
    """Weight of all losses of the encoder's cells (model.reference); inside, the weights of the decoder
    apply, and that of objectness."""
    loss_objectness: float = 2.0
    """Weight of the focal loss of objectness (model.objectness); queries matched to objects and to proposals
    are its positives (docs/method/hd_ovd.md, eq. 47). The encoder's cells have the same weight."""
    class_target: Literal["focal", "varifocal", "mal"] = "focal"
    """Beyond the paper: what class logits of matched regions learn, with Deformable DETR. "focal": 1;
    "varifocal": the IoU of the region and its object, weighted by it; "mal": that IoU to the power of gamma
    (DEIM takes gamma 1.5). Scores then also tell how well a box fits. Objectness of cells learns alike."""
    cells_learn_proposals: bool = False
    """The encoder's cells (model.reference) learn objectness and boxes from all proposals too, as the first
    stage of HD-OVD's detectors does."""
    alpha: float = 0.25
    """Focal alpha."""
    gamma: float = 2.0
    """Focal gamma."""

    def __post_init__(self) -> None:
        at_least("loss", self, 0, "loss_class", "loss_l1", "loss_giou", "loss_proposals", "gamma")
        at_least("loss", self, 0, "loss_objectness")
        fraction("loss", self, "alpha")
