"""Teach shapeworld's multimodal LLM to name crops: `python -m cckt.shapeworld.train_namer --out DIR`.

It continues the training of `train_mllm.py` from a folder of weights. Each step shows crops of captioned
images, each with its word, and whole captioned images with the yes/no questions of `train_mllm.py`, so that
yes/no answers do not become worse. The answer to `NAME_PROMPT` is the word and the end of the sequence. Boxes
of crops are moved and scaled, because proposals do not fit objects exactly.

Killed, the same command resumes from the last state, which is in `DIR/state.pt` until the training ends.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from cckt.cache_builder.base.atomic_files import write_bytes
from cckt.cache_builder.base.constants import NAME_PROMPT
from cckt.cache_builder.mllm import Mllm, Questions, load_mllm
from cckt.shapeworld.captions import CaptionedPhotos, render_captioned, words
from cckt.shapeworld.scene import SIDE
from cckt.shapeworld.tiny_mllm import IMAGE, write
from cckt.shapeworld.train_backbone import clipped_step
from cckt.shapeworld.train_mllm import (
    CellLoss,
    MllmTraining,
    QuestionLoss,
    augment_colours,
    evaluate_mllm,
)

PART = 8
"""Part of the captioned images; the teacher and `train_mllm.py` are trained on others."""
STATE = "state.pt"


@dataclass(frozen=True)
class NamerTraining:
    """Settings of the training that adds names."""

    photos: int = 12000
    """Captioned images."""
    steps: int = 1200
    crops: int = 32
    """Crops per step."""
    whole: int = 16
    """Captioned images per step, each with questions."""
    questions: int = 24
    """Questions per captioned image."""
    rate: float = 8e-4
    """Largest learning rate."""
    save_every: int = 50
    """Steps between two states on disk."""
    test_photos: int = 600
    """Images of the evaluation at the end."""
    seed: int = 0
    workers: int = 2
    """Processes that render."""


def train_namer(out: Path, start: str, settings: NamerTraining) -> dict[str, Any]:
    """Continue the training of the model `start`, write it to `out`, and return its existence figures.

    start: as `load_mllm` takes it.
    """
    mllm = load_mllm(start, device="cpu")
    mllm.model.train().requires_grad_(True)
    captioned = render_captioned(settings.photos, part=PART, workers=settings.workers)
    train_names(mllm, captioned, settings, out / STATE)
    write(mllm, out)
    (out / STATE).unlink(missing_ok=True)
    return evaluate_mllm(out, settings.test_photos)


def train_names(mllm: Mllm, captioned: CaptionedPhotos, settings: NamerTraining, state: Path) -> None:
    """Run the steps that `state` does not hold yet. Every step draws from its own seed."""
    cell_loss, name_loss = CellLoss(mllm), NameLoss(mllm)
    question_loss = QuestionLoss(mllm, MllmTraining(questions=settings.questions))
    parameters = [*mllm.model.parameters(), *cell_loss.parameters()]
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.05)
    first = 0
    if state.is_file():
        held = torch.load(state, map_location="cpu", weights_only=True)
        mllm.model.load_state_dict(held["model"])
        cell_loss.load_state_dict(held["cell_loss"])
        optimizer.load_state_dict(held["optimizer"])
        first = int(held["step"])
    else:
        fit_scale(cell_loss, captioned, settings)
    for step in range(first, settings.steps):
        rng = np.random.default_rng((settings.seed, 3, step))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        crops, crop_words = draw_crops(captioned, settings.crops, rng)
        rows = rng.integers(0, len(captioned.photos), settings.whole)
        photos = torch.from_numpy(captioned.photos[rows]).permute(0, 3, 1, 2)
        view = torch.cat([augment_colours(crops, generator), augment_colours(photos, generator)])
        with torch.autocast("cpu", torch.bfloat16):
            cells = cell_loss.encode(view)
        of_crops, of_photos = cells[: settings.crops], cells[settings.crops :]
        caption_words = torch.from_numpy(captioned.caption_words[rows])
        _, caption = cell_loss(of_photos, crop_words[:0, None].expand(0, 4), caption_words)
        crop = cell_loss.whole_images(of_crops, crop_words)
        question, accuracy = question_loss(of_photos, caption_words, rng)
        name, named = name_loss(of_crops, crop_words)
        loss = 0.15 * caption + 0.3 * crop + 4 * question + 2 * name
        clipped_step(optimizer, loss, settings.rate, step, settings.steps, warmup=50)
        if step % 25 == 0:
            sys.stderr.write(
                f"names {step}/{settings.steps} caption {caption.item():.3f} crop {crop.item():.3f} question "
                f"{question.item():.4f} accuracy {accuracy:.3f} name {name.item():.3f} named {named:.3f}\n"
            )
        if (step + 1) % settings.save_every == 0:
            save_state(state, mllm, cell_loss, optimizer, step + 1)


def fit_scale(cell_loss: CellLoss, captioned: CaptionedPhotos, settings: NamerTraining) -> None:
    """Fit scale and bias of the loss of image tokens, which a model's folder does not hold."""
    rows = np.arange(min(4 * settings.whole, len(captioned.photos)))
    photos = torch.from_numpy(captioned.photos[rows]).permute(0, 3, 1, 2)
    view = augment_colours(photos, torch.Generator().manual_seed(settings.seed))
    with torch.no_grad():
        cells = cell_loss.encode(view)
    truth = torch.from_numpy(captioned.caption_words[rows])
    optimizer = torch.optim.Adam(cell_loss.parameters(), 0.05)
    for _ in range(100):
        _, caption = cell_loss(cells, torch.zeros(0, 4, dtype=torch.long), truth)
        optimizer.zero_grad()
        torch.autograd.backward(caption, inputs=list(cell_loss.parameters()))
        optimizer.step()


def save_state(
    path: Path, mllm: Mllm, cell_loss: CellLoss, optimizer: torch.optim.Optimizer, step: int
) -> None:
    """Write the state after `step` steps."""
    path.parent.mkdir(parents=True, exist_ok=True)
    held = {
        "model": mllm.model.state_dict(),
        "cell_loss": cell_loss.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": step,
    }
    stream = io.BytesIO()
    torch.save(held, stream)
    write_bytes(path, stream.getvalue())


def draw_crops(captioned: CaptionedPhotos, count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return crops (count, 3, 128, 128) uint8 with moved edges, and the row in `words()` of each.

    Each edge moves by -0.12 to 0.25 of the longer side, outward.
    """
    chosen = rng.integers(0, len(captioned.crops), count)
    margins = rng.uniform(-0.12, 0.25, (count, 4)) * (rng.random((count, 1)) < 0.7)
    crops = np.stack(
        [
            np.asarray(captioned.crop(row, SIDE, margin))
            for row, margin in zip(chosen.tolist(), margins, strict=True)
        ]
    )
    return torch.from_numpy(crops).permute(0, 3, 1, 2), torch.from_numpy(captioned.crop_words[chosen])


class NameLoss:
    """Loss of the answers to `NAME_PROMPT`: the word of each crop, then the end of the sequence."""

    def __init__(self, mllm: Mllm) -> None:
        self._model = mllm.model
        about = Questions(mllm, [NAME_PROMPT], "{concept}")
        self._prompt = about.encode(Image.new("RGB", (SIDE, SIDE)), about.texts[0])["input_ids"][0]
        ids = [mllm.tokenizer.encode(word, add_special_tokens=False) for word in words()]
        self._words = torch.tensor(ids)[:, 0]
        self._end = int(mllm.tokenizer.eos_token_id)

    def __call__(self, cells: Tensor, crop_words: Tensor) -> tuple[Tensor, float]:
        """Return the cross-entropy over the vocabulary, mean per token, and the share of correct words.

        cells: (K, 64, width), image tokens. crop_words: (K,), rows in `words()`.
        """
        answers = self._words[crop_words]
        ids = torch.cat([self._prompt.expand(len(cells), -1), answers[:, None]], dim=1)
        body = self._model.model
        inputs = body.get_input_embeddings()(ids)
        inputs = inputs.masked_scatter((ids == IMAGE)[..., None], cells.to(inputs.dtype))
        with torch.autocast("cpu", torch.bfloat16):
            hidden = body.language_model(inputs_embeds=inputs, use_cache=False).last_hidden_state
            logits = self._model.lm_head(hidden[:, -2:]).float()
        expected = torch.stack([answers, torch.full_like(answers, self._end)], dim=1)
        loss = functional.cross_entropy(logits.flatten(0, 1), expected.flatten())
        return loss, float((logits[:, 0].argmax(1) == answers).float().mean())


def main() -> None:
    """Train with the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", default="shapeworld", help="folder of a model of train_mllm")
    for field in fields(NamerTraining):
        kind = float if field.name == "rate" else int
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=field.default)
    options = vars(parser.parse_args())
    settings = NamerTraining(**{field.name: options[field.name] for field in fields(NamerTraining)})
    figures = train_namer(options["out"], options["start"], settings)
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
