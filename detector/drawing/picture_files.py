"""Picture files with our mark, which appear complete or not at all."""

from __future__ import annotations

import io
import re
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cckt.cache_builder.base.atomic_files import write_bytes
from cckt.cache_builder.base.ownership import require_ours_or_absent
from cckt.detector.inference.photo_sources import MARK, PICTURE, is_our_picture

CROP = re.compile(r"[0-9]{5}-[0-9]{2,}-[01]\.[0-9]{2}-.*\.jpg")
"""Names of our crops: number of the photo, number and score of the detection, name of the photo."""
FRAME = re.compile(r".*@[0-9.]+s\.jpg")
"""Names of our frames of a video: name of the video, and time."""
RESULTS = ("predictions.json", "predictions.csv", "classes.txt")
"""Results next to pictures of earlier versions, which have no mark."""


def save_picture(picture: Image.Image, path: Path, quality: int = 92) -> None:
    """Write a JPEG or PNG file, by its suffix, with our mark.

    JPEG is written without chroma subsampling, so that thin lines stay sharp; it takes 1.4 ms for a picture
    of 512 px, PNG 65 ms. OSError if it cannot be written; nothing remains of it then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    memory = io.BytesIO()
    if path.suffix == ".png":
        mark = PngInfo()
        mark.add_text("Software", MARK)
        picture.save(memory, "PNG", pnginfo=mark)
    else:
        picture.save(memory, "JPEG", quality=quality, subsampling=0, comment=MARK.encode())
    write_bytes(path, memory.getvalue())


def require_own_pictures(folder: Path, names: re.Pattern[str] = PICTURE) -> None:
    """Raise UserError if a file in a folder that has a name like our pictures is not one of them.

    names: of our pictures. Called before the work, when the number of frames of a video is not known yet.
    Results of an earlier version vouch for the pictures next to them.
    """
    if not folder.is_dir():
        return
    old = any((folder / name).is_file() for name in RESULTS)
    for path in sorted(folder.iterdir()):
        if names.fullmatch(path.name):
            require_ours_or_absent(
                path, lambda path: old or is_our_picture(path), "a picture of cckt predict"
            )
