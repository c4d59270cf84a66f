"""Teach shapeworld's multimodal LLM to name crops: `python -m cckt.shapeworld.train_namer --out DIR`.

It adds a decoder layer to a model of `train_mllm.py`. The layers before already tell which drawing a crop
shows (a linear classifier of their mean output names more than half of the crops), so they stay as they are,
and only the new layer is trained. Each step shows crops of captioned images, each with its word, and whole
captioned images with the yes/no questions of `train_mllm.py`, so that yes/no answers do not become worse. The
answer to `NAME_PROMPT`, which is one token, is the word and the end of the sequence. Boxes of crops are moved
and scaled, because proposals do not fit objects exactly.

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
from cckt.shapeworld.tiny_mllm import (
    IMAGE,
    LAYERS,
    VOCABULARY,
    add_layer,
    image_processor,
    name_token,
    write,
)
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

    photos: int = 2500
    """Captioned images."""
    steps: int = 400
    crops: int = 32
    """Crops per step."""
    whole: int = 8
    """Captioned images per step, each with questions."""
    questions: int = 16
    """Questions per captioned image."""
    rate: float = 2e-3
    """Largest learning rate."""
    save_every: int = 20
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
    torch.manual_seed(settings.seed)
    mllm = load_mllm(start, device="cpu")
    prepare(mllm)
    captioned = render_captioned(settings.photos, part=PART, workers=settings.workers)
    train_names(mllm, captioned, settings, out / STATE)
    write(mllm, out)
    (out / STATE).unlink(missing_ok=True)
    return evaluate_mllm(out, settings.test_photos)


def prepare(mllm: Mllm) -> None:
    """Give the model a further decoder layer, the token of the request and `image_processor`.

    A model that has them is only made ready to train on. Only the last layer needs gradients afterwards.
    """
    mllm.tokenizer.add_tokens([name_token()])
    mllm.processor.image_processor = image_processor()
    request = mllm.tokenizer.convert_tokens_to_ids(NAME_PROMPT.lower())
    assert 0 < request < VOCABULARY, f"expected a token under {VOCABULARY}, found {request}"
    layers = mllm.model.model.language_model.layers
    layer = layers[-1] if len(layers) > LAYERS else add_layer(mllm)
    layer.requires_grad_(True)


def train_names(mllm: Mllm, captioned: CaptionedPhotos, settings: NamerTraining, state: Path) -> None:
    """Run the steps that `state` does not hold yet. Every step draws from its own seed."""
    cells_of, name_loss = CellLoss(mllm).encode, NameLoss(mllm)
    question_loss = QuestionLoss(mllm, MllmTraining(questions=settings.questions))
    parameters = [one for one in mllm.model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.01)
    first = 0
    if state.is_file():
        held = torch.load(state, map_location="cpu", weights_only=True)
        mllm.model.load_state_dict(held["model"])
        optimizer.load_state_dict(held["optimizer"])
        first = int(held["step"])
    for step in range(first, settings.steps):
        rng = np.random.default_rng((settings.seed, 3, step))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        crops, crop_words = draw_crops(captioned, settings.crops, rng)
        rows = rng.integers(0, len(captioned.photos), settings.whole)
        photos = torch.from_numpy(captioned.photos[rows]).permute(0, 3, 1, 2)
        view = torch.cat([augment_colours(crops, generator), augment_colours(photos, generator)])
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            cells = cells_of(view)
        caption_words = torch.from_numpy(captioned.caption_words[rows])
        question, accuracy = question_loss(cells[settings.crops :], caption_words, rng)
        name, named = name_loss(cells[: settings.crops], crop_words)
        clipped_step(optimizer, 4 * question + name, settings.rate, step, settings.steps, warmup=50)
        if step % 20 == 0:
            sys.stderr.write(
                f"names {step}/{settings.steps} question {question.item():.4f} accuracy {accuracy:.3f} name "
                f"{name.item():.3f} named {named:.3f}\n"
            )
        if (step + 1) % settings.save_every == 0:
            save_state(state, mllm, optimizer, step + 1)


def save_state(path: Path, mllm: Mllm, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Write the state after `step` steps."""
    path.parent.mkdir(parents=True, exist_ok=True)
    held = {
        "model": mllm.model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": step,
    }
    stream = io.BytesIO()
    torch.save(held, stream)
    write_bytes(path, stream.getvalue())


def draw_crops(captioned: CaptionedPhotos, count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return crops with moved edges, padded to (count, 3, 128, 128) uint8, and the row in `words()` of each.

    Each edge moves by -0.12 to 0.25 of the longer side, outward, in 7 of 10 crops. Padding is black before
    colours are augmented, so that it may also be white.
    """
    chosen = rng.integers(0, len(captioned.crops), count)
    margins = rng.uniform(-0.12, 0.25, (count, 4)) * (rng.random((count, 1)) < 0.7)
    padded = np.zeros((count, SIDE, SIDE, 3), np.uint8)
    for at, (row, margin) in enumerate(zip(chosen.tolist(), margins, strict=True)):
        photo, left, top, right, bottom = captioned.crops[row]
        move = margin * max(right - left, bottom - top)
        low = np.floor(np.clip((left - move[0], top - move[1]), 0, SIDE - 1)).astype(int)
        high = np.ceil(np.clip((right + move[2], bottom + move[3]), low + 1, SIDE)).astype(int)
        crop = captioned.photos[int(photo), low[1] : high[1], low[0] : high[0]]
        y, x = (SIDE - crop.shape[0]) // 2, (SIDE - crop.shape[1]) // 2
        padded[at, y : y + crop.shape[0], x : x + crop.shape[1]] = crop
    return torch.from_numpy(padded).permute(0, 3, 1, 2), torch.from_numpy(captioned.crop_words[chosen])


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
