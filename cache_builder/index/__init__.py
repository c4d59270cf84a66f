"""The index of a data set: tables of images, boxes and concepts, made once from annotations.

    formats/          readers of annotation formats
    file_names.py     check file names of images, find them on disk
    checks.py         refuse annotations that would be read wrongly
    photo_files/      sizes, EXIF orientations and digests of the files of photos
    split_file.py     read a user's split file
    splits.py         assign each concept to base, novel or other
    assemble.py       clip, drop and sort annotations into tables
    tables.py         the arrays of an index and their digests
    card.py           index.json and the digests in it
    consistency.py    whether the tables fit each other
    reader.py         open an index: map and check its arrays
    verify.py         checks that read whole tables
    write.py          put an index into its folder
    generations.py    earlier indexes that columns still belong to
    report.py         the report of a build
    build.py          build an index from an annotation file
    derive.py         make an index from another one
    hold_out.py       divide annotations by photo into two files

Row k of every column belongs to row k of its table. The digest of an index decides which columns fit it.
"""

from cckt.cache_builder.index.build import build_index
from cckt.cache_builder.index.derive import (
    add_boxes,
    copy_index,
    pseudo_makers,
    pseudo_note,
    require_annotated,
    require_boxes_to_score,
)
from cckt.cache_builder.index.generations import digests_in_use, sweep_generations
from cckt.cache_builder.index.hold_out import HoldOutReport, hold_out
from cckt.cache_builder.index.photo_files.record import photo_record
from cckt.cache_builder.index.photo_files.shared import shared_note, shared_photos
from cckt.cache_builder.index.reader import DamagedIndexError, Index, index_command, open_index
from cckt.cache_builder.index.report import IndexReport
from cckt.cache_builder.index.verify import FOREIGN, index_problems, novel_boxes, verify_index

__all__ = [
    "FOREIGN",
    "DamagedIndexError",
    "HoldOutReport",
    "Index",
    "IndexReport",
    "add_boxes",
    "build_index",
    "copy_index",
    "digests_in_use",
    "hold_out",
    "index_command",
    "index_problems",
    "novel_boxes",
    "open_index",
    "photo_record",
    "pseudo_makers",
    "pseudo_note",
    "require_annotated",
    "require_boxes_to_score",
    "shared_note",
    "shared_photos",
    "sweep_generations",
    "verify_index",
]
