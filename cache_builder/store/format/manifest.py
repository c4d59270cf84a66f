"""The manifest: what a column is, in the attributes of its zarr group, with a digest of every chunk.

It holds nothing that differs between two runs that make the same column in the same environment: no times,
host names, process numbers, devices, paths, ranks or numbers of workers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cckt.cache_builder.base.digests import digest_of
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.untrusted.text import parse_json
from cckt.cache_builder.store.format.file_names import GROUP, document_file
from cckt.cache_builder.store.format.spec import SCHEMA, ColumnSpec, canonical, from_runs, run_bounds
from cckt.cache_builder.store.places.contract import ChunkFiles


@dataclass(frozen=True)
class Manifest:
    """The content of a column's `zarr.json`. Digests, "sha256:...": one for each chunk of each array."""

    spec: ColumnSpec
    documents: Mapping[str, str]
    """Digest of each array's own zarr.json."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Library -> version; several are joined by ", " if makers used different ones."""
    invalid: int = 0
    """Rows whose flag is 0."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Reason -> its rows, as runs: {"the photo is truncated": "3-5,17"}."""
    chunks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Array -> digest of each chunk file; empty while unfinished."""
    finished: bool = False

    def fields(self) -> dict[str, Any]:
        """Return the manifest as JSON, without its own digest."""
        return {
            "schema": SCHEMA,
            **self.spec.to_json(),
            "documents": dict(self.documents),
            "versions": dict(self.versions),
            "invalid": self.invalid,
            "reasons": dict(self.reasons),
            "chunks": {array: list(digests) for array, digests in self.chunks.items()},
            "finished": self.finished,
        }

    @property
    def notes(self) -> dict[int, str]:
        """Row -> reason, ascending."""
        notes = {row: reason for reason, runs in self.reasons.items() for row in from_runs(runs)}
        return dict(sorted(notes.items()))

    @property
    def digest(self) -> str:
        """Digest of every field: it identifies the finished column, with all its bytes."""
        return digest_of(canonical(self.fields()))

    def to_bytes(self) -> bytes:
        """Return the group's zarr.json: a zarr v3 group document with the manifest under attributes.cckt."""
        attributes = {"cckt": {**self.fields(), "digest": self.digest}}
        document = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
        return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes, place: str) -> Manifest:
        """Parse a group's zarr.json.

        Raises UserError if it is not a manifest of a column, was edited, or contradicts itself; nothing of
        it is expanded before that.
        """
        try:
            document = parse_json(data)
            fields = dict(document["attributes"]["cckt"])
            found = fields.pop("digest")
            schema = fields["schema"]
            expected = digest_of(canonical(fields))  # ValueError for NaN and for lone surrogates
            if (document["zarr_format"], document["node_type"]) != (3, "group"):
                raise ValueError
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(
                f"{place}/{GROUP} is no manifest of a column ({type(error).__name__}): expected a zarr group "
                "that cckt made, remove the folder or name another data set, and make the column again."
            ) from error
        if schema != SCHEMA:
            raise UserError(
                f"{place}/{GROUP} has schema {schema!r}: expected {SCHEMA!r}, make the column again with "
                "this cckt."
            )
        if found != expected:
            raise UserError(
                f"{place}/{GROUP} was edited: its fields have digest {expected}, but it states {found}; "
                "restore the file, or remove the folder and make the column again."
            )
        try:
            return cls._checked(fields)
        except (UserError, AssertionError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"{place}/{GROUP} contradicts itself ({error}): expected the manifest of a column, "
                "remove the folder and make the column again."
            ) from error

    @classmethod
    def _checked(cls, fields: Mapping[str, Any]) -> Manifest:
        """The manifest of fields whose numbers and names agree with each other."""
        spec = ColumnSpec.from_json(fields)
        for key in ("rows", "width", "chunk_rows", "invalid"):
            _require(type(fields[key]) is int, f"{key} is {fields[key]!r}")
        _require(isinstance(fields["recipe"], Mapping), "recipe is not a mapping")
        _require(0 <= fields["invalid"] <= spec.rows, f"{fields['invalid']} of {spec.rows} rows are invalid")
        documents = {document_file(array) for array in spec.arrays}
        _require(set(fields["documents"]) == documents, f"documents are {sorted(fields['documents'])}")
        chunks = {array: tuple(digests) for array, digests in fields["chunks"].items()}
        counts = {array: len(digests) for array, digests in chunks.items()}
        needed = dict.fromkeys(spec.arrays, spec.n_chunks) if fields["finished"] else {}
        _require(counts == needed, f"it has digests of chunks {counts}, expected {needed}")
        for reason, runs in fields["reasons"].items():
            last = max((last for _, last in run_bounds(runs)), default=-1)
            _require(last < spec.rows, f"row {last} of {spec.rows} rows has the reason {reason[:40]!r}")
        return cls(
            spec=spec,
            documents=fields["documents"],
            versions=dict(fields["versions"]),
            invalid=fields["invalid"],
            reasons=fields["reasons"],
            chunks=chunks,
            finished=fields["finished"],
        )


def read_manifest(files: ChunkFiles) -> Manifest | None:
    """Return the manifest at a place; None if there is none."""
    data = files.get(GROUP)
    return None if data is None else Manifest.from_bytes(data, files.place)


def _require(condition: bool, violation: str) -> None:
    if not condition:
        raise ValueError(violation)


def is_ours(data: bytes) -> bool:
    """Return whether a zarr.json is a manifest of cckt, of any version and even if edited."""
    try:
        schema = parse_json(data)["attributes"]["cckt"]["schema"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
    return isinstance(schema, str) and schema.startswith(SCHEMA.partition("/")[0] + "/")
