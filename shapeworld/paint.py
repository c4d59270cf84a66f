"""Colours, textures, backgrounds and masks: how a photo of shapeworld looks before it has things in it.

Colours are float32 RGB in [0, 255]; masks are float32 in [0, 1]; all randomness comes from the generator
handed in, so that a photo follows from its seed and number alone.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Array: TypeAlias = "np.ndarray[tuple[int, ...], np.dtype[np.float32]]"


def colour(rng: np.random.Generator) -> Array:
    """A colour (3,) spread over hue and lightness, greys among them."""
    value = rng.uniform(0, 255, 3)
    if rng.random() < 0.25:  # greys, blacks and whites are as common in the world as any hue
        value = value.mean() + rng.uniform(-12, 12, 3)
    return np.clip(value, 0, 255).astype(np.float32)


def contrasting(rng: np.random.Generator, against: Array, least: float) -> Array:
    """A colour (3,) at least `least` away (L2, RGB) from `against`, or the farthest of eight tries."""
    tries = [colour(rng) for _ in range(8)]
    away = [float(np.linalg.norm(c - against)) for c in tries]
    far_enough = [c for c, d in zip(tries, away, strict=True) if d >= least]
    return far_enough[0] if far_enough else tries[int(np.argmax(away))]


def noise(rng: np.random.Generator, size: tuple[int, int], cells: int) -> Array:
    """Smooth noise (H, W) in [0, 1]: a `cells` x `cells` random grid, enlarged bicubically."""
    grid = Image.fromarray((rng.random((cells, cells)) * 255).astype(np.uint8))
    return np.asarray(grid.resize(size[::-1], Image.Resampling.BICUBIC), dtype=np.float32) / np.float32(255)


def texture(
    rng: np.random.Generator, size: tuple[int, int], first: Array, second: Array, clutter: float = 1.0
) -> Array:
    """A fill (H, W, 3) between two colours: plain, a gradient, stripes, checks or blotches.

    clutter: 1 has all of them at their usual rates, 0 is always plain.
    """
    height, width = size
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    rates = np.array((0.35, 0.25, 0.15, 0.1, 0.15)) * clutter
    kind = rng.choice(5, p=(1 - rates[1:].sum(), *rates[1:]))
    angle = rng.uniform(0, 2 * np.pi)
    along = np.cos(angle) * columns + np.sin(angle) * rows
    mix: Array
    if kind == 0:
        mix = np.zeros(size, np.float32)
    elif kind == 1:
        mix = (along - along.min()) / max(float(np.ptp(along)), 1.0)
    elif kind == 2:
        mix = (np.sin(along * 2 * np.pi / rng.uniform(4, 14)) > 0).astype(np.float32)
    elif kind == 3:
        cell = rng.uniform(4, 12)
        mix = ((rows // cell + columns // cell) % 2).astype(np.float32)
    else:
        mix = noise(rng, size, int(rng.integers(3, 9)))
    return first + mix[..., None] * (second - first)


def background(rng: np.random.Generator, side: int, clutter: float = 1.0) -> Array:
    """A cluttered ground (side, side, 3): blotches at two scales, then planks, discs and wires over them."""
    size = (side, side)
    ground = texture(rng, size, colour(rng), colour(rng), clutter)
    ground += (noise(rng, size, int(rng.integers(3, 7))) - 0.5)[..., None] * rng.uniform(0, 90 * clutter)
    ground += (noise(rng, size, int(rng.integers(12, 40))) - 0.5)[..., None] * rng.uniform(0, 60 * clutter)
    picture = Image.fromarray(np.clip(ground, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for _ in range(rng.integers(0, 1 + round(8 * clutter))):
        ink = tuple(int(v) for v in colour(rng))
        points = rng.uniform(-0.1, 1.1, (rng.integers(3, 6), 2)) * side
        kind = rng.random()
        if kind < 0.35:
            draw.polygon([tuple(p) for p in points], fill=ink)
        elif kind < 0.6:
            corner, extent = points[0], rng.uniform(0.05, 0.4, 2) * side
            draw.ellipse([*corner, *(corner + extent)], fill=ink)
        elif kind < 0.8:
            corner, extent = points[0], rng.uniform(0.05, 0.5, 2) * side
            draw.rectangle([*corner, *(corner + extent)], outline=ink, width=int(rng.integers(1, 5)))
        else:
            draw.line([tuple(p) for p in points], fill=ink, width=int(rng.integers(1, 5)))
    if rng.random() < 0.5:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0, 2)))
    return np.asarray(picture, dtype=np.float32)


def warp(rng: np.random.Generator, drawing: Image.Image, longest: float, tilt: float) -> Array:
    """`drawing` ("L") as a mask (h, w) of about `longest` px: stretched, tilted up to `tilt` degrees, and
    seen in perspective. Cropped to its ink."""
    stretch = np.exp(rng.uniform(-0.18, 0.18))
    scale = longest / max(drawing.width * stretch, drawing.height)
    size = (max(3, round(drawing.width * stretch * scale)), max(3, round(drawing.height * scale)))
    small = drawing.resize(size, Image.Resampling.LANCZOS)
    pad = max(2, int(0.3 * longest))
    canvas = Image.new("L", (size[0] + 2 * pad, size[1] + 2 * pad))
    canvas.paste(small, (pad, pad))
    canvas = canvas.rotate(rng.uniform(-tilt, tilt), Image.Resampling.BICUBIC)
    corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1)]) * canvas.size
    moved = corners + rng.uniform(-0.09, 0.09, (4, 2)) * canvas.size
    canvas = canvas.transform(
        canvas.size, Image.Transform.PERSPECTIVE, _perspective(corners, moved), Image.Resampling.BICUBIC
    )
    box = canvas.point(lambda v: 255 if v > 40 else 0).getbbox() or (0, 0, 3, 3)
    return np.asarray(canvas.crop(box), dtype=np.float32) / np.float32(255)


def _perspective(source: np.ndarray, target: np.ndarray) -> list[float]:
    """The eight coefficients with which PIL maps points of `target` (4, 2) to points of `source` (4, 2)."""
    rows = []
    for (x, y), (u, v) in zip(target, source, strict=True):
        rows.append([x, y, 1, 0, 0, 0, -u * x, -u * y])
        rows.append([0, 0, 0, x, y, 1, -v * x, -v * y])
    return [float(c) for c in np.linalg.solve(np.array(rows), source.reshape(8))]


def halo(mask: Array, reach: int) -> Array:
    """`mask` grown by `reach` px on every side: (h + 2 reach, w + 2 reach)."""
    grown = Image.fromarray((np.pad(mask, reach) * 255).astype(np.uint8))
    return np.asarray(grown.filter(ImageFilter.MaxFilter(2 * reach + 1)), dtype=np.float32) / np.float32(255)
