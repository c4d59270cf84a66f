"""Make columns: read rows, map them on a device, write chunks. The three steps overlap.

    run.py               make one column, or several in one pass
    plan.py              the work of a run, divided into units that makers share
    parts.py             which maker of several this process is
    pipeline.py          make units: read, map and write at the same time
    read_ahead.py        read jobs in threads or processes, a bounded number ahead
    chunk_assembler.py   batch the items that were read, map them, assemble chunks
    writer_thread.py     write finished chunks in a thread
    run_report.py        what a run did to a column
    signals.py           stop cleanly on Ctrl-C and SIGTERM

    engines/             who makes the units: this process with claims, or the actors of a Ray cluster

The bytes of a column do not depend on kills, on engines, ranks or parts, or on the number of readers.
"""

from __future__ import annotations

from cckt.cache_builder.runner.chunk_assembler import Item
from cckt.cache_builder.runner.parts import ExactPart, part_of
from cckt.cache_builder.runner.plan import Job, Target
from cckt.cache_builder.runner.run import run_chunks, run_targets
from cckt.cache_builder.runner.run_report import RunReport
from cckt.cache_builder.runner.signals import Interrupted

__all__ = [
    "ExactPart",
    "Interrupted",
    "Item",
    "Job",
    "RunReport",
    "Target",
    "part_of",
    "run_chunks",
    "run_targets",
]
