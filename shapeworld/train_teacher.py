"""Train shapeworld's CLIP: `python -m shapeworld.train_teacher --out DIR [--size small]`.

The result is a folder in open_clip's own local-dir format. It has read about every word of the language
and seen every thing, in whole photos with captions and in cut-outs with a word, but never a box. The loss
is SigLIP's sigmoid over all (picture, word) pairs at the fixed temperature 0.07 without a bias, which is
the probability METHOD section 3 reads from cosines, plus CLIP's softmax over the words for cut-outs.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import open_clip
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from shapeworld.reading import TEMPLATES, Reading, read, words

SIZES = {  # vision layers, vision width, text width
    "tiny": ([1, 1, 1, 1], 12, 64),
    "less": ([1, 1, 1, 1], 16, 96),
    "small": ([1, 2, 2, 1], 24, 128),
}
SIDE, WIDTH, CONTEXT, TAU = 96, 128, 24, 0.07
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def train(
    out: Path, size: str, *, photos: int, steps: int, cutouts: int, wholes: int, seed: int, workers: int
) -> dict[str, float]:
    """Train a teacher and write it to `out`; returns its figures on held-out pictures.

    A step sees `cutouts` cut-outs and `wholes` whole photos beside every word in a random template.
    """
    torch.manual_seed(seed)
    write_tokenizer(out)
    write_config(out, size)
    model = open_clip.create_model(f"local-dir:{out}", load_weights=False, precision="fp32")
    tokenize = open_clip.get_tokenizer(f"local-dir:{out}")
    library = read(photos, part=seed, workers=workers)
    prompts = [tokenize([t.format(word) for word in words()]) for t in TEMPLATES]
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: _rate(k, steps))
    for step, (pictures, meanings, mentioned) in enumerate(_batches(library, steps, cutouts, wholes, seed)):
        with torch.autocast("cpu", torch.bfloat16):
            seen = model.encode_image(pictures, normalize=True).float()
            read_as = model.encode_text(prompts[step % len(prompts)], normalize=True).float()
        logits = seen @ read_as.T / TAU  # (pictures, words)
        truth = torch.cat([functional.one_hot(meanings, len(words())).float(), mentioned])
        pairs = functional.binary_cross_entropy_with_logits(
            logits, truth, reduction="none", pos_weight=torch.tensor(4.0)
        )
        naming = functional.cross_entropy(logits[: len(meanings)] * (TAU / 0.04), meanings)
        loss = pairs.sum(1).mean() * 0.2 + naming
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            sys.stderr.write(f"step {step}/{steps} loss {loss.item():.3f} naming {naming.item():.3f}\n")
    model.eval()
    weights = {name: value.half() if value.is_floating_point() else value
               for name, value in model.state_dict().items()}  # fmt: skip
    save_file(weights, out / "open_clip_model.safetensors", metadata={"format": "pt"})
    return {}


def _rate(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / steps))


def _batches(
    library: Reading, steps: int, cutouts: int, wholes: int, seed: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Pictures (cutouts + wholes, 3, S, S) normalised, meanings (cutouts,), mentioned (wholes, W) float."""
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        rows = rng.integers(0, len(library.meanings), cutouts)
        pages = rng.integers(0, len(library.photos), wholes)
        cut = [np.asarray(library.cut(row, SIDE, rng.uniform(-0.08, 0.12, 4))) for row in rows]
        cut_pixels = torch.from_numpy(np.stack(cut)).permute(0, 3, 1, 2).float()
        whole = torch.from_numpy(library.photos[pages]).permute(0, 3, 1, 2).float()
        whole_pixels = functional.interpolate(whole, size=(SIDE, SIDE), mode="bicubic", antialias=True)
        pixels = torch.cat([cut_pixels, whole_pixels]) / 255
        pixels = (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
        yield (
            pixels.contiguous(memory_format=torch.channels_last),
            torch.from_numpy(library.meanings[rows]),
            torch.from_numpy(library.mentioned[pages]).float(),
        )


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


def write_config(out: Path, size: str) -> None:
    """open_clip's description of a teacher of one of SIZES."""
    layers, width, text_width = SIZES[size]
    config = {
        "model_cfg": {
            "embed_dim": WIDTH,
            "vision_cfg": {"image_size": SIDE, "layers": layers, "width": width, "head_width": 64},
            "text_cfg": {
                "context_length": CONTEXT,
                "vocab_size": 1024,
                "hf_tokenizer_name": "shapeworld",
                "width": text_width,
                "heads": 4,
                "layers": 2,
                "pool_type": "eos",
                "eos_id": 2,
            },
        },
        "preprocess_cfg": {
            "size": SIDE,
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
    parser.add_argument("--photos", type=int, default=16000)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--cutouts", type=int, default=160)
    parser.add_argument("--wholes", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    options = vars(parser.parse_args())
    train(options.pop("out"), options.pop("size"), **options)


if __name__ == "__main__":
    main()
