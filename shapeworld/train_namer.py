"""Teach shapeworld's multimodal LLM to name crops: `python -m cckt.shapeworld.train_namer --out DIR`.

It adds one decoder layer to a model of `train_mllm.py` and solves its weights by least squares. The layers
before already tell which drawing an image cell shows: a matrix maps what they give for a cell to the
embedding of the word. Gradient descent finds that matrix slowly, because the part of these vectors that
differs between images is a twentieth of the part that they share.

    query and key      the request looks at cells with a drawing; every other token looks at <bos>
    value and output   a cell with a drawing gives the embedding of its word; any other token gives zero
    MLP                the token after the request, the answer, gives the end of the sequence

All weights before stay as they are, and every token that is not the request or its answer passes the layer
unchanged, so yes/no answers stay the same up to rounding.
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
from torch import Tensor
from torch.nn import functional

from cckt.cache_builder.base.constants import NAME_PROMPT
from cckt.cache_builder.mllm import Mllm, Questions, load_mllm
from cckt.cache_builder.mllm.namer import Namer
from cckt.cache_builder.proposals.noun_phrases import noun_of
from cckt.shapeworld.captions import CaptionedPhotos, render_captioned, words
from cckt.shapeworld.evaluate_teacher import MIN_CROP, TEST_SEED
from cckt.shapeworld.pictographs import NOVEL
from cckt.shapeworld.scene import SIDE, render_photo
from cckt.shapeworld.tiny_mllm import (
    CELLS,
    HEADS,
    IMAGE,
    LAYERS,
    STRIDE,
    VOCABULARY,
    WIDTH,
    add_layer,
    image_processor,
    name_token,
    write,
)
from cckt.shapeworld.train_mllm import CellLoss, augment_colours, evaluate_mllm

PART = 8
"""Part of the captioned images; the teacher and `train_mllm.py` are trained on others."""

BATCH = 48
RIDGE = 1e-5
"""Added to the diagonal of a least-squares problem, as a share of its mean."""
FOCUS = 10.0
"""Query times key of the request and a cell with a drawing, minus that of a cell without one."""
STRENGTH = 600.0
"""Length of a word's part of the residual stream; the layers before leave vectors of length 60."""


@dataclass(frozen=True)
class NamerTraining:
    """Settings of the naming layer."""

    photos: int = 1800
    """Captioned images that crops come from."""
    crops: int = 4000
    test_photos: int = 600
    """Images of the evaluation at the end."""
    seed: int = 0
    workers: int = 2
    """Processes that render."""


def train_namer(out: Path, start: str, settings: NamerTraining) -> dict[str, Any]:
    """Add the naming layer to the model `start`, write it to `out`, and return the figures of `out`.

    start: as `load_mllm` takes it; a model that has the layer gets it solved again.
    """
    mllm = load_mllm(start, device="cpu")
    prepare(mllm)
    captioned = render_captioned(settings.photos, part=PART, workers=settings.workers)
    solve_attention(mllm, collect(mllm, captioned, settings, settings.crops))
    solve_end(mllm, collect(mllm, captioned, settings, settings.crops // 4, after_attention=True))
    write(mllm, out)
    return {**evaluate_mllm(out, settings.test_photos), **evaluate_namer(out, settings.test_photos)}


def prepare(mllm: Mllm) -> None:
    """Give the model the naming layer, without effect yet, the token of the request and `image_processor`."""
    mllm.tokenizer.add_tokens([name_token()])
    mllm.processor.image_processor = image_processor()
    request = mllm.tokenizer.convert_tokens_to_ids(NAME_PROMPT.lower())
    assert 0 < request < VOCABULARY, f"expected a token under {VOCABULARY}, found {request}"
    if len(mllm.model.model.language_model.layers) == LAYERS:
        add_layer(mllm)


@dataclass(frozen=True)
class Inputs:
    """What the attention, or the MLP, of the naming layer gets, normalised: rows of `WIDTH` values."""

    cells: Tensor
    """(K, 64, width) cells of crops."""
    drawn: Tensor
    """(K, 64) bool, whether a cell shows a part of the crop."""
    words: Tensor
    """(K,) row in `words()` of each crop."""
    bos: Tensor
    """(width,), which is the same for every image."""
    requests: Tensor
    """(K, width)."""
    answers: Tensor
    """(K, width) the word after the request."""
    questions: Tensor
    """(Q, width) last tokens of yes/no questions."""


@torch.no_grad()
def collect(
    mllm: Mllm,
    captioned: CaptionedPhotos,
    settings: NamerTraining,
    crops_used: int,
    after_attention: bool = False,
) -> Inputs:
    """Run the model on crops with moved edges, and on yes/no questions about the same crops.

    after_attention: return what the layer's MLP gets, not what its attention gets.
    """
    body, cells_of = mllm.model.model, CellLoss(mllm).encode
    held: list[Tensor] = []

    def keep(module: Any, args: Any, kwargs: Any) -> None:
        held.append(args[0] if args else kwargs["hidden_states"])

    layer = body.language_model.layers[LAYERS]
    watched = layer.post_attention_layernorm if after_attention else layer
    handle = watched.register_forward_pre_hook(keep, with_kwargs=True)
    request = tokens_of(mllm, NAME_PROMPT)
    names = torch.tensor([mllm.tokenizer.encode(word, add_special_tokens=False)[0] for word in words()])
    asked = [tokens_of(mllm, text) for text in Questions(mllm, words()).texts]
    rng = np.random.default_rng((settings.seed, 3))
    generator = torch.Generator().manual_seed(settings.seed)
    found: dict[str, list[Tensor]] = {
        key: [] for key in ("cells", "drawn", "words", "bos", "requests", "answers", "questions")
    }

    def run(ids: Tensor, cells: Tensor) -> Tensor:
        held.clear()
        inputs = body.get_input_embeddings()(ids)
        inputs = inputs.masked_scatter((ids == IMAGE)[..., None], cells)
        body.language_model(inputs_embeds=inputs, use_cache=False)
        return functional.rms_norm(held[0], (WIDTH,))

    for _ in range(0, crops_used, BATCH):
        crops, chosen = draw_crops(captioned, BATCH, rng)
        drawn = functional.max_pool2d(crops.float().amax(1, keepdim=True), STRIDE) > 0
        cells = cells_of(augment_colours(crops, generator))
        hidden = run(torch.cat([request.expand(BATCH, -1), names[chosen][:, None]], dim=1), cells)
        question = torch.stack([asked[int(row)] for row in rng.integers(0, len(asked), BATCH)])
        found["cells"].append(hidden[:, 1 : 1 + CELLS])
        found["drawn"].append(drawn.flatten(1))
        found["words"].append(chosen)
        found["bos"].append(hidden[:1, 0])
        found["requests"].append(hidden[:, -2])
        found["answers"].append(hidden[:, -1])
        found["questions"].append(run(question, cells)[:, -1])
    handle.remove()
    joined = {key: torch.cat(parts) for key, parts in found.items()}
    return Inputs(**{**joined, "bos": joined["bos"][0]})


@torch.no_grad()
def solve_attention(mllm: Mllm, inputs: Inputs) -> None:
    """Set the attention of the naming layer by least squares, and its MLP to zero."""
    layer = mllm.model.model.language_model.layers[LAYERS]
    embeddings = mllm.model.get_input_embeddings().weight
    ids = torch.tensor([mllm.tokenizer.encode(word, add_special_tokens=False)[0] for word in words()])
    count = len(inputs.words)
    others = torch.cat([inputs.bos.expand(count, -1), inputs.requests, inputs.answers])
    rows = torch.cat([inputs.cells.flatten(0, 1), others])
    drawn = inputs.drawn.flatten()
    vectors = functional.normalize(embeddings[ids[inputs.words]], dim=1).repeat_interleave(CELLS, 0)
    values = torch.cat([torch.where(drawn[:, None], vectors, torch.zeros(())), torch.zeros_like(others)])
    focus = torch.cat([drawn.float(), torch.full((count,), -2.0), torch.zeros(2 * count)])
    solved = least_squares(rows, torch.cat([values, focus[:, None]], dim=1))
    to_word, key = solved[:, :WIDTH], solved[:, WIDTH]
    # 1 for the request; -1, which attends to <bos>, for every other last token.
    asking = torch.cat([inputs.requests, inputs.questions, inputs.answers])
    signs = torch.cat([torch.ones(count), -torch.ones(2 * count)])
    query = least_squares(asking, signs[:, None])[:, 0]
    head = WIDTH // HEADS
    slow = head // 2 - 1  # a coordinate that the position does not rotate
    for matrix in layer.parameters():
        if matrix.ndim == 2:
            matrix.zero_()
    for at in range(HEADS):
        layer.self_attn.q_proj.weight[at * head + slow] = query * FOCUS
        layer.self_attn.k_proj.weight[at * head + slow] = key * head**0.5
    layer.self_attn.v_proj.weight.copy_(to_word.T)
    layer.self_attn.o_proj.weight.copy_(torch.eye(WIDTH) * STRENGTH)


@torch.no_grad()
def solve_end(mllm: Mllm, inputs: Inputs) -> None:
    """Set the MLP of the naming layer, so that it adds the end of the sequence after an answer."""
    layer = mllm.model.model.language_model.layers[LAYERS]
    embeddings = mllm.model.get_input_embeddings().weight
    count = len(inputs.words)
    last = torch.cat([inputs.answers, inputs.requests, inputs.questions])
    ending = least_squares(last, torch.cat([torch.ones(count), -torch.ones(2 * count)])[:, None])[:, 0]
    layer.mlp.gate_proj.weight[0] = 8 * ending  # SiLU is nearly zero for the others
    layer.mlp.up_proj.weight[0] = ending
    end = functional.normalize(embeddings[mllm.tokenizer.eos_token_id], dim=0)
    layer.mlp.down_proj.weight[:, 0] = end * STRENGTH / 8


def least_squares(rows: Tensor, targets: Tensor) -> Tensor:
    """Return X (width, T) that minimises |rows X - targets|, in float64, with `RIDGE`."""
    product = rows.T.double() @ rows.double()
    ridge = RIDGE * product.diagonal().mean() * torch.eye(len(product), dtype=torch.float64)
    solved: Tensor = torch.linalg.solve(product + ridge, rows.T.double() @ targets.double())
    return solved.float()


def tokens_of(mllm: Mllm, text: str) -> Tensor:
    """Return the tokens (S,) of an image and a text, as the processor writes them."""
    prefixed = text if text.startswith("<image>") else f"<image>{text}"
    found = mllm.processor(images=[Image.new("RGB", (SIDE, SIDE))], text=[prefixed], return_tensors="pt")
    ids: Tensor = found["input_ids"][0]
    return ids


def draw_crops(captioned: CaptionedPhotos, count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return crops with moved edges, padded to (count, 3, 128, 128) uint8, and the row in `words()` of each.

    Each edge moves by -0.12 to 0.25 of the longer side, outward, in 7 of 10 crops, because proposals do not
    fit objects exactly.
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


def evaluate_namer(folder: Path, photos: int) -> dict[str, Any]:
    """Return the share of annotated objects of test images whose crop is named right, and their number.

    Objects with a side under 16 pixels do not count. The model may answer with any word.
    """
    namer = Namer(load_mllm(str(folder), device="cpu"))
    crops, names = [], []
    for number in range(photos):
        photo = render_photo(TEST_SEED, number)
        picture = Image.fromarray(photo.pixels)
        for one in photo.objects:
            left, top, right, bottom = one.box_xyxy
            if min(right - left, bottom - top) >= MIN_CROP:
                box = (math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom))
                crops.append(namer.inputs(picture.crop(box)))
                names.append(one.name)
    right_of: dict[str, list[bool]] = {"base": [], "novel": []}
    for answer, name in zip(namer.answers(crops), names, strict=True):
        right_of["novel" if name in NOVEL else "base"].append(noun_of(answer)[0] == noun_of(name)[0])
    return {
        f"named_{split}": {"share": sum(found) / max(len(found), 1), "objects": len(found)}
        for split, found in right_of.items()
    }


def main() -> None:
    """Train with the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", default="shapeworld", help="folder of a model of train_mllm")
    for field in fields(NamerTraining):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=int, default=field.default)
    options = vars(parser.parse_args())
    settings = NamerTraining(**{field.name: options[field.name] for field in fields(NamerTraining)})
    figures = train_namer(options["out"], options["start"], settings)
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
