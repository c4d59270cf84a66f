"""Open-vocabulary object detection by distilling a frozen CLIP: `from cckt import Detector`.

The folders at the top of the repository are subpackages of this package: links in a checkout, real folders in
a wheel. A user's own `detector.py` or `cli.py` therefore never shadows them. The Python API is imported on
first use, so that `cckt --help` stays fast.

    __main__.py        python -m cckt
    api.py             the Python API
    cli.py             the command line
    ablation/          the paper's tables on any data
    cache_builder/     index of a data set, and cached teacher features as columns
    commands/          the commands of the command line
    detector/          training, evaluation and use of the detector
    quickstart/        the whole pipeline on shapeworld
    shapeworld/        a synthetic data set with its teacher
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cckt.api import (
        Detector,
        Prediction,
        UserError,
        Vocabulary,
        write_coco,
        write_coco_results,
        write_csv,
        write_voc,
        write_yolo,
    )

__all__ = [
    "Detector",
    "Prediction",
    "UserError",
    "Vocabulary",
    "write_coco",
    "write_coco_results",
    "write_csv",
    "write_voc",
    "write_yolo",
]

__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    """Import a name of the Python API."""
    if name in __all__:
        return getattr(import_module("cckt.api"), name)
    raise AttributeError(f"module 'cckt' has no attribute {name!r}")
