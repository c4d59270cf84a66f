"""The index: three tables of a data set, made once from its annotations, and what may be seen of them."""

from cckt.cache_builder.index.build import build_index
from cckt.cache_builder.index.derive import add_boxes, copy_index, pseudo_note, require_annotated
from cckt.cache_builder.index.report import IndexReport
from cckt.cache_builder.index.tables import Index, novel_boxes, open_index, verify_index

__all__ = [
    "Index",
    "IndexReport",
    "add_boxes",
    "build_index",
    "copy_index",
    "novel_boxes",
    "open_index",
    "pseudo_note",
    "require_annotated",
    "verify_index",
]
