"""Train shapeworld's CLIP: `python -m cckt.shapeworld.train_teacher --out DIR [--size small]`.

The result is a folder in open_clip's own local-dir format. It has read about every word of the language
and seen every thing, in whole photos with captions and in cut-outs with a word, but never a box. A word's
vector is where its things stand in what the trunk sees (principal components of class means), so that
things that look alike have words that lie near: in a space without such a geometry 48 base concepts say
nothing about the other directions, and no student can name a novel thing (README.md has the measurement).
The loss is SigLIP's sigmoid over all (picture, word) pairs at the fixed temperature 0.07 without a bias,
which is the probability METHOD section 3 reads from cosines, plus CLIP's softmax over a caption's words.
"""

from __future__ import annotations

import argparse
import json
import math
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

from cckt.cache_builder.base.errors import UserError
from cckt.shapeworld.reading import TEMPLATES, Reading, read, words
from cckt.shapeworld.train_backbone import School, attend, pooled

SIZES = {  # timm's image tower, the text tower's width and layers
    "small": ("resnet10t", 128, 2),
    "less": ("regnetx_002", 128, 2),
    "tiny": ("test_resnet", 64, 1),
}
WIDTH, CONTEXT = 96, 24
TAU, SHARP, RATE = 0.07, 0.04, 2e-3
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


@dataclass(frozen=True)
class Course:
    """How a teacher is trained. `cutouts` and `wholes` are the pictures of a step, of `side` px."""

    pictures: int = 24000
    lessons: int = 400
    photos: int = 15000
    steps: int = 1150
    cutouts: int = 24
    wholes: int = 104
    side: int = 128
    seed: int = 0
    workers: int = 2


def begin(
    out: Path,
    size: str,
    start: Path | None,
    course: Course,
    *,
    held_out: int = 2000,
    reading_steps: int = 800,
) -> None:
    """Train a teacher from noise, or from `start` (a trunk's first stages), and write it to `out`."""
    torch.manual_seed(course.seed)
    write_tokenizer(out)
    write_config(out, size, course.side)
    model = open_clip.create_model(f"local-dir:{out}", load_weights=False, precision="fp32")
    vectors = go_to_school(model.visual.trunk, start, course, held_out)
    finish(model, vectors, out, course, reading_steps)


def go_on(out: Path, before: Path, course: Course, *, reading_steps: int = 800) -> None:
    """Train the teacher of `before` further, on another volume of photos, and write it to `out`."""
    torch.manual_seed(course.seed)
    out.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "open_clip_config.json"):
        shutil.copyfile(before / name, out / name)
    settings = json.loads((out / "open_clip_config.json").read_text())
    settings["model_cfg"]["vision_cfg"]["image_size"] = settings["preprocess_cfg"]["size"] = course.side
    (out / "open_clip_config.json").write_text(json.dumps(settings, indent=1) + "\n")
    model = open_clip.create_model(f"local-dir:{before}", precision="fp32")
    tokenize = open_clip.get_tokenizer(f"local-dir:{before}")
    with torch.no_grad():
        vectors = model.encode_text(tokenize([f"a photo of a {word}." for word in words()]), normalize=True)
    finish(model, vectors, out, course, reading_steps)


def finish(model: nn.Module, vectors: Tensor, out: Path, course: Course, reading_steps: int) -> None:
    """See, read, and write the weights in float16."""
    library = read(course.photos, part=course.seed, workers=course.workers)
    learn_to_see(model, vectors, library, course)
    learn_to_read(model, open_clip.get_tokenizer(f"local-dir:{out}"), vectors, reading_steps)
    weights = {name: value.half() if value.is_floating_point() else value
               for name, value in model.state_dict().items()}  # fmt: skip
    save_file(weights, out / "open_clip_model.safetensors", metadata={"format": "pt"})


def go_to_school(trunk: Any, start: Path | None, course: Course, held_out: int) -> Tensor:
    """Train the image tower's trunk to tell single things of all words apart; returns the words' vectors.

    start: weights of a like trunk's first stages, such as train_backbone's; None begins from noise.
    """
    if start is not None:
        try:
            foreign = trunk.load_state_dict(load_file(start), strict=False).unexpected_keys
        except RuntimeError:  # tensors of other shapes
            foreign = ["tensors of other shapes"]
        if foreign:
            raise UserError(
                f"--start {start}: found {foreign[0]}, expected the first stages of this very tower."
            )
    school = School(words(), course.pictures, course.workers, held_out)
    head = nn.Linear(int(trunk.num_features), len(words()))
    attend(trunk, trunk.forward_features, head, school, steps=course.lessons, batch=128, seed=course.seed)
    return meanings(trunk, school)


@torch.no_grad()
def meanings(trunk: Any, school: School) -> Tensor:
    """A vector for each word (W, WIDTH), unit: principal components of what `trunk` sees of its pictures."""
    trunk.eval()
    seen = torch.cat([pooled(trunk.forward_features(view)) for view in school.album()])
    labels = school.labels[: school.taught]
    means = torch.stack([seen[labels == row].mean(0) for row in range(len(words()))])
    means = torch.where(means.isfinite(), means, seen.mean(0))  # a word without pictures means nothing yet
    centred = means - means.mean(0)
    axes = torch.linalg.svd(centred, full_matrices=False).Vh[:WIDTH]
    trunk.train()
    vectors = functional.pad(centred @ axes.T, (0, WIDTH - len(axes)))
    return functional.normalize(vectors, dim=1)


def learn_to_see(model: Any, vectors: Tensor, library: Reading, course: Course) -> None:
    """Train the image tower towards `vectors` (W, D), unit, one a word.

    Seeing first and reading after (as LiT does, the other way round) spares the long start in which a text
    tower still says the same for every sentence. The loss: softmax over the words a picture's author used,
    and SigLIP's sigmoid over all (picture, word) pairs at METHOD's temperature and without a bias.
    """
    optimizer = torch.optim.AdamW(model.visual.parameters(), lr=RATE, weight_decay=0.05)
    for step, (pictures, truth) in enumerate(_batches(library, course)):
        with torch.autocast("cpu", torch.bfloat16):
            seen = model.encode_image(pictures, normalize=True)
        cosines = seen.float() @ vectors.T  # (pictures, words)
        pairs = functional.binary_cross_entropy_with_logits(
            cosines / TAU, truth, reduction="none", pos_weight=torch.tensor(4.0)
        )
        shares = truth / truth.sum(1, keepdim=True).clamp(min=1)
        naming = functional.cross_entropy(cosines / SHARP, shares)
        _step(optimizer, naming + 0.1 * pairs.sum(1).mean(), step, course.steps)
        if step % 50 == 0:
            sys.stderr.write(f"seeing {step}/{course.steps} {naming.item():.3f} {pairs.sum(1).mean():.3f}\n")


def learn_to_read(model: Any, tokenize: Any, meanings: Tensor, steps: int) -> None:
    """Train the text tower to say, of a word in any template, its vector in `meanings` (W, D)."""
    prompts = torch.stack([tokenize([t.format(word) for word in words()]) for t in TEMPLATES])
    towers = [p for name, p in model.named_parameters() if not name.startswith(("visual.", "logit"))]
    optimizer = torch.optim.AdamW(towers, lr=RATE, weight_decay=0.01)
    for step in range(steps):
        rows = torch.randint(0, len(words()), (128,))
        templates = torch.randint(0, len(TEMPLATES), (128,))
        said = model.encode_text(prompts[templates, rows], normalize=True)
        far = 1 - (said * meanings[rows]).sum(1).mean()
        naming = functional.cross_entropy(said @ meanings.T / SHARP, rows)
        _step(optimizer, far * 4 + naming, step, steps)
        if step % 200 == 0:
            sys.stderr.write(f"reading {step}/{steps} cosine {1 - far.item():.3f}\n")


def _step(optimizer: torch.optim.Optimizer, loss: Tensor, step: int, steps: int) -> None:
    """One step of AdamW under a short warm-up and a cosine to zero."""
    for group in optimizer.param_groups:
        group["lr"] = RATE * min(1.0, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / steps))
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
    optimizer.step()


def _batches(library: Reading, course: Course) -> Iterator[tuple[Tensor, Tensor]]:
    """Pictures (B, 3, S, S) normalised, cut-outs before whole photos, and (B, W) float: the words of each."""
    rng = np.random.default_rng(course.seed)
    size = (course.side, course.side)
    for _ in range(course.steps):
        rows = rng.integers(0, len(library.meanings), course.cutouts)
        pages = rng.integers(0, len(library.photos), course.wholes)
        cut = [np.asarray(library.cut(row, course.side, rng.uniform(-0.08, 0.12, 4))) for row in rows]
        small = torch.from_numpy(np.stack(cut)).permute(0, 3, 1, 2).float()
        whole = torch.from_numpy(library.photos[pages][..., rng.permutation(3)]).permute(0, 3, 1, 2).float()
        if rng.random() < 0.3:  # colour is no clue: channels change places, and a negative is a photo too
            whole = 255 - whole
        if course.side != whole.shape[-1]:
            whole = functional.interpolate(whole, size=size, mode="bicubic", antialias=True)
        pixels = torch.cat([small, whole]) / 255
        pixels = (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
        named = functional.one_hot(torch.from_numpy(library.meanings[rows]), len(words())).float()
        mentioned = torch.from_numpy(library.mentioned[pages]).float()
        yield pixels.contiguous(memory_format=torch.channels_last), torch.cat([named, mentioned])


def write_tokenizer(out: Path) -> None:
    """A byte-level BPE of 1,024 tokens over the language: it reads any word, the known ones in few tokens."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    corpus = [t.format(word) for word in words() for t in TEMPLATES]
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        special_tokens=["<pad>", "<bos>", "<eos>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 2)]
    )
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(out / "tokenizer.json"), pretty=False)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "bos_token": "<bos>",
                "eos_token": "<eos>", "model_max_length": CONTEXT}  # fmt: skip
    (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n")


def write_config(out: Path, size: str, side: int) -> None:
    """open_clip's description of a teacher of one of SIZES."""
    tower, width, layers = SIZES[size]
    config = {
        "model_cfg": {
            "embed_dim": WIDTH,
            "vision_cfg": {
                "image_size": side,
                "timm_model_name": tower,
                "timm_model_pretrained": False,
                "timm_pool": "avgmax",
                "timm_proj": "linear",
            },
            "text_cfg": {
                "context_length": CONTEXT,
                "vocab_size": 1024,
                "hf_tokenizer_name": "shapeworld",
                "width": width,
                "heads": 4,
                "layers": layers,
                "pool_type": "eos",
                "eos_id": 2,
            },
        },
        "preprocess_cfg": {
            "size": side,
            "mean": MEAN,
            "std": STD,
            "interpolation": "bicubic",
            "resize_mode": "squash",
        },
    }
    (out / "open_clip_config.json").write_text(json.dumps(config, indent=1) + "\n")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--start", type=Path, help="trunk weights of cckt.shapeworld.train_backbone")
    parser.add_argument("--go-on", type=Path, metavar="DIR", help="train the teacher of this folder further")
    for field in fields(Course):
        parser.add_argument(f"--{field.name}", type=int, default=field.default)
    options = vars(parser.parse_args())
    course = Course(**{field.name: options[field.name] for field in fields(Course)})
    if options["go_on"] is not None:
        go_on(options["out"], options["go_on"], course)
    else:
        begin(options["out"], options["size"], options["start"], course)


if __name__ == "__main__":
    main()
