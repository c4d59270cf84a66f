"""OADP's second class token (docs/method/hd_ovd.md, eqs. 9 and 10) against attention in plain loops."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.teacher.clip import Teacher, load_teacher
from tests.cache_builder.samples import write_teacher

GRID = 4


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    vision = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16}
    return load_teacher(write_teacher(tmp_path_factory.mktemp("vit"), vision_cfg=vision), device="cpu")


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def slow(tower, image: torch.Tensor, foreground: torch.Tensor | None) -> torch.Tensor:
    """One image (3, S, S), token by token; foreground None: the ordinary class token on this grid."""
    patches = F.conv2d(image[None], tower.conv1.weight, stride=8, padding=7)[0]
    table = tower.positional_embedding[1:].T.reshape(1, -1, 2, 2)
    table = F.interpolate(table, size=(GRID, GRID), mode="bilinear", align_corners=False)[0]
    x = [tower.class_embedding + tower.positional_embedding[0]]
    x += [patches[:, i, j] + table[:, i, j] for i in range(GRID) for j in range(GRID)]
    x = [tower.ln_pre(token) for token in x]
    z = x[0].clone()

    def step(block, query, seen, bias):
        mixed = []
        weight, shift = block.attn.in_proj_weight, block.attn.in_proj_bias
        width, heads = len(query), block.attn.num_heads
        size = width // heads
        q = weight[:width] @ block.ln_1(query) + shift[:width]
        keys = [weight[width : 2 * width] @ block.ln_1(t) + shift[width : 2 * width] for t in seen]
        values = [weight[2 * width :] @ block.ln_1(t) + shift[2 * width :] for t in seen]
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            logits = [q[part] @ k[part] / math.sqrt(size) + b for k, b in zip(keys, bias, strict=True)]
            share = torch.stack(logits).softmax(0)
            mixed.append(sum(s * v[part] for s, v in zip(share, values, strict=True)))
        out = query + block.attn.out_proj.weight @ torch.cat(mixed) + block.attn.out_proj.bias
        return out + block.mlp(block.ln_2(out))

    for block in tower.transformer.resblocks:
        if foreground is not None:
            bias = [0.0 if one else -100.0 for one in foreground.flatten().tolist()]
            z = step(block, z, [*x[1:], z], [*bias, 0.0])
        x = [step(block, token, x, [0.0] * len(x)) for token in x]
    return tower.ln_post(x[0] if foreground is None else z) @ tower.proj


@torch.no_grad()
def test_it_equals_attention_token_by_token(teacher: Teacher, pixels: torch.Tensor) -> None:
    assert teacher.two_stream.grid == GRID
    masks = torch.rand(3, GRID, GRID, generator=torch.Generator().manual_seed(1)) < 0.4
    masks[2] = False
    found = teacher.two_stream(pixels, masks)
    for image, mask, ours in zip(pixels, masks, found, strict=True):
        torch.testing.assert_close(ours, slow(teacher._tower, image, mask), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_with_all_patches_as_foreground_it_is_the_ordinary_class_token(teacher, pixels) -> None:
    whole = teacher.two_stream(pixels, torch.ones(3, GRID, GRID, dtype=torch.bool))
    for image, ours in zip(pixels, whole, strict=True):
        torch.testing.assert_close(ours, slow(teacher._tower, image, None), atol=1e-5, rtol=1e-4)
    part = torch.ones(3, GRID, GRID, dtype=torch.bool)
    part[:, 0] = False
    assert (teacher.two_stream(pixels, part) - whole).abs().max() > 1e-3


def test_rows_are_unit_and_a_batch_equals_single_images(teacher: Teacher) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (3, 3, 32, 32), dtype=np.uint8)
    masks = rng.random((3, GRID, GRID)) < 0.5
    rows = teacher.launch_masked(images, masks)()
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    for k in range(3):
        np.testing.assert_allclose(
            teacher.launch_masked(images[k : k + 1], masks[k : k + 1])()[0], rows[k], atol=1e-5
        )


def test_a_teacher_that_is_no_vit_is_refused() -> None:
    with pytest.raises(UserError, match=r"--crop oadp needs .* image tower is a ViT.*--crop square"):
        _ = load_teacher("shapeworld", device="cpu").two_stream


def test_a_vit_without_a_class_token_is_refused(tmp_path: Path) -> None:
    vision = {
        "image_size": 32,
        "layers": 1,
        "width": 32,
        "head_width": 16,
        "patch_size": 16,
        "pool_type": "avg",
    }
    pooled = load_teacher(write_teacher(tmp_path / "vit", vision_cfg=vision), device="cpu")
    with pytest.raises(UserError, match="ViT with a class token"):
        _ = pooled.two_stream
