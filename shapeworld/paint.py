"""Draw colours, textures, backgrounds and masks of shapeworld images.

Colours are float32 RGB in [0, 255], masks are float32 in [0, 1]. All random numbers come from the generator
in the arguments, so an image depends only on its seed and number.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Array: TypeAlias = "np.ndarray[tuple[int, ...], np.dtype[np.float32]]"


def random_colour(rng: np.random.Generator) -> Array:
    """Return a random colour (3,); a quarter of them are nearly grey."""
    value = rng.uniform(0, 255, 3)
    if rng.random() < 0.25:  # greys, blacks and whites are common in photos
        value = value.mean() + rng.uniform(-12, 12, 3)
    return np.clip(value, 0, 255).astype(np.float32)


def contrasting_colour(rng: np.random.Generator, against: Array, least: float) -> Array:
    """Return a colour (3,) at L2 distance `least` or more from `against`, or the farthest of eight tries."""
    tries = [random_colour(rng) for _ in range(8)]
    distances = [float(np.linalg.norm(one - against)) for one in tries]
    far_enough = [one for one, distance in zip(tries, distances, strict=True) if distance >= least]
    return far_enough[0] if far_enough else tries[int(np.argmax(distances))]


def smooth_noise(rng: np.random.Generator, size: tuple[int, int], cells: int) -> Array:
    """Return smooth noise (H, W) in [0, 1]: a random grid of `cells` x `cells`, enlarged bicubically."""
    grid = Image.fromarray((rng.random((cells, cells)) * 255).astype(np.uint8))
    return np.asarray(grid.resize(size[::-1], Image.Resampling.BICUBIC), dtype=np.float32) / np.float32(255)


def texture(
    rng: np.random.Generator, size: tuple[int, int], first: Array, second: Array, clutter: float = 1.0
) -> Array:
    """Return a fill (H, W, 3) of two colours: plain, a gradient, stripes, checks or blotches.

    clutter: 0 gives only plain fills, 1 gives all kinds at their full rates.
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
        mix = smooth_noise(rng, size, int(rng.integers(3, 9)))
    return first + mix[..., None] * (second - first)


def background(rng: np.random.Generator, side: int, clutter: float = 1.0) -> Array:
    """Return a background (side, side, 3): blotches at two scales, then polygons, ellipses and lines."""
    size = (side, side)
    ground = texture(rng, size, random_colour(rng), random_colour(rng), clutter)
    ground += (smooth_noise(rng, size, int(rng.integers(3, 7))) - 0.5)[..., None] * rng.uniform(
        0, 90 * clutter
    )
    ground += (smooth_noise(rng, size, int(rng.integers(12, 40))) - 0.5)[..., None] * rng.uniform(
        0, 60 * clutter
    )
    picture = Image.fromarray(np.clip(ground, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for _ in range(rng.integers(0, 1 + round(8 * clutter))):
        ink = tuple(int(v) for v in random_colour(rng))
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
    """Return a drawing (mode "L") as a mask (h, w), cropped to its ink.

    It is scaled to about `longest` pixels, stretched, rotated by up to `tilt` degrees, and seen in
    perspective.
    """
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
    """Return PIL's eight coefficients that map the points `target` (4, 2) to `source` (4, 2)."""
    rows = []
    for (x, y), (u, v) in zip(target, source, strict=True):
        rows.append([x, y, 1, 0, 0, 0, -u * x, -u * y])
        rows.append([0, 0, 0, x, y, 1, -v * x, -v * y])
    return [float(c) for c in np.linalg.solve(np.array(rows), source.reshape(8))]


def dilate(mask: Array, reach: int) -> Array:
    """Return a mask dilated by `reach` pixels: (h, w) -> (h + 2 reach, w + 2 reach)."""
    grown = Image.fromarray((np.pad(mask, reach) * 255).astype(np.uint8))
    return np.asarray(grown.filter(ImageFilter.MaxFilter(2 * reach + 1)), dtype=np.float32) / np.float32(255)
