"""No operation of a step waits for the GPU, except reading its figures; checked with fake tensors."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from cckt import detector
from cckt.detector.config.config import apply_overrides
from cckt.detector.config.recipes import recipe
from cckt.detector.data.transforms import _mean_and_scale, normalise
from cckt.detector.losses.objective import Objective
from cckt.detector.students.contract import Pairs, PresentText
from cckt.detector.students.deformable_detr.model import DeformableDETR
from cckt.detector.students.deformable_detr.outputs import DeformablePairs
from cckt.detector.students.deformable_detr.sampling import _sides
from cckt.detector.students.matching import matching_costs
from cckt.detector.students.targets import PaddedTargets, TeacherRows

PHOTOS, OBJECTS, CONCEPTS, WIDTH = 2, 7, 48, 512
ROOM = str(Path(detector.__file__).parent)
READS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select")
COPIES = ("aten::_to_copy", "aten::copy_")


class WaitRecorder(TorchDispatchMode):
    """Records every operation that would wait for all pending work of a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out, name = func(*args, **(kwargs or {})), func.name()
        if name in READS and args[0].device.type == "cuda":
            self._note(name)
        if name in COPIES:
            ends = (args[0], out) if name == "aten::_to_copy" else (args[1], args[0])
            at_once = (kwargs or {}).get("non_blocking", False) or (name == "aten::copy_" and len(args) > 2)
            if ends[0].device != ends[1].device and not at_once:
                self._note(name)
        return out

    def _note(self, name: str) -> None:
        own = [one for one in traceback.extract_stack() if one.filename.startswith(ROOM)]
        self.found.append(f"{name} at {own[-1].filename}:{own[-1].lineno}")


@contextmanager
def fake_gpu() -> Iterator[None]:
    """Use fake tensors on a GPU that need not exist; clear the caches of device tensors afterwards."""
    # FakeTensorMode registers a GPU. If autograd first starts after that, it starts a thread for this GPU,
    # and later tests that fork cannot run a backward pass.
    torch.ones((), requires_grad=True).backward()
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield
    _sides.cache_clear()
    _mean_and_scale.cache_clear()


def step(name: str, before: Callable[[], None] = lambda: None) -> list[str]:
    """Return what waits in forward, costs and losses of a recipe's second step; the first fills the
    caches."""
    config = apply_overrides(
        recipe(name),
        ["model.backbone_weights=none", "model.norm=frozen", "terms.region_contrast.first_epoch=0"],
    )
    _sides.cache_clear()
    _mean_and_scale.cache_clear()
    with fake_gpu():
        with torch.device("cuda"):
            model = DeformableDETR(config, WIDTH, pretrained=False).train()
            text = torch.nn.functional.normalize(torch.randn(CONCEPTS, WIDTH), dim=1)
            images = torch.zeros(PHOTOS, 3, 96, 128, dtype=torch.uint8)
            padding = torch.zeros(PHOTOS, 96, 128, dtype=torch.bool)
            numbers = torch.zeros(PHOTOS, OBJECTS, dtype=torch.int64)
            known = torch.ones(PHOTOS, OBJECTS, dtype=torch.bool)
            rows = {"crop": TeacherRows(torch.rand(PHOTOS, OBJECTS, WIDTH), known)}
            counts = (OBJECTS,) * PHOTOS
            targets = PaddedTargets(torch.rand(PHOTOS, OBJECTS, 4), numbers, known, counts, rows)
            present = torch.zeros(PHOTOS, 3, dtype=torch.int64)
            guidance = PresentText(text[present], (present >= 0).sum(1))
            pairs = PHOTOS * OBJECTS

            def paired(layers: int) -> tuple[torch.Tensor, ...]:
                one = torch.zeros(layers, pairs, dtype=torch.int64, device="cuda")
                return one[0], one, one

            objective = Objective(config, WIDTH, extra_regions=model.has_extra_regions)
        for _ in range(2):
            before()
            with WaitRecorder() as spy:
                training = model.training_inputs(targets, text)
                pixels = normalise(images, padding, config.data)
                output = model(pixels, padding, text, guidance, training)
                matching_costs(output, targets, text, config.matcher, config.model.tau)
                layers = len(output.boxes)
                extra = Pairs(*paired(1)), Pairs(*paired(layers))
                found = DeformablePairs(*paired(layers), *extra)
                detection = model.detection_loss(output, targets, found, present, training)
                divisor = torch.ones((), device="cuda")
                objective(output, found, detection, targets, epoch=0, divisor=divisor)
    return spy.found


@pytest.mark.parametrize("name", ["coco-48-17-r50", "coco-48-17-r50-fast"])
def test_a_step_does_not_wait_for_the_gpu(name: str) -> None:
    assert step(name) == []


def test_the_recorder_finds_operations_that_wait() -> None:
    assert any("sampling" in one for one in step("coco-48-17-r50", _sides.cache_clear))
