"""Draw several images on one page, a contact sheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from cckt.detector.drawing.colours import DIM, INK, PAPER
from cckt.detector.drawing.draw import Mark, draw_marks
from cckt.detector.drawing.legend import legend_strip
from cckt.detector.drawing.text import fit_text, font


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
    kinds = {(mark.novel, mark.verdict) for tile in tiles for mark in tile.marks}
    explained = any(novel or verdict for novel, verdict in kinds)
    foot = legend_strip(width, size, kinds) if explained else Image.new("RGB", (width, gap // 2), PAPER)
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
    picture = draw_marks(tile.photo, tile.marks, legend=False, scale=scale, widest=cell)
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
