"""Pictures of detections that a person likes to look at, by Pillow alone.

`draw_marks` puts boxes and labels on one photo; `contact_sheet` sets many on a page. A concept has the same
colour in every picture, for it follows from its name. Novel concepts are starred, their outline dashed over
white.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from cckt.detector.drawing.paint import DIM, INK, PAPER, colour_of, font, ink_on, oklch, outline
from cckt.detector.drawing.place_labels import Chip, place_chips
from cckt.detector.inference.prediction import Prediction

STAR = "★"
LEGEND = oklch(0.56, 0.18, 255.0)
SMALL = 512
"""Photos whose long side is shorter are drawn larger, by a whole number, until it is at least this."""
LARGE = 2048
"""Photos whose long side is longer are drawn smaller."""


@dataclass(frozen=True)
class Mark:
    """One box on a photo: box_xyxy in pixels of the photo; score None for ground truth."""

    box_xyxy: tuple[float, float, float, float]
    name: str
    score: float | None = None
    novel: bool = False

    @property
    def text(self) -> str:
        """What the label says."""
        return self.short if self.score is None else f"{self.short} {self.score:.2f}"

    @property
    def short(self) -> str:
        """What it says where there is little room."""
        return f"{STAR} {self.name}" if self.novel else self.name


def marks_of(prediction: Prediction) -> list[Mark]:
    """A prediction's finds as marks: one for each thing, not every name of every box."""
    shown = prediction.distinct()
    columns = zip(shown.boxes_xyxy.tolist(), shown.names, shown.scores.tolist(), shown.novel, strict=True)
    return [Mark(tuple(box), name, score, bool(novel)) for box, name, score, novel in columns]


def draw_prediction(photo: Image.Image, prediction: Prediction) -> Image.Image:
    """A photo with what was found in it."""
    return draw_marks(photo, marks_of(prediction))


def draw_marks(
    photo: Image.Image, marks: Sequence[Mark], *, legend: bool = True, scale: float | None = None
) -> Image.Image:
    """A photo with its marks, and a legend under it if a mark is novel.

    scale: output pixels per photo pixel; None enlarges small photos by a whole number (128 px becomes 512)
    and shrinks very large ones. Boxes may stand out of the photo; they are cut at its edge. The photo is not
    changed.
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
    chips = place_chips([boxes[at] for at in order], texts, face, canvas.size, line, names)
    for at, chip in reversed([(at, chip) for at, chip in zip(order, chips, strict=True) if chip]):
        _draw_chip(canvas, chip, colour_of(marks[at].name), marks[at].novel, face)
    if legend and any(mark.novel for mark in marks):
        canvas = _with_legend(canvas, any(not mark.novel for mark in marks))
    return canvas


def enlarge(photo: Image.Image, scale: float | None = None) -> Image.Image:
    """The photo as RGB at the size it is drawn at."""
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


def _draw_chip(
    canvas: Image.Image, chip: Chip, colour: tuple[int, int, int], novel: bool, face: ImageFont.FreeTypeFont
) -> None:
    left, top, right, bottom = chip.box
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
        ((left + right) / 2, (top + bottom) / 2), chip.text, font=face, fill=ink_on(colour), anchor="mm"
    )


def _with_legend(canvas: Image.Image, base_too: bool) -> Image.Image:
    strip = legend_strip(canvas.width, _text_size(canvas), base_too)
    page = Image.new("RGB", (canvas.width, canvas.height + strip.height), PAPER)
    page.paste(canvas, (0, 0))
    page.paste(strip, (0, canvas.height))
    return page


def legend_strip(width: int, size: int, base_too: bool = True) -> Image.Image:
    """What the outlines mean, `width` px wide; lines are broken where it is narrow."""
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
    """One photo of a contact sheet."""

    photo: Image.Image
    marks: Sequence[Mark]
    caption: str = ""


def contact_sheet(
    tiles: Sequence[Tile], *, columns: int = 3, cell: int = 420, title: str = "", subtitle: str = ""
) -> Image.Image:
    """A page of photos, each fitted into a cell of `cell` px, with captions and one legend.

    No tile gives a page that says so.
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
    # Labels are as large as their picture allows, so a picture is drawn at the size at which it is shown.
    picture = draw_marks(tile.photo, tile.marks, legend=False, scale=scale)
    band = round(size * 1.9) if tile.caption else 0
    page = Image.new("RGB", (cell, picture.height + band), PAPER)
    page.paste(picture, ((cell - picture.width) // 2, 0))
    ImageDraw.Draw(page).text(
        (cell / 2, picture.height + band / 2),
        _fit(tile.caption, font(size), cell),
        font=font(size),
        fill=DIM,
        anchor="mm",
    )
    return page


def _fit(text: str, face: ImageFont.FreeTypeFont, width: float) -> str:
    """The text, its end replaced by an ellipsis if it is too long."""
    if face.getlength(text) <= width:
        return text
    while text and face.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


def _heading(width: int, gap: int, size: int, title: str, subtitle: str) -> Image.Image:
    big, small = font(round(size * 1.7), bold=True), font(size)
    lines = [(title, big, INK), (subtitle, small, DIM)]
    lines = [line for line in lines if line[0]]
    height = gap + sum(round(face.size * 1.6) for _, face, _ in lines)
    head = Image.new("RGB", (width, height), PAPER)
    draw, y = ImageDraw.Draw(head), float(gap)
    for text, face, colour in lines:
        draw.text((gap, y), _fit(text, face, width - 2 * gap), font=face, fill=colour)
        y += face.size * 1.5
    return head
