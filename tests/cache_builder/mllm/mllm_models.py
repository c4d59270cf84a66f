"""Tiny multimodal LLMs of many architectures, built from their configs; nothing is downloaded."""

from __future__ import annotations

import logging
import math
from functools import cache
from typing import Any

import numpy as np
import torch
import transformers as hf
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from cckt.cache_builder.mllm.load import Mllm
from cckt.cache_builder.mllm.yes_no_tokens import find_yes_no_tokens

CONCEPTS = (
    "cat",
    "dog",
    "traffic light",
    "bow_(weapon)",
    "zebu",
    "cup",
    "hydroxyl",
    "crème brûlée",
    "a very small teddy bear",
)
"""One to a dozen tokens each."""

_SENTENCES = [
    "Question: Does cat exist in the image? Answer: yes",
    "Question: Does dog exist in the image? Answer: no Yes No YES NO",
    "traffic light teddy bear cup bow weapon very small",
    "user assistant system: Does a cup exist? yes no",
]
_SPECIAL = ["<pad>", "<bos>", "<eos>", "<unk>", "<image>", "<video>", "<soi>", "<eoi>", "<row>"]
CHAT = (
    "{% for m in messages %}{{ m.role }}: {% for c in m.content %}{% if c.type == 'image' %}<image>"
    "{% else %}{{ c.text }}{% endif %}{% endfor %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
logging.getLogger("transformers").setLevel(logging.ERROR)


def tokenizer(bos: bool = True, eos: bool = False, pictures: bool = True) -> Any:
    """A byte-level BPE in which common words are one token, rare ones several."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in _SPECIAL],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    made.train_from_iterator(_SENTENCES * 4, trainer)
    made.post_processor = processors.TemplateProcessing(
        single=" ".join(["<bos>"] * bos + ["$A"] + ["<eos>"] * eos),
        special_tokens=[("<bos>", 1), ("<eos>", 2)],
    )
    special = {"image_token": "<image>", "boi_token": "<soi>", "eoi_token": "<eoi>", "video_token": "<video>"}
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        extra_special_tokens=special if pictures else {},
    )


def photo(seed: int = 0, size: tuple[int, int] = (48, 40)) -> Image.Image:
    """Noise, RGB."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))


@cache
def build(kind: str) -> Mllm:
    """The tiny model of one architecture."""
    return Mllm.of(kind, *build_parts(kind), device="cpu")


def build_parts(kind: str) -> tuple[Any, Any]:
    """Its model and processor; the weights are large enough that masks and positions matter."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, processor = globals()[f"_{kind}"]()
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.data.normal_(0, 1.5 / math.sqrt(parameter.shape[-1]))
    return model, processor


def outspoken() -> tuple[Any, Any]:
    """A LLaVA (model, processor) that says yes or no with nearly all probability: every token raises them."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model, processor = _llava()
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.data.normal_(0, 1.5 / math.sqrt(parameter.shape[-1]))
    tokens = find_yes_no_tokens(processor.tokenizer, "outspoken")
    model.model.language_model.embed_tokens.weight.data[:, 0] = 20
    model.lm_head.weight.data[:, 0] = 0
    model.lm_head.weight.data[[*tokens.yes, *tokens.no], 0] = 2
    return model, processor


def _text(**changes: Any) -> dict[str, Any]:
    return {
        "vocab_size": 432,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **changes,
    }


def _sight(**changes: Any) -> dict[str, Any]:
    return {
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
        **changes,
    }


def _image_processor(kind: Any, **changes: Any) -> Any:
    size = {"height": 32, "width": 32}
    return kind(**{"do_resize": True, "size": size, "do_center_crop": False, **changes})


def _llava(text: Any = None, chat: bool = False) -> tuple[Any, Any]:
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**_sight()),
        text_config=text or hf.LlamaConfig(**_text()),
        image_token_index=4,
        image_token_id=4,
    )
    processor = hf.LlavaProcessor(
        _image_processor(hf.CLIPImageProcessor, size={"shortest_edge": 32}, do_center_crop=True,
                         crop_size={"height": 32, "width": 32}),
        tokenizer(),
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT if chat else None,
    )  # fmt: skip
    return hf.LlavaForConditionalGeneration(config), processor


def _llava_chat() -> tuple[Any, Any]:
    return _llava(chat=True)


def _llava_window() -> tuple[Any, Any]:
    """Every layer of its language model attends to the last 12 tokens."""
    return _llava(hf.MistralConfig(**_text(sliding_window=12)))


def _qwen2_vl(kind: str = "2") -> tuple[Any, Any]:
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 100.0}
    sight = {"depth": 2, "num_heads": 2, "patch_size": 8, "spatial_merge_size": 2, "temporal_patch_size": 2}
    common: dict[str, Any] = {
        "text_config": _text(rope_parameters=rope),
        "image_token_id": 4,
        "video_token_id": 5,
        "vision_start_token_id": 6,
        "vision_end_token_id": 7,
    }
    if kind == "2":
        config = hf.Qwen2VLConfig(
            vision_config={**sight, "embed_dim": 24, "hidden_size": 32, "mlp_ratio": 2}, **common
        )
        model = hf.Qwen2VLForConditionalGeneration(config)
    else:
        sight = {**sight, "hidden_size": 24, "out_hidden_size": 32, "intermediate_size": 32,
                 "window_size": 32, "fullatt_block_indexes": [1]}  # fmt: skip
        model = hf.Qwen2_5_VLForConditionalGeneration(hf.Qwen2_5_VLConfig(vision_config=sight, **common))
    images = hf.Qwen2VLImageProcessor(
        patch_size=8, merge_size=2, size={"shortest_edge": 256, "longest_edge": 4096}
    )
    words = tokenizer(bos=False)
    videos = hf.Qwen2VLVideoProcessor(patch_size=8, merge_size=2)
    processor = hf.Qwen2VLProcessor(
        images, words, videos, chat_template=CHAT.replace("<image>", "<soi><image><eoi>")
    )
    return model, processor


def _qwen2_5_vl() -> tuple[Any, Any]:
    return _qwen2_vl("2.5")


def _idefics3() -> tuple[Any, Any]:
    config = hf.Idefics3Config(
        vision_config={**_sight(), "image_size": 32},
        text_config=hf.LlamaConfig(**_text()),
        image_token_id=4,
        scale_factor=2,
        pad_token_id=0,
    )
    images = hf.Idefics3ImageProcessor(
        size={"longest_edge": 64}, max_image_size={"longest_edge": 32}, do_image_splitting=True
    )
    words = tokenizer()
    processor = hf.Idefics3Processor(images, words, image_seq_len=4, chat_template=CHAT)
    model = hf.Idefics3ForConditionalGeneration(config)
    model.resize_token_embeddings(len(words))
    return model, processor


def _paligemma() -> tuple[Any, Any]:
    config = hf.PaliGemmaConfig(
        vision_config={
            **_sight(),
            "projection_dim": 32,
            "vision_use_head": False,
            "model_type": "siglip_vision_model",
        },
        text_config={**_text(), "model_type": "gemma"},
        image_token_index=4,
        image_token_id=4,
        projection_dim=32,
        hidden_size=32,
    )
    images = _image_processor(hf.SiglipImageProcessor)
    images.image_seq_length = 16
    return hf.PaliGemmaForConditionalGeneration(config), hf.PaliGemmaProcessor(images, tokenizer(bos=False))


def _gemma3() -> tuple[Any, Any]:
    """Sliding-attention layers see the last 12 tokens; image tokens attend to each other."""
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    config = hf.Gemma3Config(
        vision_config={**_sight(), "vision_use_head": False},
        text_config=_text(sliding_window=12, layer_types=kinds, query_pre_attn_scalar=8),
        mm_tokens_per_image=4,
        boi_token_index=6,
        eoi_token_index=7,
        image_token_index=4,
        image_token_id=4,
    )
    images = _image_processor(hf.Gemma3ImageProcessor)
    processor = hf.Gemma3Processor(images, tokenizer(), image_seq_length=4)
    return hf.Gemma3ForConditionalGeneration(config), processor


def _llava_state() -> tuple[Any, Any]:
    """Two of three layers of its language model are convolutions, which carry a state and no keys."""
    return _llava(hf.Lfm2Config(**_text(layer_types=["conv", "full_attention", "conv"])))


def _instructblip() -> tuple[Any, Any]:
    query = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
             "encoder_hidden_size": 24, "vocab_size": 432, "cross_attention_frequency": 1}  # fmt: skip
    text = {"model_type": "t5", "vocab_size": 432, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2,
            "num_decoder_layers": 2, "num_heads": 4, "decoder_start_token_id": 0, "pad_token_id": 0,
            "eos_token_id": 2}  # fmt: skip
    config = hf.InstructBlipConfig(
        vision_config=_sight(),
        qformer_config=query,
        text_config=text,
        num_query_tokens=4,
        image_token_index=4,
    )
    processor = hf.InstructBlipProcessor(
        _image_processor(hf.BlipImageProcessor),
        tokenizer(bos=False, eos=True, pictures=False),
        tokenizer(),
        num_query_tokens=4,
    )
    model = hf.InstructBlipForConditionalGeneration(config)
    model.query_tokens.data.normal_()
    return model, processor


def _florence2() -> tuple[Any, Any]:
    """A BART whose answers must begin with <bos>."""
    sight = {"embed_dim": [8, 16], "depths": [1, 1], "num_heads": [2, 2], "num_groups": [2, 2],
             "patch_size": [7, 3], "patch_stride": [4, 2], "patch_padding": [3, 1],
             "patch_prenorm": [False, True], "window_size": 4, "projection_dim": 32,
             "max_position_embeddings": 16}  # fmt: skip
    text = {"model_type": "bart", "vocab_size": 432, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
            "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "encoder_attention_heads": 4,
            "decoder_attention_heads": 4, "max_position_embeddings": 256, "decoder_start_token_id": 2,
            "forced_bos_token_id": 1, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
    config = hf.Florence2Config(
        vision_config=sight, text_config=text, image_token_id=4, is_encoder_decoder=True
    )
    images = _image_processor(hf.CLIPImageProcessor)
    images.image_seq_length = 17
    model = hf.Florence2ForConditionalGeneration(config)
    model.generation_config.forced_bos_token_id = 1
    model.generation_config.decoder_start_token_id = 2
    return model, hf.Florence2Processor(images, tokenizer(bos=False))
