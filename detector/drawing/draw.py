"""Draw boxes and labels on one image (`draw_marks`).

The colour of a concept depends only on its name, so it is the same in every image. Novel concepts have a star
and a dashed outline on white. Where the annotations are known, a right detection has a check mark, a wrong
one a cross, a white label and a diagonal through its box, and a missed object a dotted outline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

from cckt.detector.drawing.colours import INK, PAPER, Colour, colour_of, ink_on
from cckt.detector.drawing.legend import STAR, SYMBOLS, Verdict, legend_strip
from cckt.detector.drawing.outlines import cross_out, outline
from cckt.detector.drawing.place_labels import Label, label_size, place_labels
from cckt.detector.drawing.text import font
from cckt.detector.inference.prediction import Prediction

SMALL = 512
"""Smallest long side in px: smaller images are enlarged by an integer factor."""
LARGE = 2048
"""Largest long side in px: larger images are reduced."""
MARGIN_WIDTH = 640
"""Largest width in px to which a narrow image is extended, so that its labels are not cut off."""


@dataclass(frozen=True)
class Mark:
    """A box to draw: box_xyxy in pixels of the image; score None for ground truth.

    verdict: whether a detection is right or wrong, or an annotated object is missed; "" if that is not known.
    """

    box_xyxy: tuple[float, float, float, float]
    name: str
    score: float | None = None
    novel: bool = False
    verdict: Verdict = ""

    @property
    def text(self) -> str:
        """Text of the label."""
        return self.short if self.score is None else f"{self.short} {self.score:.2f}"

    @property
    def short(self) -> str:
        """Text of the label without the score, for small spaces."""
        symbols = SYMBOLS[self.verdict] + (STAR if self.novel else "")
        return f"{symbols} {self.name}" if symbols else self.name


def marks_of(prediction: Prediction) -> list[Mark]:
    """Return the marks of a prediction, one per object (`Prediction.distinct`)."""
    shown = prediction.distinct()
    columns = zip(shown.boxes_xyxy.tolist(), shown.names, shown.scores.tolist(), shown.novel, strict=True)
    return [Mark(tuple(box), name, score, bool(novel)) for box, name, score, novel in columns]


def draw_prediction(photo: Image.Image, prediction: Prediction) -> Image.Image:
    """Return the image with its detections drawn."""
    return draw_marks(photo, marks_of(prediction))


def draw_marks(
    photo: Image.Image,
    marks: Sequence[Mark],
    *,
    legend: bool = True,
    scale: float | None = None,
    widest: int = MARGIN_WIDTH,
) -> Image.Image:
    """Return a copy of the image with its marks, and a legend below it if one is needed.

    scale: output pixels per image pixel; None enlarges small images by an integer factor (128 px becomes 512)
    and reduces very large ones. Boxes are clipped to the image. An image that is too narrow or too low for a
    label is extended on the right, up to `widest` px, and below.
    """
    canvas = enlarge(photo, scale)
    ratio, drawn = canvas.width / photo.width, canvas.size
    size = _text_size(canvas)
    face = font(size)
    line = max(2.0, size / 6)
    boxes = [_clip(tuple(ratio * v for v in mark.box_xyxy), drawn) for mark in marks]
    canvas = _with_room(canvas, marks, face, widest)
    # Large boxes first, so that small ones inside them stay visible.
    for at in sorted(range(len(marks)), key=lambda i: -_area(boxes[i])):
        mark, colour = marks[at], colour_of(marks[at].name)
        missed = mark.verdict == "missed"
        outline(canvas, boxes[at], colour, line, dashed=mark.novel and not missed, dotted=missed)
        if mark.verdict == "wrong":
            cross_out(canvas, boxes[at], colour, line)
    order = sorted(range(len(marks)), key=lambda i: _importance(marks[i]))
    texts = [(marks[at].text, marks[at].short) for at in order]
    keys = [f"{marks[at].verdict} {marks[at].name}" for at in order]
    labels = place_labels([boxes[at] for at in order], texts, face, canvas.size, line, keys)
    for at, label in reversed([(at, label) for at, label in zip(order, labels, strict=True) if label]):
        _draw_label(canvas, label, colour_of(marks[at].name), marks[at], face)
    verdicts = {mark.verdict for mark in marks} - {""}
    if legend and (verdicts or any(mark.novel for mark in marks)):
        canvas = _with_legend(canvas, marks)
    return canvas


def _importance(mark: Mark) -> tuple[bool, bool, float]:
    """Return the sort key of a label: novel detections first, missed objects last."""
    return mark.verdict == "missed", not mark.novel, -(1.0 if mark.score is None else mark.score)


def _with_room(
    canvas: Image.Image, marks: Sequence[Mark], face: ImageFont.FreeTypeFont, widest: int
) -> Image.Image:
    """Return the canvas, extended if a label without its score does not fit."""
    needed = [label_size(mark.short, face) for mark in marks]
    width = max([canvas.width, *(min(one[0] + 2, widest) for one in needed)])
    height = max([canvas.height, *(one[1] + 2 for one in needed)])
    if (width, height) == canvas.size:
        return canvas
    page = Image.new("RGB", (width, height), PAPER)
    page.paste(canvas, (0, 0))
    return page


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
    canvas: Image.Image, label: Label, colour: Colour, mark: Mark, face: ImageFont.FreeTypeFont
) -> None:
    """Draw a label: on its colour; novel with a white frame; wrong and missed on white with a frame."""
    left, top, right, bottom = label.box
    size = (round(right - left), round(bottom - top))
    at = (round(left), round(top))
    unsure = mark.verdict in ("wrong", "missed")
    fill, frame = (PAPER, colour) if unsure else (colour, PAPER)
    mask = _rounded(size)
    if mark.novel or unsure:
        border = max(1, round(size[1] / 14))
        canvas.paste(Image.new("RGB", size, frame), at, mask)
        inner = (max(1, size[0] - 2 * border), max(1, size[1] - 2 * border))
        canvas.paste(Image.new("RGB", inner, fill), (at[0] + border, at[1] + border), mask.resize(inner))
    else:
        canvas.paste(Image.new("RGB", size, fill), at, mask)
    ink = INK if unsure else ink_on(colour)
    ImageDraw.Draw(canvas).text(
        ((left + right) / 2, (top + bottom) / 2), label.text, font=face, fill=ink, anchor="mm"
    )


@lru_cache(maxsize=512)
def _rounded(size: tuple[int, int]) -> Image.Image:
    """Return the mask of a rectangle with rounded corners, anti-aliased; callers do not change it."""
    fine = 4
    mask = Image.new("L", (size[0] * fine, size[1] * fine), 0)
    box = (0, 0, mask.width - 1, mask.height - 1)
    ImageDraw.Draw(mask).rounded_rectangle(box, size[1] / 4 * fine, fill=255)
    return mask.resize(size, Image.Resampling.LANCZOS)


def _with_legend(canvas: Image.Image, marks: Sequence[Mark]) -> Image.Image:
    kinds = {(mark.novel, mark.verdict) for mark in marks}
    strip = legend_strip(canvas.width, _text_size(canvas), kinds)
    page = Image.new("RGB", (canvas.width, canvas.height + strip.height), PAPER)
    page.paste(canvas, (0, 0))
    page.paste(strip, (0, canvas.height))
    return page
