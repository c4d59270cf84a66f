"""Make columns: read rows, map them on a device, write chunks. The three steps overlap.

    run.py               make one column, or several in one pass
    parts.py             divide chunks among processes
    read_ahead.py        read jobs in threads or processes, a bounded number ahead
    chunk_assembler.py   batch the items that were read, map them, assemble chunks
    writer_thread.py     write finished chunks in a thread
    run_report.py        what a run did to a column
    signals.py           stop cleanly on Ctrl-C and SIGTERM

The bytes of a column do not depend on kills, on ranks or parts, or on the number of readers.
"""

from __future__ import annotations

from cckt.cache_builder.runner.chunk_assembler import Item
from cckt.cache_builder.runner.parts import part_of
from cckt.cache_builder.runner.run import Job, Target, run_chunks, run_targets
from cckt.cache_builder.runner.run_report import RunReport
from cckt.cache_builder.runner.signals import Interrupted

__all__ = [
    "Interrupted",
    "Item",
    "Job",
    "RunReport",
    "Target",
    "part_of",
    "run_chunks",
    "run_targets",
]
