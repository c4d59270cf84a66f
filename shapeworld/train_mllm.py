"""Train shapeworld's multimodal LLM: `python -m cckt.shapeworld.train_mllm --out DIR [--start FILE]`.

The model of `tiny_mllm.py` knows the whole language, as the teacher does, from single pictures with a
word and photos with captions, and never sees a box. From easy to hard: four single pictures side by side,
each quarter to be named; whole photos, where each caption's words are somewhere; then yes/no questions about
photos, many of a photo in one row behind the shared picture, exactly as `cache_builder/mllm` asks them later.
The captions stay on to the end: of a few questions alone the tower learns little.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from cckt.cache_builder.mllm import Mllm, Questions, Scorer, load_mllm
from cckt.cache_builder.mllm.prefix_cache import packed_mask
from cckt.cache_builder.quality.existence import existence_report
from cckt.shapeworld.examine import EXAM_SEED
from cckt.shapeworld.pictographs import CONCEPTS, NOVEL
from cckt.shapeworld.reading import Reading, read, words
from cckt.shapeworld.scene import SIDE, photo
from cckt.shapeworld.tiny_mllm import IMAGE, MEAN, STD, begin_from, build, write
from cckt.shapeworld.train_backbone import School

VOLUME = 7  # of the reading world; the teacher reads the first ones


@dataclass(frozen=True)
class Course:
    """How the model is trained.

    pictures: single ones rendered; photos: of the reading world. looks, steps: of the two stages. batch:
    photos a step; questions: a photo. exam: held-out photos. seed, workers: of everything; for rendering.
    """

    pictures: int = 12000
    photos: int = 12000
    looks: int = 1000
    steps: int = 2000
    batch: int = 32
    questions: int = 24
    exam: int = 600
    seed: int = 0
    workers: int = 2


def train(out: Path, start: Path | None, course: Course) -> dict[str, Any]:
    """Train a model, write it to `out`, load it from there and examine it; returns the exam's figures.

    start: weights of a like tower to begin from, the backbone's or a teacher's; None begins from noise.
    """
    torch.manual_seed(course.seed)
    mllm = build()
    mllm.model.train().requires_grad_(True)
    if start is not None:
        begin_from(mllm.model.model.vision_tower.timm_model, start)
    school = School(words(), course.pictures, course.workers, held_out=0)
    library = read(course.photos, part=VOLUME, workers=course.workers)
    teach(mllm, school, library, course)
    write(mllm, out)
    return examine(out, course.exam)


def teach(mllm: Mllm, school: School, library: Reading, course: Course) -> None:
    """Both stages: `looks` steps of looking alone, then `steps` of looking and answering."""
    eye = Eye(mllm)
    quiz = Quiz(mllm, course)
    draws = torch.Generator().manual_seed(course.seed)
    rng = np.random.default_rng((course.seed, 2))
    for stage, steps in (("looking", course.looks), ("answering", course.steps)):
        optimizer = torch.optim.AdamW([*mllm.model.parameters(), *eye.parameters()], weight_decay=0.05)
        for step in range(steps):
            done = step / steps
            answering = stage == "answering"
            alone = 0.25 if answering else max(0.25, 1 - 1.5 * done)  # a share of the mosaics
            mosaics = int(course.batch * alone)
            pages = rng.integers(0, len(library.photos), course.batch - mosaics)
            quarters, named = mosaic(
                school, mosaics, max(0.15, 0.9 - 1.5 * done) if not answering else 0.0, draws
            )
            view = torch.cat(
                [quarters, coloured(torch.from_numpy(library.photos[pages]).permute(0, 3, 1, 2), draws)]
            )
            with torch.autocast("cpu", torch.bfloat16):
                cells = eye.see(view)
            truth = torch.from_numpy(library.mentioned[pages])
            naming, finding = eye.loss(cells, named, truth)
            loss = naming + 0.5 * finding
            told = f"naming {naming.item():.3f} finding {finding.item():.3f}"
            if answering:
                asking, right = quiz.loss(cells[mosaics:], truth, rng)
                loss = 0.3 * loss + 4 * asking
                told += f" asking {asking.item():.4f} right {right:.3f}"
            _step(optimizer, loss, step, steps, 2e-3 if not answering else 1.5e-3)
            if step % 50 == 0:
                sys.stderr.write(f"{stage} {step}/{steps} {told}\n")


class Eye(nn.Module):
    """Looking: what each cell of a photo shows, as a direction among the words' own token embeddings.

    A word's score in a cell is a scaled cosine plus a bias, in several cells together their logsumexp. Scale
    and bias are this stage's alone; tower, projector and embeddings are the model's.
    """

    def __init__(self, mllm: Mllm) -> None:
        super().__init__()
        self._body: Any = (mllm.model.model,)  # not a submodule: its parameters are the model's
        ids = [mllm.tokenizer.encode(word, add_special_tokens=False) for word in words()]
        assert all(len(one) == 1 for one in ids), "every word is one token"
        self._words = torch.tensor(ids)[:, 0]
        self.scale = nn.Parameter(torch.tensor(2.3))
        self.bias = nn.Parameter(torch.tensor(-6.0))

    def see(self, view: Tensor) -> Tensor:
        """(B, 3, 128, 128) normalised -> (B, 64, width): its cells as the language model reads them."""
        cells: Tensor = self._body[0].get_image_features(pixel_values=view).pooler_output
        return cells

    def loss(self, cells: Tensor, named: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        """Of mosaics first, photos after: naming, softmax over the words for each quarter `named` (M, 4); and
        finding, of the photos' words `truth` (P, W) bool, some cell for each and none for the others.
        """
        vectors = self._body[0].get_input_embeddings().weight[self._words, 1:]  # 0 tells cells from words
        cosines = (
            functional.normalize(cells[..., 1:].float(), dim=-1) @ functional.normalize(vectors, dim=-1).T
        )
        scores = cosines * self.scale.exp()
        mosaics, side = len(named), math.isqrt(cells.shape[1])
        half = side // 2
        count = scores.shape[2]
        blocks = scores[:mosaics].reshape(mosaics, 2, half, 2, half, count).transpose(2, 3)
        quarters = blocks.reshape(mosaics * 4, half * half, count).logsumexp(1)
        naming = functional.cross_entropy(quarters, named.flatten()) if mosaics else scores.sum() * 0
        found = (scores[mosaics:] + self.bias).logsumexp(1)
        weight = torch.tensor(3.0)
        pairs = functional.binary_cross_entropy_with_logits(
            found, truth.float(), pos_weight=weight, reduction="sum"
        )
        return naming, pairs / max(len(truth), 1)


class Quiz:
    """Answering: yes or no to questions about photos, packed behind the shared picture."""

    def __init__(self, mllm: Mllm, course: Course) -> None:
        self._model, self._count = mllm.model, course.questions
        about = Questions(mllm, words()).for_image(Image.new("RGB", (SIDE, SIDE)))
        self._suffixes = torch.cat([suffix["input_ids"] for suffix in about.suffixes])  # (W, S)
        self._prefix = about.prefix["input_ids"][0]  # (P,)
        self._yes, self._no = (
            mllm.tokenizer.encode(f" {word}", add_special_tokens=False)[0] for word in ("yes", "no")
        )
        before, length = len(self._prefix), self._suffixes.shape[1]
        ends = before + length * (1 + torch.arange(self._count)) - 1
        whole = before + length * self._count
        mask = torch.full((whole, whole), torch.finfo(torch.float32).min).triu(1)
        mask[before:] = packed_mask(
            [length] * self._count, before, before, None, torch.float32, torch.device("cpu")
        )
        self._mask, self._ends = mask[None, None], ends
        asked = torch.arange(length).repeat(self._count)
        self._positions = torch.cat([torch.arange(before), before + asked])[None]

    def loss(self, cells: Tensor, truth: Tensor, rng: np.random.Generator) -> tuple[Tensor, float]:
        """Cross-entropy of the answers over the whole vocabulary, and the share of right ones.

        cells: (P, 64, width) of the photos; truth: (P, W) bool, the words of their captions.
        """
        rows = np.stack([some_words(rng, page, self._count) for page in truth.numpy()])
        asked = torch.from_numpy(rows)
        ids = torch.cat([self._prefix.expand(len(rows), -1), self._suffixes[asked].flatten(1)], dim=1)
        body = self._model.model
        inputs = body.get_input_embeddings()(ids)
        inputs = inputs.masked_scatter((ids == IMAGE)[..., None], cells.to(inputs.dtype))
        with torch.autocast("cpu", torch.bfloat16):
            hidden = body.language_model(
                inputs_embeds=inputs,
                attention_mask=self._mask.expand(len(rows), -1, -1, -1),
                position_ids=self._positions.expand(len(rows), -1),
                use_cache=False,
            ).last_hidden_state
            logits = self._model.lm_head(hidden[:, self._ends]).float()
        there = truth.gather(1, asked)
        answers = torch.where(there, self._yes, self._no)
        loss = functional.cross_entropy(logits.flatten(0, 1), answers.flatten())
        right = ((logits[..., self._yes] > logits[..., self._no]) == there).float().mean()
        return loss, float(right)


def some_words(rng: np.random.Generator, mentioned: np.ndarray[Any, Any], count: int) -> np.ndarray[Any, Any]:
    """`count` words to ask about: up to a third of them there, the rest absent, half of these concepts."""
    there = rng.permutation(np.flatnonzero(mentioned))[: count // 3]
    absent = np.flatnonzero(~mentioned)
    near = rng.permutation(absent[absent < len(CONCEPTS)])[: (count - len(there)) // 2]
    far = rng.permutation(np.setdiff1d(absent, near))[: count - len(there) - len(near)]
    return rng.permutation(np.concatenate([there, near, far]))


def mosaic(school: School, count: int, plain: float, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """(count, 3, 128, 128) of four of the school's pictures each, and (count, 4) their words, row by row."""
    pictures, labels = school.lesson(4 * count, plain, draws)
    tiles = pictures.reshape(count, 2, 2, *pictures.shape[1:])
    whole = tiles.permute(0, 3, 1, 4, 2, 5).reshape(count, 3, SIDE, SIDE)
    return whole.contiguous(memory_format=torch.channels_last), labels.reshape(count, 4)


def coloured(photos: Tensor, draws: torch.Generator) -> Tensor:
    """Photos (B, 3, H, W) uint8, normalised; channels shuffled, some inverted, for colour is no clue."""
    view = photos[:, torch.randperm(3, generator=draws)]
    invert = torch.rand(len(view), 1, 1, 1, generator=draws) < 0.3
    view = torch.where(invert, 255 - view, view)
    return ((view.float() / 255 - MEAN) / STD).contiguous(memory_format=torch.channels_last)


def examine(folder: Path, photos: int) -> dict[str, Any]:
    """What the model in `folder` knows of held-out photos, asked as any model is: existence figures."""
    mllm = load_mllm(str(folder), device="cpu")
    questions, scorer = Questions(mllm, CONCEPTS), Scorer(mllm)
    priors = np.zeros((photos, len(CONCEPTS)), np.float32)
    presence = np.zeros(priors.shape, bool)
    shares = []
    for row in range(photos):
        page = photo(EXAM_SEED, row)
        presence[row, [CONCEPTS.index(thing.name) for thing in page.objects]] = True
        scores = scorer.score(questions.for_image(Image.fromarray(page.pixels)))
        priors[row] = scores.probability
        shares.append(float(np.median(scores.share)))
    novel = np.isin(CONCEPTS, list(NOVEL))
    splits = {"base": np.flatnonzero(~novel), "novel": np.flatnonzero(novel)}
    report = existence_report(priors, presence, splits, rho=0.70, limit=6)
    return {
        "share": float(np.median(shares)) if shares else float("nan"),
        "parameters": sum(p.numel() for p in mllm.model.parameters()),
        **{f"existence_{split}": figures.to_json() for split, figures in report.items()},
    }


def _step(optimizer: torch.optim.Optimizer, loss: Tensor, step: int, steps: int, rate: float) -> None:
    """One step of AdamW under a short warm-up and a cosine to zero."""
    for group in optimizer.param_groups:
        group["lr"] = rate * min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / steps))
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
    optimizer.step()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", type=Path, help="weights of the backbone, or of a teacher")
    for field in fields(Course):
        parser.add_argument(f"--{field.name}", type=int, default=field.default)
    options = vars(parser.parse_args())
    course = Course(**{field.name: options[field.name] for field in fields(Course)})
    figures = train(options["out"], options["start"], course)
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
