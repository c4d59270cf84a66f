"""Draw boxes and labels on one image (`draw_marks`), or on a page of several (`contact_sheet`).

The colour of a concept depends only on its name, so it is the same in every image. Novel concepts have a star
and a dashed outline on white.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from cckt.detector.drawing.colours import DIM, INK, PAPER, colour_of, ink_on, oklch
from cckt.detector.drawing.outlines import outline
from cckt.detector.drawing.place_labels import Label, place_labels
from cckt.detector.drawing.text import fit_text, font
from cckt.detector.inference.prediction import Prediction

STAR = "★"
LEGEND = oklch(0.56, 0.18, 255.0)
SMALL = 512
"""Smallest long side in px: smaller images are enlarged by an integer factor."""
LARGE = 2048
"""Largest long side in px: larger images are reduced."""


@dataclass(frozen=True)
class Mark:
    """A box to draw: box_xyxy in pixels of the image; score None for ground truth."""

    box_xyxy: tuple[float, float, float, float]
    name: str
    score: float | None = None
    novel: bool = False

    @property
    def text(self) -> str:
        """Text of the label."""
        return self.short if self.score is None else f"{self.short} {self.score:.2f}"

    @property
    def short(self) -> str:
        """Text of the label without the score, for small spaces."""
        return f"{STAR} {self.name}" if self.novel else self.name


def marks_of(prediction: Prediction) -> list[Mark]:
    """Return the marks of a prediction, one per object (`Prediction.distinct`)."""
    shown = prediction.distinct()
    columns = zip(shown.boxes_xyxy.tolist(), shown.names, shown.scores.tolist(), shown.novel, strict=True)
    return [Mark(tuple(box), name, score, bool(novel)) for box, name, score, novel in columns]


def draw_prediction(photo: Image.Image, prediction: Prediction) -> Image.Image:
    """Return the image with its detections drawn."""
    return draw_marks(photo, marks_of(prediction))


def draw_marks(
    photo: Image.Image, marks: Sequence[Mark], *, legend: bool = True, scale: float | None = None
) -> Image.Image:
    """Return a copy of the image with its marks, and a legend below it if a mark is novel.

    scale: output pixels per image pixel; None enlarges small images by an integer factor (128 px becomes 512)
    and reduces very large ones. Boxes are clipped to the image.
    """
    canvas = enlarge(photo, scale)
    ratio = canvas.width / photo.width
    size = _text_size(canvas)
    face = font(size)
    line = max(2.0, size / 6)
    boxes = [_clip(tuple(ratio * v for v in mark.box_xyxy), canvas.size) for mark in marks]
    # Large boxes first, so that small ones inside them stay visible.
    for at in sorted(range(len(marks)), key=lambda i: -_area(boxes[i])):
        outline(canvas, boxes[at], colour_of(marks[at].name), line, dashed=marks[at].novel)
    order = sorted(range(len(marks)), key=lambda i: (not marks[i].novel, -(marks[i].score or 1.0)))
    texts = [(marks[at].text, marks[at].short) for at in order]
    names = [marks[at].name for at in order]
    labels = place_labels([boxes[at] for at in order], texts, face, canvas.size, line, names)
    for at, label in reversed([(at, label) for at, label in zip(order, labels, strict=True) if label]):
        _draw_label(canvas, label, colour_of(marks[at].name), marks[at].novel, face)
    if legend and any(mark.novel for mark in marks):
        canvas = _with_legend(canvas, any(not mark.novel for mark in marks))
    return canvas


def enlarge(photo: Image.Image, scale: float | None = None) -> Image.Image:
    """Return a copy of the image as RGB, at the size at which it is drawn."""
    long = max(photo.size)
    if scale is None:
        scale = -(-SMALL // long) if long < SMALL else min(1.0, LARGE / long)
    size = (max(1, round(photo.width * scale)), max(1, round(photo.height * scale)))
    rgb = photo.convert("RGB")
    return rgb.resize(size, Image.Resampling.LANCZOS) if size != rgb.size else rgb.copy()


def _text_size(canvas: Image.Image) -> int:
    return int(min(30, max(13, round(max(canvas.size) / 42))))


def _area(box: tuple[float, float, float, float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _clip(box: tuple[float, ...], size: tuple[int, int]) -> tuple[float, float, float, float]:
    width, height = size
    left, top = min(max(box[0], 0), width - 1), min(max(box[1], 0), height - 1)
    return left, top, max(left + 1, min(box[2], width - 1)), max(top + 1, min(box[3], height - 1))


def _draw_label(
    canvas: Image.Image, label: Label, colour: tuple[int, int, int], novel: bool, face: ImageFont.FreeTypeFont
) -> None:
    left, top, right, bottom = label.box
    radius = (bottom - top) / 4
    size = (round(right - left), round(bottom - top))
    fine = 4
    mask = Image.new("L", (size[0] * fine, size[1] * fine), 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, mask.width - 1, mask.height - 1), radius * fine, fill=255)
    mask = mask.resize(size, Image.Resampling.LANCZOS)
    at = (round(left), round(top))
    if novel:
        border = max(1, round(size[1] / 14))
        canvas.paste(Image.new("RGB", size, PAPER), at, mask)
        inner = (max(1, size[0] - 2 * border), max(1, size[1] - 2 * border))
        canvas.paste(Image.new("RGB", inner, colour), (at[0] + border, at[1] + border), mask.resize(inner))
    else:
        canvas.paste(Image.new("RGB", size, colour), at, mask)
    draw = ImageDraw.Draw(canvas)
    draw.text(
        ((left + right) / 2, (top + bottom) / 2), label.text, font=face, fill=ink_on(colour), anchor="mm"
    )


def _with_legend(canvas: Image.Image, base_too: bool) -> Image.Image:
    strip = legend_strip(canvas.width, _text_size(canvas), base_too)
    page = Image.new("RGB", (canvas.width, canvas.height + strip.height), PAPER)
    page.paste(canvas, (0, 0))
    page.paste(strip, (0, canvas.height))
    return page


def legend_strip(width: int, size: int, base_too: bool = True) -> Image.Image:
    """Return a legend of the outlines, `width` px wide; its entries wrap if it is narrow."""
    items = [(True, f"{STAR} novel: never annotated in training")]
    if base_too:
        items.append((False, "base: annotated in training"))
    face = font(max(11, round(size * 0.85)))
    pad, row = size, round(size * 2.0)
    places: list[tuple[int, int]] = []
    x, y = pad, 0
    for _, text in items:
        wide = round(face.getlength(text)) + 3 * size
        if x > pad and x + wide > width:
            x, y = pad, y + row
        places.append((x, y))
        x += wide + pad
    strip = Image.new("RGB", (width, y + row), PAPER)
    draw = ImageDraw.Draw(strip)
    for (novel, text), (x, y) in zip(items, places, strict=True):
        box = (float(x), y + row * 0.22, float(x + 2.2 * size), y + row * 0.78)
        outline(strip, box, LEGEND, max(2.0, size / 7), dashed=novel, halo=novel)
        draw.text((x + 2.6 * size, y + row / 2), text, font=face, fill=DIM, anchor="lm")
    return strip


@dataclass(frozen=True)
class Tile:
    """One image of a contact sheet."""

    photo: Image.Image
    marks: Sequence[Mark]
    caption: str = ""


def contact_sheet(
    tiles: Sequence[Tile], *, columns: int = 3, cell: int = 420, title: str = "", subtitle: str = ""
) -> Image.Image:
    """Return a page of images, each fitted into a cell of `cell` px, with captions and one legend.

    Without tiles the page holds the sentence "No photo to show."
    """
    gap, size = round(cell / 18), max(13, round(cell / 26))
    cells = [_tile(tile, cell, size) for tile in tiles]
    columns = max(1, min(columns, len(cells)))
    rows = [cells[at : at + columns] for at in range(0, len(cells), columns)]
    tile_width = cells[0].width if cells else cell
    width = columns * tile_width + (columns + 1) * gap
    head = _heading(width, gap, size, title, subtitle if cells else (subtitle or "No photo to show."))
    novel = any(mark.novel for tile in tiles for mark in tile.marks)
    base = any(not mark.novel for tile in tiles for mark in tile.marks)
    foot = legend_strip(width, size, base) if novel else Image.new("RGB", (width, gap // 2), PAPER)
    height = head.height + sum(max(c.height for c in row) + gap for row in rows) + foot.height
    page = Image.new("RGB", (width, height), PAPER)
    page.paste(head, (0, 0))
    y = head.height
    for row in rows:
        for column, picture in enumerate(row):
            page.paste(picture, (gap + column * (tile_width + gap), y))
        y += max(c.height for c in row) + gap
    page.paste(foot, (0, y))
    return page


def _tile(tile: Tile, cell: int, size: int) -> Image.Image:
    scale = min(cell / tile.photo.width, cell / tile.photo.height)
    # Drawn at its final size, because the size of labels depends on it.
    picture = draw_marks(tile.photo, tile.marks, legend=False, scale=scale)
    band = round(size * 1.9) if tile.caption else 0
    page = Image.new("RGB", (cell, picture.height + band), PAPER)
    page.paste(picture, ((cell - picture.width) // 2, 0))
    ImageDraw.Draw(page).text(
        (cell / 2, picture.height + band / 2),
        fit_text(tile.caption, font(size), cell),
        font=font(size),
        fill=DIM,
        anchor="mm",
    )
    return page


def _heading(width: int, gap: int, size: int, title: str, subtitle: str) -> Image.Image:
    big, small = font(round(size * 1.7), bold=True), font(size)
    lines = [(title, big, INK), (subtitle, small, DIM)]
    lines = [line for line in lines if line[0]]
    height = gap + sum(round(face.size * 1.6) for _, face, _ in lines)
    head = Image.new("RGB", (width, height), PAPER)
    draw, y = ImageDraw.Draw(head), float(gap)
    for text, face, colour in lines:
        draw.text((gap, y), fit_text(text, face, width - 2 * gap), font=face, fill=colour)
        y += face.size * 1.5
    return head
