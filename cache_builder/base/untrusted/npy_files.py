"""Read .npy files that anybody may have written."""

from __future__ import annotations

import io
import tokenize
import zipfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.untrusted.regular_files import require_regular


def read_npy(path: Path, mmap_mode: Literal["r"] | None = None) -> NDArray[Any]:
    """Return the array of a .npy file, mapped or as a copy, without pickle.

    Raises OSError if the file cannot be read, and ValueError, nothing else, if it holds no such array. NumPy
    parses the head of the file as Python text, and a damaged one raises whatever Python's parser raises.
    """
    return _load(require_regular(path), mmap_mode)


def parse_npy(content: bytes) -> NDArray[Any]:
    """Return the array in the bytes of a .npy file. Raises ValueError, nothing else, if they hold none."""
    return _load(io.BytesIO(content), None)


def _load(source: Path | io.BytesIO, mmap_mode: Literal["r"] | None) -> NDArray[Any]:
    try:
        array = np.load(source, mmap_mode=mmap_mode, allow_pickle=False)
    except (EOFError, SyntaxError, TypeError, KeyError, MemoryError, OverflowError, RecursionError) as error:
        raise ValueError(f"it holds no array ({type(error).__name__})") from None
    except (tokenize.TokenError, zipfile.BadZipFile) as error:
        raise ValueError(f"it is cut short ({error.args[0]})") from None
    if not isinstance(array, np.ndarray):
        raise ValueError("it is an archive of arrays")
    return array
