"""The zarr documents of a column's arrays. Only this module imports zarr."""

from __future__ import annotations

import importlib.metadata
import platform
from functools import lru_cache
from typing import Any

from cckt.cache_builder.store.format.file_names import document_file
from cckt.cache_builder.store.format.spec import ColumnSpec

_LIBRARIES = ("numpy", "zarr", "torch", "torchvision", "open_clip_torch", "transformers", "pillow")


def array_documents(spec: ColumnSpec) -> dict[str, bytes]:
    """Return `{"values/zarr.json": bytes, "valid/zarr.json": bytes}`.

    zarr v3, one plain bytes codec, chunked along rows. zarr writes them into memory, so that the bytes can go
    to any place at once and readers need no zarr.
    """
    import zarr

    held: dict[str, Any] = {}
    group = zarr.create_group(zarr.storage.MemoryStore(held), zarr_format=3)
    for name, (width, dtype) in spec.arrays.items():
        flat = name != "values"
        group.create_array(
            name,
            shape=(spec.rows,) if flat else (spec.rows, width),
            chunks=(spec.chunk_rows,) if flat else (spec.chunk_rows, width),
            dtype=dtype,
            fill_value=0,
            filters=None,
            compressors=None,
            serializer="auto",
            chunk_key_encoding={"name": "default", "separator": "."},
            dimension_names=("row",) if flat else ("row", "value"),
        )
    return {document_file(name): held[document_file(name)].to_bytes() for name in spec.arrays}


@lru_cache(maxsize=1)
def library_versions() -> dict[str, str]:
    """Return the versions of installed libraries that can change a value."""
    versions = {"python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
