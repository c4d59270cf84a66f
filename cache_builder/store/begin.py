"""Begin a column in its place: whether the place may be used, and what `--overwrite` may replace.

A folder may be replaced only if its zarr.json is a manifest of cckt. Files that do not belong to a column are
never deleted: a folder that holds some is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cckt.cache_builder.base.digests import digest_of
from cckt.cache_builder.base.errors import UserError, brief, counted, listed
from cckt.cache_builder.store.format.file_names import BEGUN, GROUP, foreign_names
from cckt.cache_builder.store.format.layout import array_documents
from cckt.cache_builder.store.format.manifest import Manifest, is_ours, read_manifest
from cckt.cache_builder.store.format.spec import ColumnSpec
from cckt.cache_builder.store.kinds import KINDS, parse_name, repair_command
from cckt.cache_builder.store.places.contract import ChunkFiles


class OtherColumn(UserError):
    """The place holds another column. `found` and `wanted` are the specs."""

    def __init__(self, place: str, found: ColumnSpec, wanted: ColumnSpec, data: str) -> None:
        super().__init__(_refusal(place, found, wanted, data))
        self.found, self.wanted = found, wanted


def begin(files: ChunkFiles, spec: ColumnSpec, data: str, *, overwrite: bool) -> Manifest:
    """Return the manifest of `spec` in its place, begun if it is not there yet.

    data: of the command, for messages. Raises UserError if the place holds another column or other files.
    """
    try:
        found = read_manifest(files)
    except UserError:  # edited, or of another schema
        if not overwrite:
            raise
        if not is_ours(files.get(GROUP) or b""):
            raise UserError(
                f"{files.place} holds a {GROUP} that cckt did not make: expected a column or an empty "
                f"folder, move the folder away{' or choose another place with --out' * _takes_out(spec)}."
            ) from None
        _clear(files)
        found = None
    if found is not None and found.spec.identity != spec.identity:
        if not overwrite:
            raise OtherColumn(files.place, found.spec, spec, data)
        _clear(files)
        found = None
    if found is not None and found.finished and overwrite:
        # No file is deleted: an unfinished manifest makes every chunk missing, and a second maker that does
        # the same at the same time writes the same bytes.
        files.put(BEGUN, b"", new=True)
        found = Manifest(spec, found.documents)
        files.put(GROUP, found.to_bytes())
    return _begun(files, spec, data) if found is None else found


def _begun(files: ChunkFiles, spec: ColumnSpec, data: str) -> Manifest:
    """Write the documents of a column into a place without a manifest."""
    require_empty(files)
    documents = array_documents(spec)
    for name, document in documents.items():
        if not files.put(name, document, new=True) and files.get(name) != document:
            raise UserError(_in_the_way(files.place, [name]))
    digests = {name: digest_of(document) for name, document in documents.items()}
    # The group comes last, so that its arrays exist, and never replaces one that another maker finished.
    files.put(BEGUN, b"", new=True)
    files.put(GROUP, Manifest(spec, digests).to_bytes(), new=True)
    found = read_manifest(files)
    assert found is not None, "expected the manifest that was just written"
    if found.spec.identity != spec.identity:
        raise OtherColumn(files.place, found.spec, spec, data)
    return found


def require_empty(files: ChunkFiles) -> None:
    """Raise UserError if a place holds files that do not belong to a column, naming the first of them."""
    foreign = foreign_names(files.sizes())
    if foreign:
        raise UserError(_in_the_way(files.place, foreign))


def _clear(files: ChunkFiles) -> None:
    """Delete the column at a place; UserError if other files would be deleted with it."""
    require_empty(files)
    files.clear()


def _in_the_way(place: str, names: Sequence[str]) -> str:
    others = f" and {counted(len(names) - 1, 'more file')}" if len(names) > 1 else ""
    return (
        f"{place} holds {names[0]}{others} that do not belong to a column: expected a folder only for the "
        "column, move these files away; nothing was deleted."
    )


def _refusal(place: str, found: ColumnSpec, wanted: ColumnSpec, data: str) -> str:
    """Return why a place that holds another column is not written to, with both digests and the next step."""
    if found.index_digest != wanted.index_digest:
        what, there, expected = wanted.owner, found.index_digest, wanted.index_digest
    elif found.recipe_digest != wanted.recipe_digest:
        what, there, expected = "recipe", found.recipe_digest, wanted.recipe_digest
        expected += f" ({listed(list(_differing(found.recipe, wanted.recipe)), 3)})"
    else:
        what, there, expected = "shape", _shape(found), _shape(wanted)
    command = repair_command(data, wanted.name, wanted.recipe)
    elsewhere = " and write to another place with --out" * _takes_out(wanted)
    return (
        f"{place} holds a column of another {what}: found {there}, expected {expected}; keep it{elsewhere}, "
        f"or replace it with `{command} --overwrite`."
    )


def _takes_out(spec: ColumnSpec) -> bool:
    """Whether the command of the column has --out."""
    named = parse_name(spec.name)
    return named is None or KINDS[named.kind].takes_out


def _differing(found: Mapping[str, Any], wanted: Mapping[str, Any], within: str = "") -> Iterator[str]:
    """Yield what differs between two recipes: "prompt 'a' instead of 'b'", entries that both have first."""
    later = []
    for key in {**found, **wanted}:
        one, other, name = found.get(key), wanted.get(key), f"{within}{key}"
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from _differing(one, other, f"{name}.")
        elif one is None or other is None or "sha256:" in str(one):
            later += [f"{name} {_value(one)} instead of {_value(other)}"] * (one != other)
        elif one != other:
            yield f"{name} {_value(one)} instead of {_value(other)}"
    yield from later


def _value(value: Any) -> str:
    return "none" if value is None else brief(value)


def _shape(spec: ColumnSpec) -> str:
    return f"{spec.rows} x {spec.width} {spec.dtype} in chunks of {spec.chunk_rows}"
