"""Random outputs, pairs and targets with proposals, plain reference losses, and ranks as threads, for tests
of HD-OVD's terms."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cckt.detector.losses.terms.term import ONE_RANK, Ranks, RunInputs, StepInputs, Term
from cckt.detector.students.contract import DetectionLoss, Pairs, StudentOutput
from cckt.detector.students.targets import PaddedTargets, ProposalBoxes, Targets, TeacherRows, pad_targets
from tests.detector.students.samples import CONCEPTS, LAYERS, TAU, WIDTH, some_boxes, some_targets, unit

MOST = 3
"""Distilled proposals of an image."""
REGIONS = 8
NOUNS = 9
"""Texts of nouns; the first CONCEPTS of them are the base concepts."""


@dataclass
class Scene:
    """A step's inputs: images with objects and proposals, the regions that stand for them, and texts."""

    targets: list[Targets]
    output: StudentOutput
    pairs: Pairs
    texts: Tensor
    """(NOUNS, D) unit."""

    @property
    def run(self) -> RunInputs:
        return RunInputs(self.texts[:CONCEPTS], LAYERS, MOST)

    def step(self, ranks: Ranks = ONE_RANK, objects: int = 0, proposals: int = 0) -> StepInputs:
        targets = pad_targets(self.targets).padded_to(objects, proposals)
        return StepInputs(self.output, self.pairs, DetectionLoss({}), targets, ranks)

    def image(self, b: int, proposal: bool) -> Tensor:
        """Boxes of an image's objects or proposals."""
        found = self.targets[b].proposals
        return found.boxes if proposal and found is not None else self.targets[b].boxes

    def overlap(self, layer: int, b: int, region: int, box: Tensor) -> float:
        return slow_iou(self.output.boxes[layer, b, region].tolist(), box.tolist())

    def subset(self, images: Sequence[int]) -> Scene:
        """Return the same images alone, in another order."""
        order = list(images)

        def of(pairs: Pairs | None) -> Pairs | None:
            if pairs is None:
                return None
            places = [torch.nonzero(pairs.images == b).flatten() for b in order]
            at = torch.cat(places) if places else torch.zeros(0, dtype=torch.int64)
            numbers = [torch.full((len(place),), new) for new, place in enumerate(places)]
            return Pairs(
                torch.cat(numbers).long(), pairs.regions[:, at], pairs.objects[:, at], of(pairs.proposals)
            )

        def cut(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[:, order]

        whole = self.output
        output = replace(
            whole,
            boxes=whole.boxes[:, order],
            logits=whole.logits[:, order],
            region=whole.region[:, order],
            text_region=cut(whole.text_region),
            relation=cut(whole.relation),
            image=None if whole.image is None else whole.image[order],
        )
        pairs = of(self.pairs)
        assert pairs is not None
        return Scene([self.targets[b] for b in order], output, pairs, self.texts)


def some_scene(
    objects: Sequence[Sequence[int]],
    nouns: Sequence[Sequence[int]],
    seed: int = 0,
    *,
    invalid: Sequence[tuple[int, str, int]] = (),
    near: float = 0.7,
    texts: Tensor | None = None,
) -> Scene:
    """Objects by their concepts and proposals by their nouns, per image.

    invalid: (image, name, row) of teacher rows that are invalid and NaN. near: share of the pairs whose
    region lies on its box.
    """
    torch.manual_seed(seed)
    texts = unit(NOUNS, WIDTH) if texts is None else texts
    targets, shape = [], (LAYERS, len(objects), REGIONS)
    for b, (concepts, names) in enumerate(zip(objects, nouns, strict=True)):
        one = some_targets(concepts)
        ids = torch.tensor(names, dtype=torch.int64)
        noisy = F.normalize(texts[ids] + 0.1 * torch.randn(len(ids), WIDTH), dim=-1)
        rows = {
            **one.teacher,
            "proposal_crop": TeacherRows(noisy, torch.ones(len(ids), dtype=torch.bool), "proposal"),
            "noun": TeacherRows(texts[ids].clone(), torch.ones(len(ids), dtype=torch.bool), "proposal", ids),
            "image": TeacherRows(unit(1, WIDTH), torch.ones(1, dtype=torch.bool), "image"),
        }
        for image, name, row in invalid:
            if image == b:
                rows[name].values[row], rows[name].valid[row] = math.nan, False
        regions = ProposalBoxes(some_boxes(len(ids)), torch.arange(len(ids)) < MOST)
        targets.append(Targets(one.boxes, one.concepts, rows, regions))
    boxes = some_boxes(*shape)
    pairs = _some_pairs(targets, boxes, near)
    output = StudentOutput(
        boxes.requires_grad_(),
        torch.randn(*shape, CONCEPTS),
        unit(*shape, WIDTH).requires_grad_(),
        text_region=unit(*shape, WIDTH).requires_grad_(),
        relation=torch.randn(*shape, WIDTH).requires_grad_(),
        background=torch.randn(WIDTH).requires_grad_(),
        image=unit(len(objects), WIDTH).requires_grad_(),
    )
    return Scene(targets, output, pairs, texts)


def _some_pairs(targets: list[Targets], boxes: Tensor, near: float) -> Pairs:
    """Match objects and distilled proposals to different regions at random; move most regions onto them."""
    images: tuple[list[int], list[int]] = ([], [])
    chosen: list[tuple[list[list[int]], list[list[int]]]] = [([], []) for _ in range(LAYERS)]
    for b, one in enumerate(targets):
        assert one.proposals is not None
        counts = (len(one), min(MOST, len(one.proposals)))
        for kind in (0, 1):
            images[kind].extend([b] * counts[kind])
        for layer in range(LAYERS):
            regions = torch.randperm(REGIONS)[: sum(counts)].tolist()
            parts = (regions[: counts[0]], regions[counts[0] :])
            for kind, goals in enumerate((one.boxes, one.proposals.boxes)):
                order = torch.randperm(counts[kind]).tolist()
                for region, at in zip(parts[kind], order, strict=True):
                    chosen[layer][kind].append([region, at])
                    if torch.rand(()) < near:
                        boxes[layer, b, region] = goals[at] + 0.003 * torch.randn(4)

    def pairs(kind: int, proposals: Pairs | None) -> Pairs:
        table = torch.tensor([layer[kind] for layer in chosen], dtype=torch.int64).view(LAYERS, -1, 2)
        return Pairs(torch.tensor(images[kind]).long(), table[..., 0], table[..., 1], proposals)

    return pairs(0, pairs(1, None))


def entries(pairs: Pairs | None, layer: int) -> list[tuple[int, int, int]]:
    """Return (image, region, object) of each pair."""
    if pairs is None:
        return []
    columns = (pairs.images.tolist(), pairs.regions[layer].tolist(), pairs.objects[layer].tolist())
    return list(zip(*columns, strict=True))


def slow_iou(a: list[float], b: list[float]) -> float:
    (ax, ay, aw, ah), (bx, by, bw, bh) = a, b
    wide = min(ax + aw / 2, bx + bw / 2) - max(ax - aw / 2, bx - bw / 2)
    high = min(ay + ah / 2, by + bh / 2) - max(ay - ah / 2, by - bh / 2)
    shared = max(wide, 0) * max(high, 0)
    return shared / (aw * ah + bw * bh - shared)


def slow_relation(x: list[Tensor], y: list[Tensor], s: float, t: float) -> float:
    """Eq. 4, one number at a time."""
    if not x:
        return 0.0
    total = 0.0
    for i in range(len(x)):
        p = slow_softmax([s * float(y[i] @ other) / t for other in y])
        q = slow_softmax([s * float(x[i] @ other) / t for other in x])
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return t * t * total / len(x)


def slow_contrast(
    a: list[Tensor], b: list[Tensor], past_a: list[Tensor], past_b: list[Tensor], s: float
) -> float:
    """Eq. 3, one number at a time."""
    total = 0.0
    for i in range(len(a)):
        forth = slow_softmax([s * float(a[i] @ other) for other in [*b, *past_b]])
        back = slow_softmax([s * float(b[i] @ other) for other in [*a, *past_a]])
        total -= (math.log(forth[i]) + math.log(back[i])) / 2
    return total / len(a) if a else 0.0


def slow_softmax(scores: list[float]) -> list[float]:
    top = max(scores)
    shares = [math.exp(one - top) for one in scores]
    return [one / sum(shares) for one in shares]


def prepared(kind: type[Term], options: Any, scene: Scene) -> Term:
    term = kind(options, TAU, WIDTH)
    term.prepare(scene.run)
    return term


@dataclass
class _Meeting:
    """Where the ranks of `on_ranks` exchange rows."""

    size: int
    posted: dict[int, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.barrier = threading.Barrier(self.size, timeout=30)


@dataclass(frozen=True)
class ThreadRanks:
    """A rank that is a thread; rows keep their gradients, as they do with real ranks."""

    rank: int
    meeting: _Meeting

    def gather_rows(self, rows: Tensor) -> Tensor:
        self.meeting.posted[self.rank] = rows
        self.meeting.barrier.wait()
        every = [self.meeting.posted[rank] for rank in range(self.meeting.size)]
        assert len({one.shape for one in every}) == 1, "ranks gather rows of different shapes"
        self.meeting.barrier.wait()
        return torch.cat(every)


def on_ranks(acts: Sequence[Callable[[Ranks], Any]]) -> list[Any]:
    """Call one function per rank, each with its rank; return their results."""
    meeting, results = _Meeting(len(acts)), [None] * len(acts)
    faults: list[BaseException] = []

    def run(rank: int) -> None:
        try:
            results[rank] = acts[rank](ThreadRanks(rank, meeting))
        except BaseException as fault:
            faults.append(fault)
            meeting.barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(len(acts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        raise next((one for one in faults if not isinstance(one, threading.BrokenBarrierError)), faults[0])
    return results


def sizes(scene: Scene) -> tuple[int, int]:
    """Most objects and proposals of an image, to which ranks pad their targets."""
    padded: PaddedTargets = pad_targets(scene.targets)
    return padded.boxes.shape[1], 0 if padded.proposals is None else padded.proposals.boxes.shape[1]


USUAL = ([[0, 3], [2], [1, 1, 4]], [[5, 6, 7, 8], [6], []])
"""Objects and nouns of three images; the last has no proposals."""
REPEATED = ([[0, 3], [2], []], [[5, 5, 3], [6, 5], [0, 7]])
"""A noun in two images and twice in one, and nouns that are base concepts 3 and 0."""
EMPTY = ([[], []], [[], []])
ONE_PAIR = ([[1], []], [[], []])
