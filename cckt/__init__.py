"""Open-vocabulary object detection by distilling a frozen CLIP: `from cckt import Detector`.

The rooms at the top of the repository (cache_builder, detector, commands, shapeworld, ablation, cli.py) are
subpackages of this one: links in a checkout, folders in a wheel. A file `detector.py` or `cli.py` in the
user's folder therefore never shadows them. The Python API is imported on first use, so `--help` stays fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cckt.api import Detector, Prediction, UserError, Vocabulary, write_coco, write_csv, write_yolo

__all__ = ["Detector", "Prediction", "UserError", "Vocabulary", "write_coco", "write_csv", "write_yolo"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("cckt.api"), name)
    if name == "__version__":
        return import_module("importlib.metadata").version("cckt")
    raise AttributeError(f"module 'cckt' has no attribute {name!r}")
