"""Train the student's backbone: `python -m cckt.shapeworld.train_backbone --out FILE`.

It plays the role of ImageNet pretraining for COCO: a ResNet-10-t classifies images of single pictographs and
letters, one class per drawing, and the stages up to stride 16 are kept. ImageNet contains most of the novel
categories of OV-COCO (airliners, tabby cats, umbrellas ...); likewise the 480 classes contain the drawings of
all 65 concepts, by class number, without names or boxes. Detectors with and without the method start from the
same file.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cckt.cache_builder.runner.read_ahead import follow_parent
from cckt.shapeworld.pictographs import CONCEPTS, drawings, letters, other_words
from cckt.shapeworld.scene import Pixels, pick_drawing, render_single

NAME = "resnet10t"
SIDE, VIEW = 68, 64
"""Sides in pixels of a rendered image and of the window that is cut from it."""
MEAN, STD = 0.5, 0.25
HELD_OUT = 2000
"""Number of test images."""
_SEED = 0xBAC4B0
"""Seed of the images; no data set may have it."""


def classes() -> tuple[str, ...]:
    """Return the character of each class: all pictographs and every fourth letter."""
    return (*"".join(map(drawings, CONCEPTS)), *other_words().values(), *letters()[::4])


def train(
    out: Path, *, images: int, steps: int, batch: int, seed: int, workers: int, held_out: int = HELD_OUT
) -> float:
    """Train and write `out` (float16 safetensors with the names of timm); return the test top-1 in [0, 1]."""
    torch.manual_seed(seed)
    dataset = SingleDrawings(classes(), images, workers, held_out)
    trunk = timm.create_model(NAME, features_only=True, out_indices=(3,), pretrained=False)
    head = nn.Linear(trunk.feature_info.channels()[-1], len(classes()))
    train_classifier(trunk, lambda view: trunk(view)[-1], head, dataset, steps=steps, batch=batch, seed=seed)
    trunk.eval()
    right = 0
    with torch.no_grad():
        for view, labels in dataset.test_batches():
            right += int((head(pool_features(trunk(view)[-1])).argmax(1) == labels).sum())
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.half() if value.is_floating_point() else value
               for name, value in trunk.state_dict().items()}, out)  # fmt: skip
    return right / held_out


def train_classifier(
    trunk: nn.Module,
    features: Callable[[Tensor], Tensor],
    head: nn.Module,
    dataset: SingleDrawings,
    *,
    steps: int,
    batch: int,
    seed: int,
    rate: float = 2e-3,
) -> None:
    """Train `trunk` and `head` to classify the images: plain ones first, then an increasing share of others.

    features: runs the trunk, (B, 3, H, W) -> (B, C, h, w).

    Without plain images a small network does not start to learn among random colours and clutter (measured:
    no progress in 220 steps of 128 images; with them it has left the plateau after 200).
    """
    optimizer = torch.optim.AdamW([*trunk.parameters(), *head.parameters()], lr=rate, weight_decay=0.05)
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        set_rate(optimizer, rate, step, steps, warmup=50)
        plain = min(1.0, max(0.15, 1.2 - 1.6 * step / steps))
        view, labels = dataset.sample(batch, plain, generator)
        with torch.autocast("cpu", torch.bfloat16):
            maps = features(view)
        logits = head(pool_features(maps))
        loss = nn.functional.cross_entropy(logits, labels, label_smoothing=0.05)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step % 50 == 0:
            sys.stderr.write(f"step {step}/{steps} plain {plain:.2f} loss {loss.item():.3f}\n")


def set_rate(optimizer: torch.optim.Optimizer, rate: float, step: int, steps: int, warmup: int) -> None:
    """Set the learning rate of a step: linear warm-up to `rate`, cosine to zero."""
    for group in optimizer.param_groups:
        group["lr"] = rate * min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * step / steps))


def clipped_step(
    optimizer: torch.optim.Optimizer, loss: Tensor, rate: float, step: int, steps: int, warmup: int
) -> None:
    """Take an optimiser step with the rate of `set_rate` and the gradient clipped at norm 1."""
    set_rate(optimizer, rate, step, steps, warmup)
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
    optimizer.step()


class SingleDrawings:
    """Images of single drawings, one class per name, a third of the training images plain.

    names: concepts, other words or single characters. images, held_out: numbers of training and test images.
    """

    def __init__(self, names: tuple[str, ...], images: int, workers: int, held_out: int = HELD_OUT) -> None:
        rows = np.arange(images + held_out) % len(names)
        plain = np.arange(len(rows)) < images // 3
        with ProcessPoolExecutor(workers, initializer=follow_parent) as pool:
            rendered = list(
                pool.map(_render, range(len(rows)), [names[r] for r in rows], plain.tolist(), chunksize=256)
            )
        self.pixels = torch.from_numpy(np.stack(rendered)).permute(0, 3, 1, 2)
        self.labels = torch.from_numpy(rows)
        self.plain, self.training, self.held_out = images // 3, images, held_out

    def sample(self, size: int, plain: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw a training batch (size, 3, VIEW, VIEW), a share `plain` of it plain, and its classes.

        Each batch has a random window and order of channels, and some images are inverted, so that colour
        does not identify a class.
        """
        easy = int(size * plain)
        rows = torch.cat(
            [
                torch.randint(0, self.plain, (easy,), generator=generator),
                torch.randint(self.plain, self.training, (size - easy,), generator=generator),
            ]
        )
        top, left = (int(torch.randint(0, SIDE - VIEW + 1, (), generator=generator)) for _ in range(2))
        order = torch.randperm(3, generator=generator)
        view = self.pixels[rows][:, order, top : top + VIEW, left : left + VIEW]
        invert = torch.rand(size, 1, 1, 1, generator=generator) < 0.3
        return _normalised(torch.where(invert, 255 - view, view)), self.labels[rows]

    def training_batches(self) -> Iterator[Tensor]:
        """Yield all training images in order, central window: (<= 250, 3, VIEW, VIEW)."""
        for pixels in self.pixels[: self.training, :, 2 : 2 + VIEW, 2 : 2 + VIEW].split(250):  # type: ignore[no-untyped-call]
            yield _normalised(pixels)

    def test_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the test images, none of them plain, and their classes."""
        for rows in torch.arange(self.training, self.training + self.held_out).split(250):  # type: ignore[no-untyped-call]
            yield _normalised(self.pixels[rows, :, 2 : 2 + VIEW, 2 : 2 + VIEW]), self.labels[rows]


def pool_features(features: Tensor) -> Tensor:
    """Return half the sum of mean and maximum over the cells: (B, C, h, w) -> (B, C).

    The maximum counts because an object fills only a part of the image.
    """
    return 0.5 * (features.float().mean((2, 3)) + features.float().amax((2, 3)))


def _render(number: int, name: str, plain: bool) -> Pixels:
    rng = np.random.default_rng((_SEED, number))
    character = name if len(name) == 1 else pick_drawing(rng, name)
    longest = float(np.exp(rng.uniform(np.log(30 if plain else 20), np.log(56))))
    return render_single(rng, character, SIDE, longest, plain)


def _normalised(view: Tensor) -> Tensor:
    return ((view.float() / 255 - MEAN) / STD).contiguous(memory_format=torch.channels_last)


def main() -> None:
    """Train with the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=60000)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    options = vars(parser.parse_args())
    top1 = train(options.pop("out"), **options)
    sys.stderr.write(f"test top-1 over {len(classes())} classes: {top1:.3f}\n")


if __name__ == "__main__":
    main()
