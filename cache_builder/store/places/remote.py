"""Columns in object stores and other places that fsspec reaches: s3://, gs://, memory://, ...

Needs the extra `remote` (fsspec and the scheme's library). That library reads credentials from its own
environment variables, files and roles. An object appears when its upload ends, so writes are atomic.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.store.places.contract import Bytes

WITH_FOLDERS = frozenset(("file", "local", "sftp", "ssh", "smb", "ftp", "hdfs", "arrow_hdfs", "webhdfs"))
"""Names of fsspec's file systems in which a file needs a folder. In an object store `makedirs` may create a
bucket."""


class RemoteFiles:
    """`ChunkFiles` under a URL. Only the ledger lines of this process are cached."""

    def __init__(self, url: str) -> None:
        self.place = url
        self._own: dict[str, bytes] = {}
        self._connect()

    def _connect(self) -> None:
        scheme = self.place.split("://")[0]
        try:
            import fsspec

            # Listings must show what other makers have just written.
            found = fsspec.core.url_to_fs(self.place, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise UserError(
                f"{self.place} needs a library for {scheme}:// that is not installed ({error}): run "
                "`pip install 'cckt[remote]'`, or the fsspec library of that store."
            ) from error
        self._system: Any = found[0]
        self._root = str(found[1]).rstrip("/")

    def __getstate__(self) -> dict[str, Any]:
        return {"place": self.place}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["place"])  # type: ignore[misc]

    def put(self, name: str, data: Bytes, *, new: bool = False) -> bool:
        """See `ChunkFiles.put`. With `new` the store refuses an existing name, if it supports that."""
        content = bytes(data)
        try:
            if not new:
                self._system.pipe_file(self._full(name), content)
                return True
            if self._system.exists(self._full(name)):
                return False
            scheme = self._system.protocol
            if WITH_FOLDERS.intersection([scheme] if isinstance(scheme, str) else scheme):
                self._system.makedirs(self._full(name).rpartition("/")[0], exist_ok=True)
            self._system.pipe_file(self._full(name), content, mode="create")
            return True
        except FileExistsError:
            return False
        except Exception as error:
            # Libraries have several names for the conflict of a conditional put: 409, 412, EINVAL ...
            if new and self.size(name) is not None:
                return False
            raise self._explained(error, name) from error

    def get(self, name: str) -> bytes | None:
        """See `ChunkFiles.get`."""
        try:
            content: bytes = self._system.cat_file(self._full(name))
            return content
        except FileNotFoundError:
            return None
        except Exception as error:
            raise self._explained(error, name) from error

    def size(self, name: str) -> int | None:
        """See `ChunkFiles.size`."""
        try:
            found: int = self._system.info(self._full(name))["size"]
            return found
        except FileNotFoundError:
            return None
        except Exception as error:
            raise self._explained(error, name) from error

    def append(self, name: str, data: bytes) -> None:
        """See `ChunkFiles.append`. Objects cannot grow: the only writer writes all of it again."""
        content = self._own.get(name, b"") + data
        self.put(name, content)
        self._own[name] = content

    def sizes(self, folder: str = "") -> dict[str, int]:
        """See `ChunkFiles.sizes`."""
        try:
            self._system.invalidate_cache()
            found = self._system.find(self._full(folder.rstrip("/")), detail=True)
        except FileNotFoundError:
            return {}
        except Exception as error:
            raise self._explained(error, "") from error
        start = len(self._root) + 1
        return {str(full)[start:]: int(details["size"]) for full, details in found.items()}

    def remove(self, names: Iterable[str]) -> None:
        """See `ChunkFiles.remove`."""
        for name in names:
            try:
                self._system.rm_file(self._full(name))
            except FileNotFoundError:
                continue
            except Exception as error:
                raise self._explained(error, name) from error

    def clear(self) -> None:
        """See `ChunkFiles.clear`. The manifest goes first, so that the rest cannot be read."""
        names = sorted(self.sizes(), key=lambda name: name != "zarr.json")
        self.remove(names)

    def locked(self) -> AbstractContextManager[object]:
        """See `ChunkFiles.locked`. Object stores have no locks."""
        return nullcontext()

    def path(self, name: str) -> Path | None:
        """See `ChunkFiles.path`. An object cannot be mapped."""
        return None

    def _full(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _explained(self, error: Exception, name: str) -> UserError:
        return UserError(
            f"{self.place}/{name} could not be used ({type(error).__name__}: {error}): check the address, "
            "the credentials and the network; what is finished is kept, run the same command again to resume."
        )
