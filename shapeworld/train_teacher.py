"""Train shapeworld's CLIP: `python -m cckt.shapeworld.train_teacher --out DIR [--size small]`.

The result is a folder in open_clip's local-dir format. The teacher is trained on every word, with whole
captioned images and crops, but without boxes. The embedding of a word is the class mean of the trunk's
features of its drawings, in principal components. Objects that look similar then have similar text
embeddings. Without this geometry, 48 base concepts carry no information about the other directions, and no
student can name a novel object (README.md has the measurement). The loss is the sigmoid loss of SigLIP over
all pairs of image and word, with temperature 0.07 and no bias, so that cosines give the probability of
docs/method/cckt_det.md, eq. 5; and the softmax of CLIP over the words of a caption.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from cckt.cache_builder.base.constants import TAU
from cckt.cache_builder.base.errors import UserError
from cckt.shapeworld.captions import TEMPLATES, CaptionedPhotos, render_captioned, words
from cckt.shapeworld.tiny_clip import MEAN, SIZES, STD, WIDTH, write_config, write_tokenizer
from cckt.shapeworld.train_backbone import SingleDrawings, clipped_step, pool_features, train_classifier

SOFTMAX_TAU, RATE, WARMUP = 0.04, 2e-3, 100
"""Temperature of the softmax (that of the sigmoid is TAU), learning rate, steps of its warm-up."""


@dataclass(frozen=True)
class TeacherTraining:
    """Settings of a teacher's training."""

    images: int = 24000
    """Images of single drawings."""
    trunk_steps: int = 400
    """Steps of classification of single drawings by the trunk."""
    photos: int = 15000
    """Captioned images."""
    steps: int = 1150
    """Steps of the image tower on crops and whole images."""
    crops: int = 24
    """Crops per step."""
    wholes: int = 104
    """Whole images per step."""
    side: int = 128
    """Input side of the image tower in pixels."""
    seed: int = 0
    workers: int = 2
    """Processes that render."""


def train(
    out: Path,
    size: str,
    start: Path | None,
    settings: TeacherTraining,
    *,
    held_out: int = 2000,
    text_steps: int = 800,
) -> None:
    """Train a teacher and write it to `out`.

    size: one of SIZES. start: weights of the first stages of the trunk; None initialises them at random.
    held_out: images of single drawings that are not trained on. text_steps: steps of the text tower.
    """
    torch.manual_seed(settings.seed)
    write_tokenizer(out)
    write_config(out, size, settings.side)
    model = open_clip.create_model(f"local-dir:{out}", load_weights=False, precision="fp32")
    vectors = train_trunk(model.visual.trunk, start, settings, held_out)
    train_towers(model, vectors, out, settings, text_steps)


def continue_training(out: Path, before: Path, settings: TeacherTraining, *, text_steps: int = 800) -> None:
    """Train the teacher in the folder `before` further and write it to `out`.

    Use another seed than before, because it selects the images.
    """
    torch.manual_seed(settings.seed)
    out.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "open_clip_config.json"):
        shutil.copyfile(before / name, out / name)
    config = json.loads((out / "open_clip_config.json").read_text())
    config["model_cfg"]["vision_cfg"]["image_size"] = config["preprocess_cfg"]["size"] = settings.side
    (out / "open_clip_config.json").write_text(json.dumps(config, indent=1) + "\n")
    model = open_clip.create_model(f"local-dir:{before}", precision="fp32")
    tokenize = open_clip.get_tokenizer(f"local-dir:{before}")
    with torch.no_grad():
        vectors = model.encode_text(tokenize([f"a photo of a {word}." for word in words()]), normalize=True)
    train_towers(model, vectors, out, settings, text_steps)


def train_towers(
    model: nn.Module, vectors: Tensor, out: Path, settings: TeacherTraining, text_steps: int
) -> None:
    """Train the image tower, then the text tower, towards `vectors`, and write the weights in float16."""
    captioned = render_captioned(settings.photos, part=settings.seed, workers=settings.workers)
    train_image_tower(model, vectors, captioned, settings)
    train_text_tower(model, open_clip.get_tokenizer(f"local-dir:{out}"), vectors, text_steps)
    weights = {name: value.half() if value.is_floating_point() else value
               for name, value in model.state_dict().items()}  # fmt: skip
    save_file(weights, out / "open_clip_model.safetensors", metadata={"format": "pt"})


def train_trunk(trunk: Any, start: Path | None, settings: TeacherTraining, held_out: int) -> Tensor:
    """Train the trunk of the image tower to classify single drawings of all words; return the word vectors.

    start: weights of the first stages of the same trunk, such as those of train_backbone.py; None initialises
    them at random. Raises UserError if they do not fit.
    """
    if start is not None:
        try:
            unexpected = trunk.load_state_dict(load_file(start), strict=False).unexpected_keys
        except RuntimeError:  # tensors of other shapes
            unexpected = ["tensors of other shapes"]
        if unexpected:
            raise UserError(
                f"--start {start}: found {unexpected[0]}, expected the first stages of the image tower; give "
                "weights of the same architecture."
            )
    dataset = SingleDrawings(words(), settings.images, settings.workers, held_out)
    head = nn.Linear(int(trunk.num_features), len(words()))
    train_classifier(
        trunk,
        trunk.forward_features,
        head,
        dataset,
        steps=settings.trunk_steps,
        batch=128,
        seed=settings.seed,
    )
    return word_vectors(trunk, dataset)


@torch.no_grad()
def word_vectors(trunk: Any, dataset: SingleDrawings) -> Tensor:
    """Return (W, WIDTH) unit vectors of the words: principal components of the class means of features."""
    trunk.eval()
    features = torch.cat([pool_features(trunk.forward_features(view)) for view in dataset.training_batches()])
    labels = dataset.labels[: dataset.training]
    means = torch.stack([features[labels == row].mean(0) for row in range(len(words()))])
    means = torch.where(means.isfinite(), means, features.mean(0))  # words without images
    centred = means - means.mean(0)
    axes = torch.linalg.svd(centred, full_matrices=False).Vh[:WIDTH]
    trunk.train()
    vectors = functional.pad(centred @ axes.T, (0, WIDTH - len(axes)))
    return functional.normalize(vectors, dim=1)


def train_image_tower(
    model: Any, vectors: Tensor, captioned: CaptionedPhotos, settings: TeacherTraining
) -> None:
    """Train the image tower towards the fixed unit vectors (W, D) of the words.

    With fixed vectors there is no long start in which the text tower gives the same embedding to every
    sentence (LiT, Zhai et al. 2022, fixes the image tower instead). The loss is the softmax over the words of
    a caption, and the sigmoid of SigLIP over all pairs of image and word, with temperature TAU and no bias.
    """
    optimizer = torch.optim.AdamW(model.visual.parameters(), lr=RATE, weight_decay=0.05)
    for step, (images, truth) in enumerate(_batches(captioned, settings)):
        with torch.autocast("cpu", torch.bfloat16):
            embeddings = model.encode_image(images, normalize=True)
        cosines = embeddings.float() @ vectors.T  # (B, W)
        pairs = functional.binary_cross_entropy_with_logits(
            cosines / TAU, truth, reduction="none", pos_weight=torch.tensor(4.0)
        )
        shares = truth / truth.sum(1, keepdim=True).clamp(min=1)
        softmax = functional.cross_entropy(cosines / SOFTMAX_TAU, shares)
        sigmoid = pairs.sum(1).mean()
        clipped_step(optimizer, softmax + 0.1 * sigmoid, RATE, step, settings.steps, WARMUP)
        if step % 50 == 0:
            sys.stderr.write(
                f"image tower {step}/{settings.steps} softmax {softmax.item():.3f} sigmoid {sigmoid:.3f}\n"
            )


def train_text_tower(model: Any, tokenize: Any, vectors: Tensor, steps: int) -> None:
    """Train the text tower to give a word in any template its vector in `vectors` (W, D)."""
    prompts = torch.stack([tokenize([t.format(word) for word in words()]) for t in TEMPLATES])
    towers = [p for name, p in model.named_parameters() if not name.startswith(("visual.", "logit"))]
    optimizer = torch.optim.AdamW(towers, lr=RATE, weight_decay=0.01)
    for step in range(steps):
        rows = torch.randint(0, len(words()), (128,))
        templates = torch.randint(0, len(TEMPLATES), (128,))
        embeddings = model.encode_text(prompts[templates, rows], normalize=True)
        distance = 1 - (embeddings * vectors[rows]).sum(1).mean()
        softmax = functional.cross_entropy(embeddings @ vectors.T / SOFTMAX_TAU, rows)
        clipped_step(optimizer, distance * 4 + softmax, RATE, step, steps, WARMUP)
        if step % 200 == 0:
            sys.stderr.write(f"text tower {step}/{steps} cosine {1 - distance.item():.3f}\n")


def _batches(captioned: CaptionedPhotos, settings: TeacherTraining) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield normalised images (B, 3, S, S) and their words (B, W) float; crops come before whole images."""
    rng = np.random.default_rng(settings.seed)
    size = (settings.side, settings.side)
    for _ in range(settings.steps):
        rows = rng.integers(0, len(captioned.crop_words), settings.crops)
        photos = rng.integers(0, len(captioned.photos), settings.wholes)
        crops = [np.asarray(captioned.crop(row, settings.side, rng.uniform(-0.08, 0.12, 4))) for row in rows]
        small = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float()
        pixels = captioned.photos[photos][..., rng.permutation(3)]
        whole = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
        if (
            rng.random() < 0.3
        ):  # channels are permuted and images inverted, so colour does not identify a word
            whole = 255 - whole
        if settings.side != whole.shape[-1]:
            whole = functional.interpolate(whole, size=size, mode="bicubic", antialias=True)
        images = torch.cat([small, whole]) / 255
        images = (images - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
        crop_words = functional.one_hot(torch.from_numpy(captioned.crop_words[rows]), len(words())).float()
        caption_words = torch.from_numpy(captioned.caption_words[photos]).float()
        yield images.contiguous(memory_format=torch.channels_last), torch.cat([crop_words, caption_words])


def main() -> None:
    """Train with the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--start", type=Path, help="weights written by cckt.shapeworld.train_backbone")
    parser.add_argument("--continue-from", type=Path, metavar="DIR", help="train this teacher further")
    for field in fields(TeacherTraining):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=int, default=field.default)
    options = vars(parser.parse_args())
    settings = TeacherTraining(**{field.name: options[field.name] for field in fields(TeacherTraining)})
    if options["continue_from"] is not None:
        continue_training(options["out"], options["continue_from"], settings)
    else:
        train(options["out"], options["size"], options["start"], settings)


if __name__ == "__main__":
    main()
