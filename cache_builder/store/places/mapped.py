"""Rows of local chunk files, memory-mapped as one array.

All chunks of an array are mapped one after the other into one reserved range of addresses. So random rows of
a thousand files are one numpy gather, as fast as a single memmap. Python's mmap keeps one descriptor for each
map (until 3.13) and cannot choose addresses; the C library can do both.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.disk_faults import raise_unless_missing
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.store.places.contract import RowsGuard

RESIDENT_BYTES, RESIDENT_SHARE = 512 << 20, 8
"""Pages that a reader may keep mapped before it releases them all (the kernel's cache still holds them).

So its memory grows by at most about an eighth of the machine's memory, or by 512 MB if that is more, whatever
the size of the column. In a column above the bound most rows cost a page fault: reading 65 rows took ten
times as long as the 0.015 ms of a memmap."""

_MAP_FIXED = 0x10  # Linux, macOS and the BSDs agree
_FAULT_BYTES = 1 << 20  # a page fault maps a large folio of the kernel's cache: up to 0.7 MB was measured


def can_map() -> bool:
    """Return whether this system has POSIX mmap."""
    return sys.platform != "win32"


class MappedRows:
    """(rows, width) of little-endian `dtype` from `paths`, one file of `chunk_rows` rows each; read-only.

    A file is mapped at its first use and not held open. Raises UserError if a file is missing or short.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        rows: int,
        chunk_rows: int,
        width: int,
        dtype: np.dtype[Any],
        resident: int | None = None,
        guard: RowsGuard | None = None,
    ) -> None:
        """resident: about how many bytes of pages may stay mapped; None: `resident_bound()`. guard: is asked
        about each file when it is mapped.
        """
        self._paths = paths
        self._guard = guard
        self._rows, self._chunk_rows, self._width = rows, chunk_rows, width
        self._bytes = chunk_rows * width * dtype.itemsize
        page = mmap.ALLOCATIONGRANULARITY
        stride = -(-self._bytes // page) * page
        self._map = _Reservation(stride, len(paths))
        self._mapped = np.zeros(len(paths), bool)
        self._all_mapped = not paths
        shape = (len(paths), chunk_rows, width)
        strides = (stride, width * dtype.itemsize, dtype.itemsize)
        self._cube: NDArray[Any] = np.ndarray(shape, dtype, self._map.memory, 0, strides)
        # If chunks fill whole pages there are no gaps, and the rows are contiguous.
        self._flat = self._cube.reshape(-1, width) if stride == self._bytes else None
        # A column that fits may stay mapped. Only Linux reports and releases pages.
        self._bound = resident_bound() if resident is None else resident
        self._watched = sys.platform == "linux" and stride * len(paths) > self._bound
        self._row_touch = min(_FAULT_BYTES, self._bytes)
        self._budget = self._bound
        self._before = _resident_bytes() if self._watched else 0

    def take(self, rows: NDArray[np.intp]) -> NDArray[Any]:
        """Return a copy, (n, width), of rows (n,), in any order, with repeats; callers check the range."""
        if self._flat is not None and self._all_mapped:
            taken: NDArray[Any] = self._flat.take(rows, axis=0)
        else:
            chunks, offsets = np.divmod(rows, self._chunk_rows)
            if not self._all_mapped:
                self._map_chunks(np.unique(chunks[~self._mapped[chunks]]))
            taken = self._cube[chunks, offsets]
        self._account(len(rows) * self._row_touch)
        return taken

    def slice(self, lo: int, hi: int) -> NDArray[Any]:
        """Return a copy of rows [lo, hi)."""
        out = np.empty((hi - lo, self._width), self._cube.dtype)
        for chunk in range(lo // self._chunk_rows, -(-hi // self._chunk_rows) if hi > lo else 0):
            if not self._mapped[chunk]:
                self._map_chunks(np.array([chunk]))
            start = chunk * self._chunk_rows
            a, b = max(lo, start), min(hi, start + self._chunk_rows)
            out[a - lo : b - lo] = self._cube[chunk, a - start : b - start]
            self._account((b - a) * out.strides[0])
        return out

    def _map_chunks(self, chunks: NDArray[np.intp]) -> None:
        for chunk in chunks.tolist():
            try:
                content = self._map.place(chunk, self._paths[chunk], self._bytes)
            except UserError:  # missing or of another size
                if self._guard is not None:
                    self._guard.require_current()
                raise
            if self._guard is not None:
                self._guard.require_sound(chunk, content)
                self._account(self._bytes * self._guard.reads_content)
            self._mapped[chunk] = True
        self._all_mapped = bool(self._mapped.all())

    def _account(self, touched: int) -> None:
        """Release resident pages if there are too many; touched: an upper bound of the bytes just mapped."""
        if not self._watched:
            return
        self._budget -= touched
        if self._budget > 0:
            return
        grown = _resident_bytes() - self._before
        if grown >= self._bound:
            self._map.release_pages()
            self._before, grown = _resident_bytes(), 0
        self._budget = max(self._bound - grown, self._bound // 8)


class _Reservation:
    """`count` slots of `stride` bytes each, contiguous, empty until a file is placed in them.

    The range is unmapped with its last view.
    """

    def __init__(self, stride: int, count: int) -> None:
        self._library = _library()
        self._stride, self._size = stride, max(stride * count, 1)
        kind = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self._address = self._library.mmap(None, self._size, 0, kind, -1, 0)  # 0 = PROT_NONE: costs no memory
        if self._address == ctypes.c_void_p(-1).value:
            raise MemoryError(f"no {self._size} bytes of address space")
        buffer = (ctypes.c_char * self._size).from_address(self._address)
        weakref.finalize(buffer, self._library.munmap, self._address, self._size).atexit = False
        self.memory = memoryview(buffer).toreadonly()

    def place(self, index: int, path: Path, size: int) -> memoryview:
        """Map `size` bytes of a file into slot `index`, read-only and shared with every other reader.

        Returns the content.
        """
        try:
            # Without waiting for the writer of a pipe, whose size of 0 is then refused below.
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        except OSError as error:
            raise_unless_missing(error, path)
            raise UserError(
                f"Chunk file {path} cannot be read ({error.strerror}): expected {size} bytes, run "
                "`cckt cache verify DATA --repair`, with DATA its data set."
            ) from error
        try:
            found = os.fstat(descriptor).st_size
            if found != size:  # reading a page beyond a file's end kills the process
                raise UserError(
                    f"Chunk file {path} has {found} bytes: expected {size}, run `cckt cache verify DATA "
                    "--repair`, with DATA its data set."
                )
            target = self._address + index * self._stride
            kind = mmap.MAP_SHARED | _MAP_FIXED
            if self._library.mmap(target, size, mmap.PROT_READ, kind, descriptor, 0) != target:
                raise OSError(ctypes.get_errno(), f"mmap of {path} failed: {os.strerror(ctypes.get_errno())}")
        finally:
            os.close(descriptor)
        return self.memory[index * self._stride : index * self._stride + size]

    def release_pages(self) -> None:
        """Drop this process's page table entries; the kernel's cache keeps the data for later reads."""
        self._library.madvise(self._address, self._size, mmap.MADV_DONTNEED)


def resident_bound() -> int:
    """Return about how many bytes of pages a reader may keep mapped on this machine."""
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return RESIDENT_BYTES
    return max(RESIDENT_BYTES, memory // RESIDENT_SHARE)


def _resident_bytes() -> int:
    """File-backed resident memory of this process; Linux only, some microseconds."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[2]) * mmap.PAGESIZE


def _library() -> Any:
    library = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = [
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int64,  # off_t
    ]
    library.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    library.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return library
