"""Build shapeworld's multimodal LLM: the parts of LLaVA in transformers' format, under 11 MB.

A ResNet encodes an image of 128 pixels as 8 x 8 tokens, a projector maps them to the width of a small Llama,
which reads the question and answers. The architecture is FastVLM because its image tower may be
convolutional; a ViT needs far more training images. Each word is one token, so a token and the image cells
that show it can have the same direction. The first attention layer can then find a word in the image by
similarity.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers as hf
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
from torch import nn

from cckt.cache_builder.base.constants import NAME_PROMPT
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.mllm import PROMPT, Mllm
from cckt.shapeworld.captions import words
from cckt.shapeworld.scene import SIDE

TOWER = "resnet10t"
CHANNELS = (64, 128, 256, 320)
"""Channels of the stages; the last one is narrower than in timm, to stay under 10 MB."""
STRIDE = 16
"""Side in pixels of the image cell of one token."""
CELLS = (SIDE // STRIDE) ** 2
WIDTH, LAYERS, HEADS, VOCABULARY = 192, 3, 3, 1024
MEAN, STD = 0.5, 0.25
MAX_BYTES = 11_000_000
"""Largest size of the weights file."""
CHAT = (
    "{% for message in messages %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endfor %}"
)
_SPECIAL = ("<pad>", "<bos>", "<eos>", "<image>")
IMAGE = 3
"""Id of the token <image>."""


def build() -> Mllm:
    """Return the untrained model and its processor on the CPU; weights come from torch's generator."""
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
            intermediate_size=512,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=HEADS,
            max_position_embeddings=2048,
            initializer_range=0.05,
            # Words must match image cells at any distance, so positions rotate slowly.
            rope_parameters={"rope_type": "default", "rope_theta": 1e8},
            tie_word_embeddings=True,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        ),
        image_token_index=IMAGE,
        image_seq_length=CELLS,
        tie_word_embeddings=True,
    )
    processor = hf.LlavaProcessor(
        image_processor(),
        tokenizer(),
        patch_size=STRIDE,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=0,
        chat_template=CHAT,
    )
    model = hf.FastVlmForConditionalGeneration(config)
    initialise_attention(model.model)
    return Mllm.of("shapeworld", model, processor, device="cpu")


def image_processor() -> Any:
    """Return the image processor: larger images are reduced to 128 pixels, smaller ones padded with black.

    A small image is not enlarged, because the tower knows drawings in the size of the images that it was
    trained on: of crops that are enlarged to 128 pixels it recognises none, of padded ones most.
    """
    return hf.DonutImageProcessor(
        do_resize=False,
        do_thumbnail=True,
        do_align_long_axis=False,
        do_pad=True,
        size={"height": SIDE, "width": SIDE},
        image_mean=[MEAN] * 3,
        image_std=[STD] * 3,
        resample=3,
    )


def initialise_attention(body: Any) -> None:
    """Initialise the first layer so that a word attends to similar image cells.

    Equal query and key weights make attention a measure of similarity. The first coordinate is positive for
    words and negative for image cells, and its key is negated, so that words prefer cells to themselves.
    Otherwise each word would attend to itself, with or without the object in the image (measured on synthetic
    cells: no progress in 90 steps).
    """
    attention = body.language_model.layers[0].self_attn
    nn.init.orthogonal_(attention.q_proj.weight, gain=1.4)
    attention.k_proj.weight.data.copy_(attention.q_proj.weight.data)
    attention.k_proj.weight.data[:, 0].neg_()
    kind = 0.5 * body.get_input_embeddings().weight.data[VOCABULARY // 2 :].norm(dim=1).mean()
    body.get_input_embeddings().weight.data[:, 0] = kind
    body.multi_modal_projector.linear_2.weight.data[0] = 0
    body.multi_modal_projector.linear_2.bias.data[0] = -kind


def add_layer(mllm: Mllm) -> Any:
    """Add a decoder layer that changes nothing yet, and return it: the layer that names images."""
    body = mllm.model.model.language_model
    layer = type(body.layers[0])(body.config, len(body.layers))
    layer.self_attn.q_proj.weight.data.mul_(0.1)  # attention begins nearly even over all cells
    nn.init.zeros_(layer.self_attn.o_proj.weight)
    nn.init.zeros_(layer.mlp.down_proj.weight)
    body.layers.append(layer.to(body.layers[0].self_attn.q_proj.weight.dtype))
    for config in (body.config, mllm.model.config.text_config):
        config.num_hidden_layers = len(body.layers)
    return layer


def tokenizer() -> Any:
    """Return a byte-level BPE tokenizer with one token for each word, half of the prompt and `NAME_PROMPT`.

    A question about a known word then adds two tokens to the shared ones: the word and the second half.
    """
    before, after = (part.strip().lower() for part in PROMPT.split("{concept}"))
    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(words()) - 2,
        special_tokens=[AddedToken(token, special=True) for token in _SPECIAL],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    made.train_from_iterator([f"{PROMPT.replace('{concept}', word)} yes no" for word in words()], trainer)
    made.add_tokens(
        [AddedToken(text, lstrip=True, single_word=text in words()) for text in (before, after, *words())]
    )
    made.add_tokens([name_token()])
    made.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        extra_special_tokens={"image_token": "<image>"},
    )


def name_token() -> AddedToken:
    """Return the token of the request to name an image."""
    return AddedToken(NAME_PROMPT.lower(), lstrip=True)


def load_tower(tower: nn.Module, start: Path) -> int:
    """Load the weights of `start` that have the name and shape of a tensor of the tower; return their number.

    start: safetensors of the backbone, or of the teacher, whose trunk is the same network with a wider last
    stage that is not loaded. Raises UserError if the file cannot be read or has no such weights.
    """
    try:
        file = load_file(start)
    except Exception as error:  # safetensors raises its own class
        raise UserError(
            f"--start {start}: cannot be read as safetensors ({error}); give the weights of the backbone or "
            "of a teacher."
        ) from error
    expected = tower.state_dict()
    found = {name.removeprefix("visual.trunk."): value for name, value in file.items()}
    fitting = {
        name: value.to(expected[name].dtype)
        for name, value in found.items()
        if name in expected and value.shape == expected[name].shape
    }
    if not any(name.startswith("layer3") for name in fitting):
        raise UserError(
            f"--start {start}: has no weights of a {TOWER}; give the weights of the backbone or of a teacher."
        )
    tower.load_state_dict(fitting, strict=False)
    return len(fitting)


def write(mllm: Mllm, out: Path) -> None:
    """Save model and processor in transformers' format, weights as float16 safetensors."""
    mllm.model.eval().half().save_pretrained(out)
    mllm.processor.save_pretrained(out)
    for path in out.iterdir():
        path.chmod(0o644)  # safetensors writes files that only their owner can read
    size = sum(path.stat().st_size for path in out.glob("*.safetensors"))
    assert size <= MAX_BYTES, f"expected at most {MAX_BYTES} bytes of weights, found {size}"
