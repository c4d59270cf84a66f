"""Compare recorded image sizes with the files: EXIF orientation, resized photos, other photos.

Boxes refer either to the stored pixels or to the photo as its EXIF orientation turns it. Where the two have
different sizes, the recorded size decides. Where both have the recorded size (a square photo, or one that is
mirrored or upside down), the other photos decide, or the user by --exif.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.errors import UserError, counted
from cckt.cache_builder.index.formats import Annotations
from cckt.cache_builder.index.photo_files.headers import PhotoHeaders

EXIF_CHOICES = ("auto", "apply", "ignore")

FIT_SHARE = 0.02
"""A box fits a photo if it leaves it by at most this share of its side (and at least 2 pixels)."""


@dataclass(frozen=True)
class SizeFindings:
    """What the comparison found. exif: the reading of photos whose size does not decide (`Index.exif`)."""

    exif: str = "ignore"
    applied: int = 0
    """Photos that the EXIF orientation turns, whose boxes refer to the turned photo."""
    ignored: int = 0
    """Photos that the EXIF orientation turns, whose boxes refer to the stored pixels."""
    replaced: int = 0
    """Recorded sizes that --exif replaced by those of the chosen reading."""
    rescaled: int = 0
    """Photos whose boxes were scaled to the size of the file."""
    other_size: int = 0
    """Photos of another size and aspect ratio than recorded."""
    first_other: str = ""


def compare_sizes(
    found: Annotations, headers: PhotoHeaders, exif: str = "auto", rescale: bool = False
) -> SizeFindings:
    """Compare the recorded sizes of I images with their files; correct `found` where an option says how.

    exif: "auto", "apply" or "ignore". rescale: scale boxes to files that were resized.

    Raises UserError where the files do not agree with the annotations and no option resolves it.
    """
    assert exif in EXIF_CHOICES, f"expected one of {EXIF_CHOICES}, found {exif!r}"
    stored, turned = headers.stored, headers.turned
    recorded = np.stack([found.images["width"], found.images["height"]], axis=1)
    readable = stored[:, 0] > 0
    as_stored, as_turned = (readable & (recorded == size).all(1) for size in (stored, turned))
    has_exif = readable & (headers.orientations != 1)
    decides = has_exif & (stored != turned).any(1)
    aspect_as_stored, aspect_as_turned = (_same_aspect(recorded, size) for size in (stored, turned))
    undecided = has_exif & ~decides & aspect_as_stored
    image_of_box = found.image_of_box()
    if exif == "auto":
        fits_stored, fits_turned = (_boxes_fit(found, image_of_box, size) for size in (stored, turned))
        wrong = decides & (
            (as_stored & ~fits_stored & fits_turned) | (as_turned & ~fits_turned & fits_stored)
        )
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise UserError(
                f"{found.path}: the boxes of {counted(int(np.count_nonzero(wrong)), 'photo')} with an EXIF "
                "orientation do not fit the recorded size but the same size with its sides exchanged (the "
                "first is "
                f"{found.file_names[row]}, recorded as {_size(recorded[row])}), expected boxes inside the "
                "recorded size; add --exif apply if the boxes were drawn on the photo as a viewer turns it, "
                "or --exif ignore if on the stored pixels"
            )
        applied, ignored = decides & as_turned, decides & as_stored
        reading, replaced = _reading(found, undecided, applied, ignored, image_of_box), decides & False
    else:
        known = decides & (as_stored | as_turned)
        applied, ignored = known & (exif == "apply"), known & (exif == "ignore")
        reading, replaced = exif, decides & (as_stored if exif == "apply" else as_turned)
    sizes = np.where(replaced[:, None], turned if reading == "apply" else stored, recorded)
    other = readable & ~as_stored & ~as_turned
    turned_aspect = other & aspect_as_turned
    stored_aspect = other & aspect_as_stored
    resized = turned_aspect | stored_aspect
    take_turned = turned_aspect & (~stored_aspect | (reading == "apply"))
    files = np.where(take_turned[:, None], turned, stored)
    if resized.any() and not rescale:
        row = int(np.flatnonzero(resized)[0])
        raise UserError(
            f"{found.path}: {np.count_nonzero(resized)} of {np.count_nonzero(readable)} photos were resized "
            f"after they were annotated (the first is {found.file_names[row]}, {_size(files[row])}, recorded "
            f"as {_size(recorded[row])}), expected the recorded size; add --rescale to scale their boxes"
        )
    sizes = np.where(resized[:, None], files, sizes)
    _resize(found, sizes, np.flatnonzero(resized), recorded, image_of_box)
    strange = other & ~resized
    turns_undecided = reading == "apply" and bool(undecided.any())
    n_undecided = int(np.count_nonzero(undecided))
    return SizeFindings(
        exif="apply" if turns_undecided else "ignore",
        applied=int(np.count_nonzero(applied)) + (n_undecided if turns_undecided else 0),
        ignored=int(np.count_nonzero(ignored)) + (0 if turns_undecided else n_undecided),
        replaced=int(np.count_nonzero(replaced)),
        rescaled=int(np.count_nonzero(resized)),
        other_size=int(np.count_nonzero(strange)),
        first_other=found.file_names[int(np.flatnonzero(strange)[0])] if strange.any() else "",
    )


def _reading(
    found: Annotations,
    undecided: NDArray[np.bool_],
    applied: NDArray[np.bool_],
    ignored: NDArray[np.bool_],
    image_of_box: NDArray[np.int64],
) -> str:
    """Return the reading of photos whose size does not decide: that of all the others."""
    if not undecided[image_of_box].any():  # without boxes, nothing depends on it
        return "ignore"
    if applied.any() != ignored.any():
        return "apply" if applied.any() else "ignore"
    row = int(np.flatnonzero(undecided)[0])
    photos, turned = int(np.count_nonzero(undecided)), int(np.count_nonzero(applied))
    others = (
        f"{counted(turned, 'other photo is', 'other photos are')} annotated as turned and "
        f"{np.count_nonzero(ignored)} as stored"
    )
    raise UserError(
        f"{found.path}: an EXIF orientation turns {counted(photos, 'photo')} without changing "
        f"{'its' if photos == 1 else 'their'} size (the first is {found.file_names[row]}) and {others}, so "
        "the boxes fit both readings; add --exif apply if the boxes were drawn on the photo as a viewer "
        "turns it, or --exif "
        "ignore if on the stored pixels"
    )


def _boxes_fit(
    found: Annotations, image_of_box: NDArray[np.int64], sizes: NDArray[np.int32]
) -> NDArray[np.bool_]:
    """Return (I,) whether all finite boxes of an image are inside a photo of the size."""
    xywh = found.boxes["xywh"]
    with np.errstate(invalid="ignore", over="ignore"):
        ends = xywh[:, :2] + xywh[:, 2:]
        finite = np.isfinite(ends).all(1)
        limit = sizes[image_of_box] + np.maximum(2.0, FIT_SHARE * sizes[image_of_box])
        outside = finite & (ends > limit).any(1)
    fits = np.ones(len(found.images), np.bool_)
    fits[image_of_box[outside]] = False
    return fits


def _same_aspect(recorded: NDArray[np.int32], files: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Return (I,) whether two sizes have the same aspect ratio, up to 1 pixel of the smaller one."""
    small, large = np.minimum(recorded, files), np.maximum(recorded, files)
    ordered = ((small == recorded).all(1)) | ((small == files).all(1))
    expected = small[:, 0] * (large[:, 1] / np.maximum(large[:, 0], 1))
    same: NDArray[np.bool_] = ordered & (np.abs(expected - small[:, 1]) <= 1)
    return same


def _resize(
    found: Annotations,
    sizes: NDArray[np.int32],
    resized: NDArray[np.int64],
    recorded: NDArray[np.int32],
    image_of_box: NDArray[np.int64],
) -> None:
    """Replace the recorded sizes; scale the boxes and areas of the resized images."""
    if (sizes == recorded).all():
        return
    images = found.images.copy()
    images["width"], images["height"] = sizes[:, 0], sizes[:, 1]
    found.images = images
    if len(resized):
        boxes = found.boxes.copy()
        scale = np.ones((len(images), 2))
        scale[resized] = sizes[resized] / recorded[resized]
        each = scale[image_of_box]
        boxes["xywh"] *= np.concatenate([each, each], axis=1)
        boxes["area"] *= each.prod(axis=1)
        found.boxes = boxes


def _size(size: NDArray[np.int32]) -> str:
    return f"{size[0]} x {size[1]}"
