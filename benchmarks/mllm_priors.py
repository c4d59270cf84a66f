"""Measure how much time the shared prefix saves in scoring the priors of a multimodal LLM.

Claim, on 2 cores: 12 times as fast as single questions, 5 times as fast as plain batches, probabilities equal
to 1e-4. By arithmetic, plain batches process 28 times as many tokens.
Peers: one question at a time by transformers' `generate`; plain batches of whole questions.

    python benchmarks/mllm_priors.py [--concepts 80] [--layers 12] [--hidden 640] [--side 336] [--threads 2]

The model is an untrained LLaVA of 100M parameters with 576 image tokens; the questions are about 80 concepts.
Prints one JSON line:

    speedup_vs_single, speedup_vs_batched   time of the peers / our time
    prefill_tokens_ratio                    tokens in plain batches / our tokens, counted at the first layer
    max_abs_difference                      largest difference of probabilities to single questions
    spread                                  range of the probabilities
    seconds, tokens                         of each way
    parameters, concepts, prefix_tokens, threads
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import transformers as hf
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from cckt.cache_builder.mllm import Mllm, Questions, Scorer
from cckt.cache_builder.mllm.questions import PROMPT, ImageQuestions
from cckt.cache_builder.mllm.strategies import PackedSuffixes, WholePrompts, reference_logits

CONCEPTS = """\
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant,
stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe,
backpack, umbrella, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball
bat, baseball glove, skateboard, surfboard, tennis racket, bottle, wine glass, cup, fork, knife,
spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair,
couch, potted plant, bed, dining table, toilet, tv, laptop, mouse, remote, keyboard, cell phone,
microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear, hair drier,
toothbrush
"""
PATCH = 14


def untrained(layers: int, hidden: int, side: int) -> Mllm:
    """Return an untrained model with the architecture of LLaVA-1.5: a small ViT, a Llama, 32,000 tokens."""
    torch.manual_seed(0)
    sight = hf.CLIPVisionConfig(
        hidden_size=256, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=4, image_size=side,
        patch_size=PATCH,
    )  # fmt: skip
    words = hf.LlamaConfig(
        vocab_size=32_000, hidden_size=hidden, intermediate_size=hidden * 14 // 5, num_hidden_layers=layers,
        num_attention_heads=hidden // 64, num_key_value_heads=hidden // 64, max_position_embeddings=2048,
    )  # fmt: skip
    model = hf.LlavaForConditionalGeneration(
        hf.LlavaConfig(vision_config=sight, text_config=words, image_token_index=3)
    )
    for parameter in model.parameters():  # large weights, so that the answers differ
        if parameter.ndim >= 2:
            parameter.data.normal_(0, 1.5 / parameter.shape[-1] ** 0.5)
    images = hf.CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    processor = hf.LlavaProcessor(
        images, tokenizer(), patch_size=PATCH, vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )  # fmt: skip
    return Mllm.of(f"untrained {layers}x{hidden}", model, processor, device="cpu")


def tokenizer() -> Any:
    """Return a byte-level BPE trained on the questions; names have as many tokens as in large models."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    special = [AddedToken(token, special=True) for token in ("<pad>", "<bos>", "<eos>", "<image>")]
    trainer = trainers.BpeTrainer(
        vocab_size=1400,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    sentences = [f"{PROMPT.replace('{concept}', name)} yes no Yes No" for name in names()]
    made.train_from_iterator(sentences * 3, trainer)
    made.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>",
        extra_special_tokens={"image_token": "<image>"},
    )  # fmt: skip


def names() -> list[str]:
    """Return the 80 concepts of COCO."""
    return [" ".join(name.split()) for name in CONCEPTS.split(",")]


def timed(mllm: Mllm, work: Callable[[], np.ndarray]) -> tuple[np.ndarray, float, int]:
    """Return the probabilities, the seconds, and the number of tokens that the first layer processed."""
    tokens = [0]

    def count(module: Any, args: tuple[torch.Tensor, ...]) -> None:
        tokens[0] += args[0].shape[:2].numel()

    handle = mllm.model.model.language_model.layers[0].register_forward_pre_hook(count)
    began = time.perf_counter()
    with torch.inference_mode():
        found = work()
    seconds = time.perf_counter() - began
    handle.remove()
    return found, seconds, tokens[0]


def one_at_a_time(mllm: Mllm, questions: ImageQuestions) -> np.ndarray:
    """Return probabilities (C,), one question at a time."""
    logits = torch.stack([reference_logits(mllm, questions, row) for row in range(len(questions))])
    return mllm.yes_no.compare(logits)[0].sigmoid().numpy()


def main() -> None:
    """Build and warm up, time the three ways, and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--concepts", type=int, default=80)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--hidden", type=int, default=640)
    parser.add_argument("--side", type=int, default=336, help="pixels; 336 gives 576 image tokens")
    parser.add_argument("--batch", type=int, default=8, help="whole questions in a plain batch")
    parser.add_argument("--block", type=int, default=None, help="suffixes in a block of our scorer")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    mllm = untrained(options.layers, options.hidden, options.side)
    concepts = names()[: options.concepts]
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 255, (options.side, options.side, 3), dtype=np.uint8))
    about = Questions(mllm, concepts).for_image(photo)
    ours = Scorer(mllm, strategy=PackedSuffixes, block=options.block)
    plain = Scorer(mllm, strategy=WholePrompts, block=options.batch)
    for scorer in (ours, plain):  # the first pass allocates memory and selects kernels
        scorer.score(about, range(min(4, len(concepts))))
    together, our_seconds, our_tokens = timed(mllm, lambda: ours.score(about).probability)
    _, batch_seconds, batch_tokens = timed(mllm, lambda: plain.score(about).probability)
    single_results, single_seconds, single_tokens = timed(mllm, lambda: one_at_a_time(mllm, about))
    figures = {
        "benchmark": "mllm_priors",
        "speedup_vs_single": round(single_seconds / our_seconds, 2),
        "speedup_vs_batched": round(batch_seconds / our_seconds, 2),
        "prefill_tokens_ratio": round(batch_tokens / our_tokens, 2),
        "max_abs_difference": float(np.abs(together - single_results).max()),
        "spread": round(float(np.ptp(single_results)), 4),
        "parameters": sum(parameter.numel() for parameter in mllm.model.parameters()),
        "concepts": len(concepts),
        "prefix_tokens": about.prefix["input_ids"].shape[1],
        "seconds": {"ours": our_seconds, "batched": batch_seconds, "single": single_seconds},
        "tokens": {"ours": our_tokens, "batched": batch_tokens, "single": single_tokens},
        "threads": options.threads,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
