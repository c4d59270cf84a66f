"""Names of public Deformable DETR weights, of transformers and of detrex, and ours.

Both libraries have the transformer of `students/deformable_detr/`, under other names. A file is recognised by
a name that only its library has. Each of its tensors goes to one of ours, to a part of one (queries and keys
of self-attention are one tensor here) or to two of ours (positions and contents of the queries are one tensor
there). The class head has no counterpart: it is closed, ours compares with text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Named = list[tuple[str, Callable[[Tensor], Tensor]]]
"""Our names of a tensor of the file, each with what is taken of it. "NAME|0" and "NAME|1" are the two halves
of the rows of NAME."""

TRANSFORMERS, DETREX = "transformers", "detrex"
SIGNS = {
    TRANSFORMERS: re.compile(r"(model\.)?decoder\.layers\.\d+\.encoder_attn\.sampling_offsets\.weight"),
    DETREX: re.compile(r"transformer\.decoder\.layers\.\d+\.attentions\.1\.sampling_offsets\.weight"),
}
"""Library -> a name that only its files have."""


def library_of(names: Mapping[str, Tensor]) -> str:
    """Return the library whose names a file has; "" for another file."""
    return next((one for one, sign in SIGNS.items() if any(map(sign.fullmatch, names))), "")


def with_our_names(
    stored: Mapping[str, Tensor], library: str
) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """Return the tensors of a file under our names, and our name -> the names in the file that it comes
    from."""
    translate = _of_transformers if library == TRANSFORMERS else _of_detrex
    found: dict[str, Tensor] = {}
    origin: dict[str, list[str]] = {}
    halves: dict[str, dict[str, Tensor]] = {}
    for name, value in stored.items():
        for own, part in translate(name):
            target, _, half = own.partition("|")
            origin.setdefault(target, []).append(name)
            if half:
                halves.setdefault(target, {})[half] = part(value)
            else:
                found[target] = part(value)
    steps = len({name.split(".")[2] for name in found if name.startswith("pyramid.steps.")})
    for name in [name for name in found if name.startswith("pyramid.extra.")]:  # detrex counts them from 0
        _, _, level, rest = name.split(".", 3)
        own = f"pyramid.steps.{steps + int(level)}.{rest}"
        found[own], origin[own] = found.pop(name), origin[name]
    for target, parts in halves.items():
        if parts.keys() == {"0", "1"}:
            found[target] = torch.cat([parts["0"], parts["1"]])
    return found, {own: origin[own] for own in found}


def _whole(value: Tensor) -> Tensor:
    return value


def _rows(part: int, parts: int) -> Callable[[Tensor], Tensor]:
    """Return what takes one of several equal groups of rows."""
    return lambda value: value.chunk(parts)[part]


def _columns(part: int) -> Callable[[Tensor], Tensor]:
    """Return what takes one half of the columns."""
    return lambda value: value.chunk(2, 1)[part]


QUERIES: Named = [("query_position.weight", _columns(0)), ("query_content.weight", _columns(1))]
"""Positions and contents of the queries, side by side."""

LAYER_OF_TRANSFORMERS = {
    "encoder": {
        "self_attn.": "attention.",
        "self_attn_layer_norm.": "norm.",
        "mlp.fc": "feed_forward.fc",
        "fc": "feed_forward.fc",
        "final_layer_norm.": "feed_forward.norm.",
    },
    "decoder": {
        "self_attn.q_proj.": "self_attention.qk_proj.|0",
        "self_attn.k_proj.": "self_attention.qk_proj.|1",
        "self_attn.v_proj.": "self_attention.v_proj.",
        "self_attn.o_proj.": "self_attention.o_proj.",
        "self_attn.out_proj.": "self_attention.o_proj.",
        "self_attn_layer_norm.": "self_norm.",
        "encoder_attn.": "attention.",
        "encoder_attn_layer_norm.": "norm.",
        "mlp.fc": "feed_forward.fc",
        "fc": "feed_forward.fc",
        "final_layer_norm.": "feed_forward.norm.",
    },
}
LAYER_OF_DETREX = {
    "encoder": {
        "attentions.0.": "attention.",
        "norms.0.": "norm.",
        "ffns.0.layers.0.0.": "feed_forward.fc1.",
        "ffns.0.layers.1.": "feed_forward.fc2.",
        "norms.1.": "feed_forward.norm.",
    },
    "decoder": {
        "attentions.0.attn.out_proj.": "self_attention.o_proj.",
        "norms.0.": "self_norm.",
        "attentions.1.": "attention.",
        "norms.1.": "norm.",
        "ffns.0.layers.0.0.": "feed_forward.fc1.",
        "ffns.0.layers.1.": "feed_forward.fc2.",
        "norms.2.": "feed_forward.norm.",
    },
}
"""Beginning of the name of a tensor of a layer there -> here; the first one that fits counts."""


def _in_layer(rest: str, names: Mapping[str, str]) -> str | None:
    for there, here in names.items():
        if rest.startswith(there):
            target, half, which = here.partition("|")
            return target + rest.removeprefix(there) + half + which
    return None


def _of_transformers(name: str) -> Named:
    name = name.removeprefix("model.")
    if match := re.fullmatch(r"(encoder|decoder)\.layers\.(\d+)\.(.+)", name):
        side, layer, rest = match.groups()
        own = _in_layer(rest, LAYER_OF_TRANSFORMERS[side])
        return [] if own is None else [(f"transformer.{side}.{layer}.{own}", _whole)]
    if match := re.fullmatch(r"(?:decoder\.)?bbox_embed\.(\d+)\.(layers\..+)", name):
        return [(f"transformer.box_heads.{match[1]}.{match[2]}", _whole)]
    if match := re.fullmatch(r"input_proj\.(\d+\.[01]\..+)", name):
        return [(f"pyramid.steps.{match[1]}", _whole)]
    if name == "query_position_embeddings.weight":
        return QUERIES
    if match := re.fullmatch(r"(level_embed|reference_points\..+)", name):
        return [(f"transformer.{name}", _whole)]
    if match := re.fullmatch(r"enc_output(_norm)?\.(.+)", name):
        return [(f"proposals.{'norm' if match[1] else 'project'}.{match[2]}", _whole)]
    return _of_resnet(name) if name.startswith("backbone.") else []


def _of_detrex(name: str) -> Named:
    name = name.removeprefix("model.")
    inner = name.removeprefix("transformer.")
    if match := re.fullmatch(r"decoder\.layers\.(\d+)\.attentions\.0\.attn\.in_proj_(weight|bias)", inner):
        layer, kind = f"transformer.decoder.{match[1]}.self_attention", match[2]
        both = (f"{layer}.qk_proj.{kind}", lambda value: value[: len(value) // 3 * 2])
        return [both, (f"{layer}.v_proj.{kind}", _rows(2, 3))]
    if match := re.fullmatch(r"(encoder|decoder)\.layers\.(\d+)\.(.+)", inner):
        side, layer, rest = match.groups()
        own = _in_layer(rest, LAYER_OF_DETREX[side])
        return [] if own is None else [(f"transformer.{side}.{layer}.{own}", _whole)]
    if match := re.fullmatch(r"(?:decoder\.)?bbox_embed\.(\d+)\.(layers\..+)", inner):
        return [(f"transformer.box_heads.{match[1]}.{match[2]}", _whole)]
    if match := re.fullmatch(r"neck\.(convs|extra_convs)\.(\d+)\.(conv|norm)\.(.+)", name):
        kind, level, part, rest = match.groups()
        step = f"pyramid.{'steps' if kind == 'convs' else 'extra'}.{level}"
        return [(f"{step}.{0 if part == 'conv' else 1}.{rest}", _whole)]
    if name == "query_embedding.weight":
        return QUERIES
    if inner == "tgt_embed.weight":
        return [("query_content.weight", _whole)]
    if inner == "level_embeds":
        return [("transformer.level_embed", _whole)]
    if inner.startswith("reference_points."):
        return [(f"transformer.{inner}", _whole)]
    if match := re.fullmatch(r"enc_outp(?:ut|out)(_norm)?\.(.+)", inner):
        return [(f"proposals.{'norm' if match[1] else 'project'}.{match[2]}", _whole)]
    return _of_resnet(name) if name.startswith("backbone.") else []


def _of_resnet(name: str) -> Named:
    """Return timm's name of a tensor of a ResNet in the naming of timm, transformers or detectron2.

    Tensors of other backbones keep what follows the last prefix, as timm names them.
    """
    own = re.sub(r"^backbone\.(conv_encoder\.)?(model\.)?(_backbone\.|timm_model\.)?", "", name)
    own = re.sub(r"^(bottom_up|body)\.", "", own)
    norm = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
    rules: list[tuple[str, Callable[[re.Match[str]], str]]] = [
        (r"embedder\.embedder\.convolution\.(.+)", lambda m: f"conv1.{m[1]}"),
        (r"embedder\.embedder\.normalization\.(.+)", lambda m: f"bn1.{m[1]}"),
        (
            r"encoder\.stages\.(\d+)\.layers\.(\d+)\.layer\.(\d+)\.(convolution|normalization)\.(.+)",
            lambda m: (
                f"layer{int(m[1]) + 1}.{m[2]}."
                f"{'conv' if m[4] == 'convolution' else 'bn'}{int(m[3]) + 1}.{m[5]}"
            ),
        ),
        (
            r"encoder\.stages\.(\d+)\.layers\.(\d+)\.shortcut\.(convolution|normalization)\.(.+)",
            lambda m: f"layer{int(m[1]) + 1}.{m[2]}.downsample.{0 if m[3] == 'convolution' else 1}.{m[4]}",
        ),
        (rf"stem\.conv1\.norm\.{norm}", lambda m: f"bn1.{m[1]}"),
        (r"stem\.conv1\.weight", lambda m: "conv1.weight"),
        (
            rf"res(\d)\.(\d+)\.conv(\d)\.norm\.{norm}",
            lambda m: f"layer{int(m[1]) - 1}.{m[2]}.bn{m[3]}.{m[4]}",
        ),
        (r"res(\d)\.(\d+)\.conv(\d)\.weight", lambda m: f"layer{int(m[1]) - 1}.{m[2]}.conv{m[3]}.weight"),
        (
            rf"res(\d)\.(\d+)\.shortcut\.norm\.{norm}",
            lambda m: f"layer{int(m[1]) - 1}.{m[2]}.downsample.1.{m[3]}",
        ),
        (r"res(\d)\.(\d+)\.shortcut\.weight", lambda m: f"layer{int(m[1]) - 1}.{m[2]}.downsample.0.weight"),
    ]
    for pattern, named in rules:
        if match := re.fullmatch(pattern, own):
            own = named(match)
            break
    return [(f"backbone.net.{own}", _whole)]
