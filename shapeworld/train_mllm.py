"""Train shapeworld's multimodal LLM: `python -m shapeworld.train_mllm --out DIR [--start FILE]`.

A tiny model of LLaVA's build in transformers' own format: a ResNet looks (8 x 8 tokens of a photo of 128 px),
a projector translates, a Llama of four layers reads the question and answers. FastVLM is the architecture
whose tower may be convolutional, which learns on few pictures what a ViT needs millions for. It knows the
whole language, as the teacher does, from photos with captions, and never sees a box.

Three stages, each from easy to hard: single things with a word; whole photos with their words; yes/no
questions about photos, many of a photo in one row behind the shared picture, exactly as
`cache_builder.mllm` asks them later.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
from PIL import Image
from safetensors.torch import load_file
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from torch import Tensor, nn
from torch.nn import functional

from cache_builder.errors import UserError
from cache_builder.existence import existence_report
from cache_builder.mllm import PROMPT, Mllm, Questions, Scorer, load_mllm
from cache_builder.mllm.packing import packed_mask
from shapeworld.examine import EXAM_SEED
from shapeworld.pictographs import CONCEPTS, NOVEL
from shapeworld.reading import Reading, read, words
from shapeworld.scene import SIDE, photo
from shapeworld.train_backbone import School, attend

TOWER = "resnet10t"
CHANNELS = (64, 128, 256, 320)  # of its stages; the last one narrower than timm's, to stay under 10 MB
STRIDE = 16  # px of a photo that one token sees
WIDTH, LAYERS, HEADS, VOCABULARY = 160, 4, 5, 1536
MEAN, STD = 0.5, 0.25
LARGEST = 10_000_000  # bytes of safetensors
VOLUME = 7  # of the reading world; the teacher reads volume 0
CHAT = (
    "{% for message in messages %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endfor %}"
)
_SPECIAL = ("<pad>", "<bos>", "<eos>", "<image>")
_IMAGE = 3


def train(
    out: Path,
    start: Path | None,
    *,
    pictures: int,
    lessons: int,
    photos: int,
    looks: int,
    steps: int,
    batch: int,
    questions: int,
    exam: int,
    seed: int,
    workers: int,
) -> dict[str, Any]:
    """Train a model, write it to `out`, load it from there and examine it; returns the exam's figures.

    start: weights of a like tower to begin from: the backbone's, or a teacher's. pictures, lessons: the first
    stage's pictures and steps. photos, looks: the second's; its photos are the third's too. steps, batch,
    questions: the third's steps, photos a step, and questions a photo. exam: held-out photos.
    """
    torch.manual_seed(seed)
    mllm = build()
    tower = mllm.model.model.vision_tower.timm_model
    mllm.model.train().requires_grad_(True)
    begin_from(tower, start)
    if lessons:
        head = nn.Linear(CHANNELS[-1], len(words()))
        school = School(words(), pictures, workers)
        attend(tower, tower.forward_features, head, school, steps=lessons, batch=128, seed=seed)
    library = read(photos, part=VOLUME, workers=workers)
    look(tower, library, steps=looks, batch=4 * batch, seed=seed)
    answer(mllm, library, steps=steps, batch=batch, questions=questions, seed=seed)
    write(mllm, out)
    return examine(out, exam)


def build() -> Mllm:
    """The untrained model with its processor."""
    config = hf.FastVlmConfig(
        vision_config=hf.TimmWrapperConfig(
            architecture=TOWER,
            do_pooling=False,
            hidden_size=CHANNELS[-1],
            model_args={"channels": list(CHANNELS), "output_stride": STRIDE},
        ),
        text_config=hf.LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            intermediate_size=WIDTH * 3,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=HEADS,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        ),
        image_token_index=_IMAGE,
        image_seq_length=(SIDE // STRIDE) ** 2,
        tie_word_embeddings=True,
    )
    size = {"height": SIDE, "width": SIDE}
    images = hf.CLIPImageProcessor(
        size=size, do_center_crop=False, image_mean=[MEAN] * 3, image_std=[STD] * 3, resample=3
    )
    processor = hf.LlavaProcessor(
        images,
        tokenizer(),
        patch_size=STRIDE,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=0,
        chat_template=CHAT,
    )
    return Mllm.of("shapeworld", hf.FastVlmForConditionalGeneration(config), processor, device="cpu")


def tokenizer() -> Any:
    """A byte-level BPE over the language: it reads any word, the known ones in a token or two."""
    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(token, special=True) for token in _SPECIAL],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    made.train_from_iterator([f"{PROMPT.replace('{concept}', word)} yes no" for word in words()], trainer)
    made.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        extra_special_tokens={"image_token": "<image>"},
    )


def begin_from(tower: nn.Module, start: Path | None) -> None:
    """Take over every weight of `start` (safetensors) that has a name and shape of the tower's."""
    if start is None:
        return
    own = tower.state_dict()
    found = {name.removeprefix("visual.trunk."): value.float() for name, value in load_file(start).items()}
    fitting = {name: v for name, v in found.items() if name in own and v.shape == own[name].shape}
    if not fitting:
        raise UserError(f"--start {start}: has no weight of a {TOWER}; give a backbone's or a teacher's.")
    tower.load_state_dict(fitting, strict=False)


def look(tower: Any, library: Reading, *, steps: int, batch: int, seed: int) -> None:
    """Train the tower to see what a photo's caption says somewhere among its 64 cells, nobody says where."""
    head = nn.Conv2d(CHANNELS[-1], len(words()), 1)
    assert head.bias is not None
    nn.init.constant_(head.bias, -6.0)  # as rare as a word is in a cell
    optimizer = torch.optim.AdamW([*tower.parameters(), *head.parameters()], weight_decay=0.05)
    for step, pages in enumerate(_pages(library, steps, batch, seed)):
        with torch.autocast("cpu", torch.bfloat16):
            cells = head(tower.forward_features(pixels(library, pages)))
        seen = cells.float().flatten(2).logsumexp(2)
        truth = torch.from_numpy(library.mentioned[pages]).float()
        weight = torch.tensor(4.0)
        loss = functional.binary_cross_entropy_with_logits(seen, truth, pos_weight=weight, reduction="sum")
        _step(optimizer, loss / batch, step, steps, 2e-3)
        if step % 50 == 0:
            sys.stderr.write(f"looking {step}/{steps} loss {loss.item() / batch:.3f}\n")


def answer(mllm: Mllm, library: Reading, *, steps: int, batch: int, questions: int, seed: int) -> None:
    """Train the whole model to answer; loss on the answer alone, over the whole vocabulary."""
    model = mllm.model
    about = Questions(mllm, words()).about(Image.new("RGB", (SIDE, SIDE)))
    suffixes = [suffix["input_ids"][0] for suffix in about.suffixes]
    prefix = about.prefix["input_ids"][0]
    yes, no = (mllm.tokenizer.encode(f" {word}", add_special_tokens=False)[0] for word in ("yes", "no"))
    slow = list(model.model.vision_tower.parameters())
    fast = [p for p in model.parameters() if all(p is not q for q in slow)]
    groups: list[dict[str, Any]] = [{"params": slow, "scale": 0.3}, {"params": fast}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.05)
    rng = np.random.default_rng((seed, 1))
    for step, pages in enumerate(_pages(library, steps, batch, seed + 1)):
        asked = [some_words(rng, library.mentioned[page], questions) for page in pages]
        ids, mask, positions, last = packed(prefix, [[suffixes[word] for word in row] for row in asked])
        with torch.autocast("cpu", torch.bfloat16):
            hidden = model.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                pixel_values=pixels(library, pages),
                use_cache=False,
            ).last_hidden_state
            logits = model.lm_head(torch.take_along_dim(hidden, last[..., None], dim=1)).float()
        there = torch.from_numpy(np.take_along_axis(library.mentioned[pages], np.array(asked), axis=1))
        loss = functional.cross_entropy(logits.flatten(0, 1), torch.where(there, yes, no).flatten())
        _step(optimizer, loss, step, steps, 2e-3)
        if step % 50 == 0:
            right = ((logits[..., yes] > logits[..., no]) == there).float().mean()
            sys.stderr.write(f"answering {step}/{steps} loss {loss.item():.3f} right {right:.3f}\n")


def some_words(rng: np.random.Generator, mentioned: np.ndarray[Any, Any], count: int) -> list[int]:
    """`count` words to ask about: up to a third of them there, the rest absent, half of these concepts."""
    there = rng.permutation(np.flatnonzero(mentioned))[: count // 3]
    absent = np.flatnonzero(~mentioned)
    near = rng.permutation(absent[absent < len(CONCEPTS)])[: (count - len(there)) // 2]
    far = rng.permutation(np.setdiff1d(absent, near))[: count - len(there) - len(near)]
    chosen: list[int] = rng.permutation(np.concatenate([there, near, far])).tolist()
    return chosen


def packed(prefix: Tensor, rows: list[list[Tensor]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Each photo's questions in one row behind the prefix (P,), all rows of equally many questions K.

    Returns ids (B, L), additive mask (B, 1, L, L), positions (B, L) and the index of each question's last
    token (B, K).
    """
    before, longest = len(prefix), max(sum(map(len, row)) for row in rows)
    ids = torch.zeros(len(rows), before + longest, dtype=torch.long)
    ids[:, :before] = prefix
    positions = torch.arange(before + longest).repeat(len(rows), 1)
    least = torch.finfo(torch.float32).min
    mask = torch.full((len(rows), 1, before + longest, before + longest), least)
    mask.diagonal(dim1=2, dim2=3).zero_()
    mask[:, 0, :before, :before] = torch.full((before, before), least).triu(1)
    last = []
    for at, row in enumerate(rows):
        lengths = [len(suffix) for suffix in row]
        end = before + sum(lengths)
        ids[at, before:end] = torch.cat(row)
        positions[at, before:end] = before + torch.cat([torch.arange(length) for length in lengths])
        block = packed_mask(lengths, before, before, None, torch.float32, torch.device("cpu"))
        mask[at, :, before:end, :end] = block[0]
        last.append(before + torch.tensor(lengths).cumsum(0) - 1)
    return ids, mask, positions, torch.stack(last)


def pixels(library: Reading, pages: np.ndarray[Any, Any]) -> Tensor:
    """(B, 3, 128, 128) float32 of photos: channels shuffled and sometimes inverted, for colour is no clue."""
    view = torch.from_numpy(library.photos[pages]).permute(0, 3, 1, 2)[:, torch.randperm(3)]
    view = torch.where(torch.rand(len(pages), 1, 1, 1) < 0.3, 255 - view, view)
    return ((view.float() / 255 - MEAN) / STD).contiguous(memory_format=torch.channels_last)


def write(mllm: Mllm, out: Path) -> None:
    """Save model and processor in transformers' format, weights as float16."""
    mllm.model.eval().half().save_pretrained(out)
    mllm.processor.save_pretrained(out)
    for path in out.iterdir():
        path.chmod(0o644)  # safetensors writes for its owner alone
    size = sum(path.stat().st_size for path in out.glob("*.safetensors"))
    assert size <= LARGEST, f"{size} bytes of weights, over {LARGEST}"


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
        scores = scorer.score(questions.about(Image.fromarray(page.pixels)))
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


def _pages(library: Reading, steps: int, batch: int, seed: int) -> Iterator[np.ndarray[Any, Any]]:
    rng = np.random.default_rng((seed, 2))
    for _ in range(steps):
        yield rng.integers(0, len(library.photos), batch)


def _step(optimizer: torch.optim.Optimizer, loss: Tensor, step: int, steps: int, rate: float) -> None:
    """One step of AdamW under a short warm-up and a cosine to zero."""
    for group in optimizer.param_groups:
        warm = min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / steps))
        group["lr"] = rate * warm * group.get("scale", 1.0)
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
    optimizer.step()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", type=Path, help="weights of the backbone, or of a teacher")
    parser.add_argument("--pictures", type=int, default=32000)
    parser.add_argument("--lessons", type=int, default=600)
    parser.add_argument("--photos", type=int, default=12000)
    parser.add_argument("--looks", type=int, default=500)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--questions", type=int, default=16)
    parser.add_argument("--exam", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    options = vars(parser.parse_args())
    figures = train(options.pop("out"), options.pop("start"), **options)
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
