"""The manifest: what a column is, in the attributes of its zarr group; it vouches for itself by digest.

It holds nothing that differs between two makings of the same column in the same environment: no times, host
names, process numbers, devices, paths, ranks or counts of workers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.store.places.files import ChunkFiles
from cckt.cache_builder.store.spec import SCHEMA, ColumnSpec, canonical, digest_of, from_runs

GROUP = "zarr.json"


@dataclass(frozen=True)
class Manifest:
    """What `zarr.json` says of a column. Digests: one a chunk and array, "sha256:..."."""

    spec: ColumnSpec
    documents: Mapping[str, str]
    """Digest of each array's own zarr.json."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Library -> version, or several joined by ", " where makers differed."""
    invalid: int = 0
    """Rows whose flag is 0."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Reason -> rows it holds for, as runs: {"the photo is truncated": "3-5,17"}."""
    chunks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Array -> digest of each chunk file; empty while unfinished."""
    finished: bool = False

    def fields(self) -> dict[str, Any]:
        """The manifest as JSON, without its own digest."""
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
        """Digest over every field: it names the finished column, bytes and all."""
        return digest_of(canonical(self.fields()))

    def to_bytes(self) -> bytes:
        """The group's zarr.json: a zarr v3 group document with the manifest under attributes.cckt."""
        attributes = {"cckt": {**self.fields(), "digest": self.digest}}
        document = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
        return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes, place: str) -> Manifest:
        """Parse a group's zarr.json. UserError where it is no column of ours or was edited."""
        try:
            fields = dict(json.loads(data)["attributes"]["cckt"])
            found = fields.pop("digest")
            schema = fields["schema"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{place}/{GROUP} is no manifest of a column ({type(error).__name__}): expected a zarr "
                "group that cckt made, remove the folder or name another data set, and make the column "
                "again."
            ) from error
        if schema != SCHEMA:
            raise UserError(
                f"{place}/{GROUP} has schema {schema!r}: expected {SCHEMA!r}, make the column again with "
                "this cckt."
            )
        expected = digest_of(canonical(fields))
        if found != expected:
            raise UserError(
                f"{place}/{GROUP} was edited: its fields have digest {expected}, its own line says {found}; "
                "bring the file back, or remove the folder and make the column again."
            )
        return cls(
            spec=ColumnSpec.from_json(fields),
            documents=fields["documents"],
            versions=fields["versions"],
            invalid=fields["invalid"],
            reasons=fields["reasons"],
            chunks={array: tuple(digests) for array, digests in fields["chunks"].items()},
            finished=fields["finished"],
        )


def read_manifest(files: ChunkFiles) -> Manifest | None:
    """The manifest at a place; None where there is none."""
    data = files.get(GROUP)
    return None if data is None else Manifest.from_bytes(data, files.place)
