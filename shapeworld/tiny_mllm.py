"""shapeworld's multimodal LLM as it is built: LLaVA's parts in transformers' own format, under 10 MB.

A ResNet looks (8 x 8 tokens of a photo of 128 px), a projector translates, a small Llama reads the question
and answers. FastVLM is the architecture whose tower may be convolutional, which learns from few pictures what
a ViT needs millions for. Every word of the language is one token, so that what a cell of the photo shows and
the word for it can be one direction: the first layer then finds a word by looking for itself.
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

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.mllm import PROMPT, Mllm
from cckt.shapeworld.reading import words
from cckt.shapeworld.scene import SIDE

TOWER = "resnet10t"
CHANNELS = (64, 128, 256, 320)  # of its stages; the last one narrower than timm's, to stay under 10 MB
STRIDE = 16  # px of a photo that one token sees
CELLS = (SIDE // STRIDE) ** 2
WIDTH, LAYERS, HEADS, VOCABULARY = 192, 3, 3, 1024
MEAN, STD = 0.5, 0.25
LARGEST = 10_000_000  # bytes of safetensors
CHAT = (
    "{% for message in messages %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endfor %}"
)
_SPECIAL = ("<pad>", "<bos>", "<eos>", "<image>")
IMAGE = 3


def build() -> Mllm:
    """The untrained model with its processor, on the CPU, its weights drawn from torch's generator."""
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
            # Words look for pictures by what they are, wherever these stand: turn slowly.
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
    model = hf.FastVlmForConditionalGeneration(config)
    begin_alike(model.model)
    return Mllm.of("shapeworld", model, processor, device="cpu")


def begin_alike(body: Any) -> None:
    """Start where a word looks for the cells of the picture that are like it, and only if none is at itself.

    Equal weights of query and key make the first layer's attention a comparison. The first coordinate says
    whether a token is a word (above 0) or a cell (below), and unlike attracts there: without it every word
    would find itself, and what it took from there would be the same with and without the thing (measured on
    made-up cells: nothing was learnt in 90 steps).
    """
    attention = body.language_model.layers[0].self_attn
    nn.init.orthogonal_(attention.q_proj.weight, gain=1.4)
    attention.k_proj.weight.data.copy_(attention.q_proj.weight.data)
    attention.k_proj.weight.data[:, 0].neg_()
    kind = 0.5 * body.get_input_embeddings().weight.data[VOCABULARY // 2 :].norm(dim=1).mean()
    body.get_input_embeddings().weight.data[:, 0] = kind
    body.multi_modal_projector.linear_2.weight.data[0] = 0
    body.multi_modal_projector.linear_2.bias.data[0] = -kind


def tokenizer() -> Any:
    """A byte-level BPE that reads anything, with a token for each word and each half of METHOD's question.

    A question about a known word is two tokens behind the shared ones: the word, and the rest.
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
    made.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        extra_special_tokens={"image_token": "<image>"},
    )


def begin_from(tower: nn.Module, start: Path) -> int:
    """Take over the weights of `start` (safetensors) that have a name and shape of the tower's; how many.

    start: a backbone's file, or a teacher's, whose trunk is the same network: its last stage is wider, and
    stays behind. Raises UserError where it has none.
    """
    try:
        file = load_file(start)
    except Exception as fault:  # safetensors has a kind of its own
        raise UserError(
            f"--start {start}: cannot be read as safetensors ({fault}); name a file that can."
        ) from fault
    own = tower.state_dict()
    found = {name.removeprefix("visual.trunk."): value for name, value in file.items()}
    fitting = {
        name: v.to(own[name].dtype) for name, v in found.items() if name in own and v.shape == own[name].shape
    }
    if not any(name.startswith("layer3") for name in fitting):
        raise UserError(f"--start {start}: has no weights of a {TOWER}; give a backbone's or a teacher's.")
    tower.load_state_dict(fitting, strict=False)
    return len(fitting)


def write(mllm: Mllm, out: Path) -> None:
    """Save model and processor in transformers' format, weights as float16 safetensors."""
    mllm.model.eval().half().save_pretrained(out)
    mllm.processor.save_pretrained(out)
    for path in out.iterdir():
        path.chmod(0o644)  # safetensors writes for its owner alone
    size = sum(path.stat().st_size for path in out.glob("*.safetensors"))
    assert size <= LARGEST, f"{size} bytes of weights, over {LARGEST}"
