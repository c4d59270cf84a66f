"""The loop of every column: read rows, map them on a device, write chunks; the three overlap.

`run_chunks` makes one column; `run_targets` makes several from one pass over the photos. What is made does
not depend on kills, on ranks or parts, or on how many workers read.
"""

from __future__ import annotations

from cckt.cache_builder.runner.batch_loop import Item, RunReport
from cckt.cache_builder.runner.parts import part_of
from cckt.cache_builder.runner.run import Job, Target, run_chunks, run_targets
from cckt.cache_builder.runner.signals import Interrupted

__all__ = ["Interrupted", "Item", "Job", "RunReport", "Target", "part_of", "run_chunks", "run_targets"]
