"""The transformer against the library transformers with the same weights, and reference parts."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import Tensor, nn
from transformers import DeformableDetrConfig, DeformableDetrModel, TimmBackboneConfig

from cckt.detector.students.deformable_detr.transformer import (
    BoxHead,
    DeformableTransformer,
    SelfAttention,
    cell_centres,
    inverse_sigmoid,
    sine_positions,
)

HIDDEN, HEADS, LEVELS, POINTS, FFN, QUERIES = 32, 4, 4, 3, 48, 7


def reference_model() -> DeformableDetrModel:
    """A small Deformable DETR of transformers, with box refinement and noise on every weight."""
    config = DeformableDetrConfig(
        backbone_config=TimmBackboneConfig(backbone="test_resnet", out_indices=[2, 3, 4]),
        d_model=HIDDEN,
        encoder_layers=2,
        decoder_layers=3,
        encoder_ffn_dim=FFN,
        decoder_ffn_dim=FFN,
        encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS,
        num_feature_levels=LEVELS,
        encoder_n_points=POINTS,
        decoder_n_points=POINTS,
        num_queries=QUERIES,
        with_box_refine=True,
        disable_custom_kernels=True,
    )
    torch.manual_seed(0)
    model = DeformableDetrModel(config).eval()
    model.decoder.bbox_embed = nn.ModuleList([BoxHead(HIDDEN, from_point=False) for _ in range(3)])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def own_model(reference: DeformableDetrModel) -> DeformableTransformer:
    """Return our transformer with the weights of the reference."""
    model = DeformableTransformer(HIDDEN, HEADS, LEVELS, POINTS, FFN, 0.1, 2, 3).eval()
    names = {
        "self_attention.": "self_attn.",
        "self_norm.": "self_attn_layer_norm.",
        "feed_forward.fc": "mlp.fc",
        "feed_forward.norm.": "final_layer_norm.",
        "box_heads.": "decoder.bbox_embed.",
    }
    source = reference.state_dict()
    state = {}
    for name, value in model.state_dict().items():
        key = name
        for own_name, reference_name in names.items():
            key = key.replace(own_name, reference_name)
        side, _, rest = key.partition(".")
        if side in ("encoder", "decoder") and not rest.startswith("bbox_embed"):
            attention = "self_attn" if side == "encoder" else "encoder_attn"
            rest = rest.replace(".attention.", f".{attention}.")
            rest = re.sub(r"^(\d+)\.norm\.", rf"\1.{attention}_layer_norm.", rest)
            key = f"{side}.layers.{rest}"
        if "qk_proj" in key:
            state[name] = torch.cat([source[key.replace("qk_proj", part)] for part in ("q_proj", "k_proj")])
        else:
            state[name] = source[key]
        assert state[name].shape == value.shape, name
    model.load_state_dict(state)
    return model


def padding_mask(sizes: list[tuple[int, int]], height: int, width: int) -> Tensor:
    mask = torch.ones(len(sizes), height, width, dtype=torch.bool)
    for row, (h, w) in enumerate(sizes):
        mask[row, :h, :w] = False
    return mask


FULL, PADDED = [(96, 128), (96, 128)], [(96, 100), (61, 128)]


@pytest.mark.parametrize(
    ("sizes", "masked"),
    [(FULL, False), (FULL, True), (PADDED, True)],
    ids=["no mask", "mask without padding", "padding"],
)
def test_equals_transformers_deformable_detr(sizes: list[tuple[int, int]], masked: bool) -> None:
    reference = reference_model()
    model = own_model(reference)
    images = torch.randn(2, 3, 96, 128)
    padding = padding_mask(sizes, 96, 128)
    with torch.no_grad():
        expected = reference(images, pixel_mask=(~padding).long())
        features = reference.backbone(images, (~padding).long())
        pyramid = [project(one) for project, (one, _) in zip(reference.input_proj, features, strict=False)]
        pyramid.append(reference.input_proj[3](features[-1][0]))
        masks = [
            nn.functional.interpolate(padding[None].float(), size=one.shape[-2:])[0].bool() for one in pyramid
        ]
        encoded = model.encode(pyramid, masks if masked else None)
        position, content = reference.query_position_embeddings.weight.expand(2, -1, -1).chunk(2, -1)
        states, boxes = model.decode(encoded, content, position)
    assert expected.intermediate_hidden_states.shape == (2, 3, QUERIES, HIDDEN)
    torch.testing.assert_close(encoded.memory, expected.encoder_last_hidden_state, atol=1e-5, rtol=1e-5)
    for layer in range(3):
        torch.testing.assert_close(
            states[layer], expected.intermediate_hidden_states[:, layer], atol=1e-5, rtol=1e-5
        )
        torch.testing.assert_close(
            boxes[layer], expected.intermediate_reference_points[:, layer], atol=1e-5, rtol=1e-5
        )


def test_gradients_equal_transformers() -> None:
    reference = reference_model()
    model = own_model(reference)
    images, padding = torch.randn(2, 3, 64, 64), padding_mask([(64, 40), (50, 64)], 64, 64)
    expected = reference(images, pixel_mask=(~padding).long())
    weight = torch.randn_like(expected.intermediate_hidden_states)
    (expected.intermediate_hidden_states * weight).sum().backward()
    with torch.no_grad():
        features = reference.backbone(images, (~padding).long())
        pyramid = [project(one) for project, (one, _) in zip(reference.input_proj, features, strict=False)]
        pyramid.append(reference.input_proj[3](features[-1][0]))
        masks = [
            nn.functional.interpolate(padding[None].float(), size=one.shape[-2:])[0].bool() for one in pyramid
        ]
    position, content = reference.query_position_embeddings.weight.detach().expand(2, -1, -1).chunk(2, -1)
    states, _ = model.decode(model.encode(pyramid, masks), content, position)
    (states * weight.transpose(0, 1)).sum().backward()
    pairs = [
        (model.level_embed, reference.level_embed),
        (model.reference_points.weight, reference.reference_points.weight),
        (
            model.encoder[0].attention.value_proj.weight,
            reference.encoder.layers[0].self_attn.value_proj.weight,
        ),
        (
            model.encoder[0].attention.sampling_offsets.weight,
            reference.encoder.layers[0].self_attn.sampling_offsets.weight,
        ),
        (
            model.decoder[1].attention.attention_weights.bias,
            reference.decoder.layers[1].encoder_attn.attention_weights.bias,
        ),
    ]
    for own, reference in pairs:
        assert reference.grad is not None
        scale = reference.grad.abs().max()
        torch.testing.assert_close(own.grad / scale, reference.grad / scale, atol=1e-4, rtol=1e-4)


def test_sine_positions_of_one_cell_by_hand() -> None:
    keep = torch.zeros(1, 3, 4)
    keep[0, :2, :3] = 1
    found = sine_positions(keep, 8)[0].view(3, 4, 8)
    y, x = (1.5 / (2 + 1e-6)) * 2 * math.pi, (0.5 / (3 + 1e-6)) * 2 * math.pi
    expected = []
    for angle in (y, x):
        for power in (0, 1):
            frequency = 10000 ** (2 * power / 4)
            expected += [math.sin(angle / frequency), math.cos(angle / frequency)]
    torch.testing.assert_close(found[1, 0], torch.tensor(expected))


def test_cell_centres_without_padding_are_centres_on_every_level() -> None:
    found = cell_centres([(1, 2), (1, 1)], torch.ones(1, 2, 2))
    assert found.shape == (1, 3, 2, 2)
    assert found[0, :, 0].tolist() == [[0.25, 0.5], [0.75, 0.5], [0.5, 0.5]]
    assert torch.equal(found[:, :, 0], found[:, :, 1])


def test_cell_centres_follow_the_unpadded_share() -> None:
    # An image fills half the width of level 0 and all of level 1: its middle is at 0.25 there, here at 0.5.
    ratios = torch.tensor([[[0.5, 1.0], [1.0, 1.0]]])
    found = cell_centres([(1, 2), (1, 1)], ratios)
    assert found[0, 0].tolist() == [[0.25, 0.5], [0.5, 0.5]]


def test_inverse_sigmoid_is_finite_at_0_and_1() -> None:
    x = torch.tensor([0.0, 0.2, 0.9, 1.0])
    found = inverse_sigmoid(x)
    torch.testing.assert_close(found[1:3].sigmoid(), x[1:3])
    assert bool(found.isfinite().all())


def test_self_attention_equals_torch_multihead() -> None:
    torch.manual_seed(1)
    own, reference = SelfAttention(16, 4, 0.0), nn.MultiheadAttention(16, 4, batch_first=True)
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([own.qk_proj.weight, own.v_proj.weight]))
        reference.out_proj.weight.copy_(own.o_proj.weight)
    x, position = torch.randn(2, 5, 16), torch.randn(2, 5, 16)
    mask = torch.rand(5, 5) > 0.4
    mask.fill_diagonal_(True)
    torch.testing.assert_close(own(x, position), reference(x + position, x + position, x)[0])
    expected = reference(x + position, x + position, x, attn_mask=~mask)[0]
    torch.testing.assert_close(own(x, position, mask), expected)


def test_without_encoder_layers_the_pyramid_is_unchanged() -> None:
    model = DeformableTransformer(32, 4, 1, 2, 32, 0.0, 0, 1)
    level = torch.randn(2, 32, 3, 2)
    assert torch.equal(model.encode([level], None).memory, level.flatten(2).transpose(1, 2))


def test_no_gradient_flows_through_references_between_layers() -> None:
    model = DeformableTransformer(32, 4, 1, 2, 32, 0.0, 0, 2)
    content, position = torch.randn(1, 4, 32), torch.randn(1, 4, 32)
    for head in model.box_heads:
        nn.init.normal_(head.layers[2].weight)
    _, boxes = model.decode(model.encode([torch.randn(1, 32, 4, 4)], None), content, position)
    boxes[1].sum().backward()
    assert not bool(model.box_heads[0].layers[2].weight.grad.any())
    assert bool(model.box_heads[1].layers[2].weight.grad.any())


def test_boxes_of_learned_references_start_at_an_eighth_of_the_image() -> None:
    torch.manual_seed(0)
    model = DeformableTransformer(32, 4, 1, 2, 32, 0.0, 0, 3).eval()
    content, position = torch.randn(1, 5, 32), torch.randn(1, 5, 32)
    with torch.no_grad():
        _, boxes = model.decode(model.encode([torch.randn(1, 32, 4, 4)], None), content, position)
        points = model.reference_points(position).sigmoid()
    # The first layer sets the size to sigmoid(-2); new heads change neither the centre nor, later, the size.
    for layer in boxes:
        torch.testing.assert_close(layer[..., :2], points)
        torch.testing.assert_close(layer[..., 2:], torch.full((1, 5, 2), 1 / (1 + math.exp(2))))


def test_new_heads_leave_given_boxes_unchanged() -> None:
    torch.manual_seed(0)
    model = DeformableTransformer(32, 4, 1, 2, 32, 0.0, 0, 2, boxes_given=True).eval()
    content, position = torch.randn(1, 5, 32), torch.randn(1, 5, 32)
    first_boxes = torch.rand(1, 5, 4) * 0.5 + 0.2
    with torch.no_grad():
        encoded = model.encode([torch.randn(1, 32, 4, 4)], None)
        _, boxes = model.decode(encoded, content, position, first_boxes=first_boxes)
    for layer in boxes:
        torch.testing.assert_close(layer, first_boxes)
