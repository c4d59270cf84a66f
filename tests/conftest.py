"""Set up the processes of a distributed run (`pytest -n auto`) before torch starts its threads."""

from __future__ import annotations

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # one thread per process, here and in the commands that tests start
    os.environ.setdefault("OMP_NUM_THREADS", "1")
