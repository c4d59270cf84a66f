"""Train the student's backbone: `python -m shapeworld.train_backbone --out FILE`.

What ImageNet is to COCO: a ResNet-10-t learns to tell single pictographs and letters apart, none of which
draws one of the 65 concepts, and keeps the stages up to stride 16. The detectors with and without the method
start from the same file.
"""

from __future__ import annotations

import argparse
import math
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from shapeworld.pictographs import letters, other_words
from shapeworld.scene import Pixels, specimen

NAME = "resnet10t"
SIDE, VIEW = 72, 64  # px: rendered, and the window of it that is looked at
MEAN, STD = 0.5, 0.25
_SEED = 0xBAC4B0  # no data set is rendered from it


def classes() -> tuple[str, ...]:
    """The characters to tell apart: other pictographs and letters."""
    return (*other_words().values(), *letters())


def train(out: Path, *, pictures: int, steps: int, batch: int, seed: int, workers: int) -> float:
    """Train and write `out` (safetensors, float16, timm's names); returns held-out top-1 in [0, 1]."""
    torch.manual_seed(seed)
    held_out = 2000
    with ProcessPoolExecutor(workers) as pool:
        drawn = list(pool.map(_picture, range(pictures + held_out), chunksize=256))
    pixels = torch.from_numpy(np.stack([p for p, _ in drawn])).permute(0, 3, 1, 2)
    labels = torch.tensor([label for _, label in drawn])
    trunk = timm.create_model(NAME, features_only=True, out_indices=(3,), pretrained=False)
    head = nn.Linear(trunk.feature_info.channels()[-1], len(classes()))
    parameters = [*trunk.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=3e-3, weight_decay=0.05)
    draws = torch.Generator().manual_seed(seed)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1.0, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / steps))
        rows = torch.randint(0, pictures, (batch,), generator=draws)
        loss = nn.functional.cross_entropy(
            _logits(trunk, head, _view(pixels[rows], draws)), labels[rows], label_smoothing=0.1
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if step % 50 == 0:
            sys.stderr.write(f"step {step}/{steps} loss {loss.item():.3f}\n")
    trunk.eval()
    right = 0
    with torch.no_grad():
        for rows in torch.arange(pictures, pictures + held_out).split(250):
            view = pixels[rows, :, 4 : 4 + VIEW, 4 : 4 + VIEW]
            right += int((_logits(trunk, head, _normalised(view)).argmax(1) == labels[rows]).sum())
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.half() if value.is_floating_point() else value
               for name, value in trunk.state_dict().items()}, out)  # fmt: skip
    return right / held_out


def _picture(number: int) -> tuple[Pixels, int]:
    """Picture `number` and the row of its class."""
    rng = np.random.default_rng((_SEED, number))
    row = number % len(classes())
    return specimen(rng, classes()[row], SIDE, float(np.exp(rng.uniform(np.log(18), np.log(60))))), row


def _view(pixels: Tensor, draws: torch.Generator) -> Tensor:
    """A random window of each picture, with channels shuffled and sometimes inverted: colour is no clue."""
    top, left = (int(torch.randint(0, SIDE - VIEW + 1, (), generator=draws)) for _ in range(2))
    order = torch.randperm(3, generator=draws)
    view = pixels[:, order, top : top + VIEW, left : left + VIEW]
    flip = torch.rand(len(view), 1, 1, 1, generator=draws) < 0.3
    return _normalised(torch.where(flip, 255 - view, view))


def _normalised(view: Tensor) -> Tensor:
    return ((view.float() / 255 - MEAN) / STD).contiguous(memory_format=torch.channels_last)


def _logits(trunk: nn.Module, head: nn.Linear, view: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        features = trunk(view)[-1]
    # The strongest answer beside the mean: a thing fills a small part of the view.
    pooled = 0.5 * (features.float().mean((2, 3)) + features.float().amax((2, 3)))
    return head(pooled)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=45000)
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--batch", type=int, default=192)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    options = vars(parser.parse_args())
    top1 = train(options.pop("out"), **options)
    sys.stderr.write(f"held-out top-1 over {len(classes())} classes: {top1:.3f}\n")


if __name__ == "__main__":
    main()
