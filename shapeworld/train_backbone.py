"""Train the student's backbone: `python -m cckt.shapeworld.train_backbone --out FILE`.

What ImageNet is to COCO: a ResNet-10-t learns to tell single pictographs and letters apart, every drawing a
class of its own, and keeps the stages up to stride 16. As ImageNet holds most of OV-COCO's novel categories
(airliners, tabby cats, umbrellas ...), the 480 classes hold the drawings of all 65 concepts: numbers, never
names or boxes. The detectors with and without the method start from the same file.
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

from cckt.shapeworld.pictographs import CONCEPTS, drawings, letters, other_words
from cckt.shapeworld.scene import Pixels, a_drawing, specimen

NAME = "resnet10t"
SIDE, VIEW = 68, 64  # px: rendered, and the window of it that is looked at
MEAN, STD = 0.5, 0.25
HELD_OUT = 2000
_SEED = 0xBAC4B0  # no data set is rendered from it


def classes() -> tuple[str, ...]:
    """The characters to tell apart: all pictographs and every fourth letter."""
    return (*"".join(map(drawings, CONCEPTS)), *other_words().values(), *letters()[::4])


def train(
    out: Path, *, pictures: int, steps: int, batch: int, seed: int, workers: int, held_out: int = HELD_OUT
) -> float:
    """Train and write `out` (safetensors, float16, timm's names); returns held-out top-1 in [0, 1]."""
    torch.manual_seed(seed)
    school = School(classes(), pictures, workers, held_out)
    trunk = timm.create_model(NAME, features_only=True, out_indices=(3,), pretrained=False)
    head = nn.Linear(trunk.feature_info.channels()[-1], len(classes()))
    attend(trunk, lambda view: trunk(view)[-1], head, school, steps=steps, batch=batch, seed=seed)
    trunk.eval()
    right = 0
    with torch.no_grad():
        for view, labels in school.examination():
            right += int((head(pooled(trunk(view)[-1])).argmax(1) == labels).sum())
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.half() if value.is_floating_point() else value
               for name, value in trunk.state_dict().items()}, out)  # fmt: skip
    return right / held_out


def attend(
    trunk: nn.Module,
    features: Callable[[Tensor], Tensor],
    head: nn.Module,
    school: School,
    *,
    steps: int,
    batch: int,
    seed: int,
    rate: float = 2e-3,
) -> None:
    """Train `trunk` and `head` to classify the school's pictures: plain ones first, then ever more others.

    `features` runs the trunk: (B, 3, H, W) -> (B, C, h, w).

    Without the plain ones a small network finds no first foothold among random colours and clutter (measured:
    no progress in 220 steps of 128 pictures; with them it is past the plateau after 200).
    """
    optimizer = torch.optim.AdamW([*trunk.parameters(), *head.parameters()], lr=rate, weight_decay=0.05)
    draws = torch.Generator().manual_seed(seed)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / steps))
        plain = min(1.0, max(0.15, 1.2 - 1.6 * step / steps))
        view, labels = school.lesson(batch, plain, draws)
        with torch.autocast("cpu", torch.bfloat16):
            seen = features(view)
        answers = head(pooled(seen))
        loss = nn.functional.cross_entropy(answers, labels, label_smoothing=0.05)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step % 50 == 0:
            sys.stderr.write(f"step {step}/{steps} plain {plain:.2f} loss {loss.item():.3f}\n")


class School:
    """Pictures of single drawings of `names` (a class each): a third plain, the rest as in photos."""

    def __init__(self, names: tuple[str, ...], pictures: int, workers: int, held_out: int = HELD_OUT) -> None:
        rows = np.arange(pictures + held_out) % len(names)
        plain = np.arange(len(rows)) < pictures // 3
        with ProcessPoolExecutor(workers) as pool:
            drawn = list(
                pool.map(_picture, range(len(rows)), [names[r] for r in rows], plain.tolist(), chunksize=256)
            )
        self.pixels = torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2)
        self.labels = torch.from_numpy(rows)
        self.plain, self.taught, self.held_out = pictures // 3, pictures, held_out

    def lesson(self, size: int, plain: float, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        """`size` pictures (size, 3, VIEW, VIEW), a share `plain` of them plain, and their classes.

        Each through a random window, channels shuffled and sometimes inverted: colour is no clue.
        """
        easy = int(size * plain)
        rows = torch.cat(
            [
                torch.randint(0, self.plain, (easy,), generator=draws),
                torch.randint(self.plain, self.taught, (size - easy,), generator=draws),
            ]
        )
        top, left = (int(torch.randint(0, SIDE - VIEW + 1, (), generator=draws)) for _ in range(2))
        order = torch.randperm(3, generator=draws)
        view = self.pixels[rows][:, order, top : top + VIEW, left : left + VIEW]
        invert = torch.rand(size, 1, 1, 1, generator=draws) < 0.3
        return _normalised(torch.where(invert, 255 - view, view)), self.labels[rows]

    def album(self) -> Iterator[Tensor]:
        """All pictures that are taught, in order, through the middle window: (<= 250, 3, VIEW, VIEW) each."""
        for pixels in self.pixels[: self.taught, :, 2 : 2 + VIEW, 2 : 2 + VIEW].split(250):  # type: ignore[no-untyped-call]
            yield _normalised(pixels)

    def examination(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The held-out pictures, none of them plain, and their classes."""
        for rows in torch.arange(self.taught, self.taught + self.held_out).split(250):  # type: ignore[no-untyped-call]
            yield _normalised(self.pixels[rows, :, 2 : 2 + VIEW, 2 : 2 + VIEW]), self.labels[rows]


def pooled(features: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, C): the mean and the strongest answer, for a thing fills a part of the view."""
    return 0.5 * (features.float().mean((2, 3)) + features.float().amax((2, 3)))


def _picture(number: int, name: str, plain: bool) -> Pixels:
    rng = np.random.default_rng((_SEED, number))
    character = name if len(name) == 1 else a_drawing(rng, name)
    longest = float(np.exp(rng.uniform(np.log(30 if plain else 20), np.log(56))))
    return specimen(rng, character, SIDE, longest, plain)


def _normalised(view: Tensor) -> Tensor:
    return ((view.float() / 255 - MEAN) / STD).contiguous(memory_format=torch.channels_last)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=60000)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    options = vars(parser.parse_args())
    top1 = train(options.pop("out"), **options)
    sys.stderr.write(f"held-out top-1 over {len(classes())} classes: {top1:.3f}\n")


if __name__ == "__main__":
    main()
