"""Train shapeworld's multimodal LLM: `python -m cckt.shapeworld.train_mllm --out DIR [--start FILE]`.

The model of `tiny_mllm.py` is trained on all words, like the teacher, with images of single drawings and
captioned images, but without boxes. The first stage trains image tokens: mosaics of four single drawings,
where each quarter has a word, then captioned images. The second stage adds yes/no questions about captioned
images, packed in one sequence after the shared image, exactly as `cache_builder/mllm` evaluates them. The
losses of the first stage remain, because the image tower learns little from a few questions.
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
from cckt.shapeworld.captions import CaptionedPhotos, render_captioned, words
from cckt.shapeworld.evaluate_teacher import TEST_SEED
from cckt.shapeworld.pictographs import CONCEPTS, NOVEL
from cckt.shapeworld.scene import SIDE, render_photo
from cckt.shapeworld.tiny_mllm import IMAGE, MEAN, STD, build, load_tower, write
from cckt.shapeworld.train_backbone import SingleDrawings, clipped_step

PART = 7
"""Part of the captioned images; the teacher is trained on the first ones."""


@dataclass(frozen=True)
class MllmTraining:
    """Settings of the training of the multimodal LLM."""

    images: int = 12000
    """Images of single drawings."""
    photos: int = 12000
    """Captioned images."""
    image_steps: int = 1000
    """Steps of the first stage (image tokens)."""
    question_steps: int = 2000
    """Steps of the second stage (image tokens and questions)."""
    batch: int = 32
    """Images per step."""
    questions: int = 24
    """Questions per captioned image."""
    test_photos: int = 600
    """Images of the evaluation at the end."""
    seed: int = 0
    workers: int = 2
    """Processes that render."""


def train(out: Path, start: Path | None, settings: MllmTraining) -> dict[str, Any]:
    """Train a model, write it to `out`, load it from there and evaluate it; return the figures.

    start: weights of the backbone or of a teacher for the image tower; None initialises it at random.
    """
    torch.manual_seed(settings.seed)
    mllm = build()
    mllm.model.train().requires_grad_(True)
    if start is not None:
        load_tower(mllm.model.model.vision_tower.timm_model, start)
    dataset = SingleDrawings(words(), settings.images, settings.workers, held_out=0)
    captioned = render_captioned(settings.photos, part=PART, workers=settings.workers)
    train_stages(mllm, dataset, captioned, settings)
    write(mllm, out)
    return evaluate_mllm(out, settings.test_photos)


def train_stages(
    mllm: Mllm, dataset: SingleDrawings, captioned: CaptionedPhotos, settings: MllmTraining
) -> None:
    """Run both stages: image tokens, then image tokens and questions."""
    cell_loss = CellLoss(mllm)
    question_loss = QuestionLoss(mllm, settings)
    generator = torch.Generator().manual_seed(settings.seed)
    rng = np.random.default_rng((settings.seed, 2))
    for stage, steps in (("images", settings.image_steps), ("questions", settings.question_steps)):
        optimizer = torch.optim.AdamW([*mllm.model.parameters(), *cell_loss.parameters()], weight_decay=0.05)
        for step in range(steps):
            progress = step / steps
            with_questions = stage == "questions"
            share = 0.25 if with_questions else max(0.25, 1 - 1.5 * progress)
            mosaics = int(settings.batch * share)
            rows = rng.integers(0, len(captioned.photos), settings.batch - mosaics)
            plain = 0.0 if with_questions else max(0.15, 0.9 - 1.5 * progress)
            tiled, quarter_words = make_mosaics(dataset, mosaics, plain, generator)
            photos = torch.from_numpy(captioned.photos[rows]).permute(0, 3, 1, 2)
            view = torch.cat([tiled, augment_colours(photos, generator)])
            with torch.autocast("cpu", torch.bfloat16):
                cells = cell_loss.encode(view)
            caption_words = torch.from_numpy(captioned.caption_words[rows])
            mosaic, caption = cell_loss(cells, quarter_words, caption_words)
            loss = mosaic + 0.5 * caption
            figures = f"mosaic {mosaic.item():.3f} caption {caption.item():.3f}"
            if with_questions:
                question, accuracy = question_loss(cells[mosaics:], caption_words, rng)
                loss = 0.3 * loss + 4 * question
                figures += f" question {question.item():.4f} accuracy {accuracy:.3f}"
            clipped_step(optimizer, loss, 1.5e-3 if with_questions else 2e-3, step, steps, warmup=50)
            if step % 50 == 0:
                sys.stderr.write(f"{stage} {step}/{steps} {figures}\n")


class CellLoss(nn.Module):
    """Losses of the image tokens, which are compared with the token embeddings of the words.

    The score of a word in a cell is a scaled cosine; over several cells, the logsumexp of their scores. Scale
    and bias belong to this loss; tower, projector and embeddings belong to the model.
    """

    def __init__(self, mllm: Mllm) -> None:
        super().__init__()
        self._body: Any = (
            mllm.model.model,
        )  # in a tuple, so that it is no submodule: its parameters belong to the model
        ids = [mllm.tokenizer.encode(word, add_special_tokens=False) for word in words()]
        assert all(len(one) == 1 for one in ids), "expected one token per word"
        self._words = torch.tensor(ids)[:, 0]
        self.scale = nn.Parameter(torch.tensor(2.3))
        self.bias = nn.Parameter(torch.tensor(-6.0))

    def encode(self, view: Tensor) -> Tensor:
        """Return the image tokens of normalised images: (B, 3, 128, 128) -> (B, 64, width)."""
        cells: Tensor = self._body[0].get_image_features(pixel_values=view).pooler_output
        return cells

    def forward(self, cells: Tensor, quarter_words: Tensor, caption_words: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of mosaics and the loss of captioned images.

        cells: (M + P, 64, width), mosaics first. quarter_words: (M, 4), word of each quarter; the loss is the
        softmax over all words, mean per quarter. caption_words: (P, W) bool; the loss is the binary
        cross-entropy of each word over all cells, summed per image.
        """
        vectors = self._body[0].get_input_embeddings().weight[self._words, 1:]  # 0 marks words and cells
        cosines = (
            functional.normalize(cells[..., 1:].float(), dim=-1) @ functional.normalize(vectors, dim=-1).T
        )
        scores = cosines * self.scale.exp()
        mosaics, side = len(quarter_words), math.isqrt(cells.shape[1])
        half = side // 2
        count = scores.shape[2]
        blocks = scores[:mosaics].reshape(mosaics, 2, half, 2, half, count).transpose(2, 3)
        quarters = blocks.reshape(mosaics * 4, half * half, count).logsumexp(1)
        mosaic = functional.cross_entropy(quarters, quarter_words.flatten()) if mosaics else scores.sum() * 0
        logits = (scores[mosaics:] + self.bias).logsumexp(1)
        weight = torch.tensor(3.0)
        pairs = functional.binary_cross_entropy_with_logits(
            logits, caption_words.float(), pos_weight=weight, reduction="sum"
        )
        return mosaic, pairs / max(len(caption_words), 1)


class QuestionLoss:
    """Loss of yes/no questions about images, packed in one sequence after the shared image."""

    def __init__(self, mllm: Mllm, settings: MllmTraining) -> None:
        self._model, self._count = mllm.model, settings.questions
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
        offsets = torch.arange(length).repeat(self._count)
        self._positions = torch.cat([torch.arange(before), before + offsets])[None]

    def __call__(
        self, cells: Tensor, caption_words: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, float]:
        """Return the cross-entropy of the answers over the vocabulary, and the share of correct answers.

        cells: (P, 64, width), image tokens. caption_words: (P, W) bool, words of the captions.
        """
        rows = np.stack([sample_words(rng, present, self._count) for present in caption_words.numpy()])
        queries = torch.from_numpy(rows)
        ids = torch.cat([self._prefix.expand(len(rows), -1), self._suffixes[queries].flatten(1)], dim=1)
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
        present = caption_words.gather(1, queries)
        answers = torch.where(present, self._yes, self._no)
        loss = functional.cross_entropy(logits.flatten(0, 1), answers.flatten())
        correct = ((logits[..., self._yes] > logits[..., self._no]) == present).float().mean()
        return loss, float(correct)


def sample_words(
    rng: np.random.Generator, caption_words: np.ndarray[Any, Any], count: int
) -> np.ndarray[Any, Any]:
    """Return `count` words for questions: up to a third present, the rest absent, half of these concepts."""
    present = rng.permutation(np.flatnonzero(caption_words))[: count // 3]
    absent = np.flatnonzero(~caption_words)
    concepts = rng.permutation(absent[absent < len(CONCEPTS)])[: (count - len(present)) // 2]
    others = rng.permutation(np.setdiff1d(absent, concepts))[: count - len(present) - len(concepts)]
    return rng.permutation(np.concatenate([present, concepts, others]))


def make_mosaics(
    dataset: SingleDrawings, count: int, plain: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return mosaics (count, 3, 128, 128) of 2 x 2 single drawings, and their words (count, 4) row by row."""
    images, labels = dataset.sample(4 * count, plain, generator)
    tiles = images.reshape(count, 2, 2, *images.shape[1:])
    whole = tiles.permute(0, 3, 1, 4, 2, 5).reshape(count, 3, SIDE, SIDE)
    return whole.contiguous(memory_format=torch.channels_last), labels.reshape(count, 4)


def augment_colours(photos: Tensor, generator: torch.Generator) -> Tensor:
    """Return images (B, 3, H, W) uint8 normalised, channels permuted and some images inverted."""
    view = photos[:, torch.randperm(3, generator=generator)]
    invert = torch.rand(len(view), 1, 1, 1, generator=generator) < 0.3
    view = torch.where(invert, 255 - view, view)
    return ((view.float() / 255 - MEAN) / STD).contiguous(memory_format=torch.channels_last)


def evaluate_mllm(folder: Path, photos: int) -> dict[str, Any]:
    """Return the existence figures of the model in `folder` on test images, scored like any other model."""
    mllm = load_mllm(str(folder), device="cpu")
    questions, scorer = Questions(mllm, CONCEPTS), Scorer(mllm)
    priors = np.zeros((photos, len(CONCEPTS)), np.float32)
    presence = np.zeros(priors.shape, bool)
    shares = []
    for row in range(photos):
        photo = render_photo(TEST_SEED, row)
        presence[row, [CONCEPTS.index(one.name) for one in photo.objects]] = True
        scores = scorer.score(questions.for_image(Image.fromarray(photo.pixels)))
        priors[row] = scores.probability
        shares.append(float(np.median(scores.share)))
    novel = np.isin(CONCEPTS, list(NOVEL))
    splits = {"base": np.flatnonzero(~novel), "novel": np.flatnonzero(novel)}
    report = existence_report(priors, presence, splits)
    return {
        "share": float(np.median(shares)) if shares else float("nan"),
        "parameters": sum(p.numel() for p in mllm.model.parameters()),
        **{f"existence_{split}": figures.to_json() for split, figures in report.items()},
    }


def main() -> None:
    """Train with the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", type=Path, help="weights of the backbone or of a teacher")
    for field in fields(MllmTraining):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=int, default=field.default)
    options = vars(parser.parse_args())
    settings = MllmTraining(**{field.name: options[field.name] for field in fields(MllmTraining)})
    figures = train(options["out"], options["start"], settings)
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
