"""Write the config and the tokenizer of shapeworld's CLIP in open_clip's local-dir format."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from cckt.shapeworld.captions import TEMPLATES, words

SIZES = {  # name in timm of the image tower; width and layers of the text tower
    "small": ("resnet10t", 128, 2),
    "less": ("regnetx_002", 128, 2),
    "tiny": ("test_resnet", 64, 1),
}
WIDTH, CONTEXT = 96, 24
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def write_tokenizer(out: Path) -> None:
    """Write a byte-level BPE tokenizer of 1,024 tokens, trained on all words; it encodes any text."""
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
    """Write open_clip's config of a teacher of one of SIZES. side: input side in pixels."""
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
