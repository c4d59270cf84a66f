"""Object and zero-shot detectors of transformers, as sources of class-agnostic regions.

load.py      load a detector and its processor, frozen; no code of a model folder is run
regions.py   `DetectorProposer`: from photos to boxes and scores, whatever the architecture
"""

from cckt.cache_builder.detectors.load import FrozenDetector, load_detector
from cckt.cache_builder.detectors.regions import DetectorProposer

__all__ = ["DetectorProposer", "FrozenDetector", "load_detector"]
