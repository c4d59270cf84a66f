"""The zarr documents of a column: the one place that asks zarr how its metadata is written."""

from __future__ import annotations

import importlib.metadata
import platform
from functools import lru_cache
from typing import Any

from cckt.cache_builder.store.spec import ColumnSpec

_LIBRARIES = ("numpy", "zarr", "torch", "torchvision", "open_clip_torch", "transformers", "pillow")


def array_documents(spec: ColumnSpec) -> dict[str, bytes]:
    """`{"values/zarr.json": bytes, "valid/zarr.json": bytes}`: zarr v3, one plain bytes codec, chunked along
    rows.

    Zarr itself writes them, into memory: the bytes go to any store whole, and no reader imports zarr.
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
    return {f"{name}/zarr.json": held[f"{name}/zarr.json"].to_bytes() for name in spec.arrays}


@lru_cache(maxsize=1)
def library_versions() -> dict[str, str]:
    """Versions of what can change a value, of those that are installed."""
    versions = {"python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
