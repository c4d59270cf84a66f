"""A killed command leaves no worker behind, wherever its workers are idle or busy."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.faults.kills import alive_in
from tests.places import ROOT


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_renderers_end_with_their_parent(tmp_path: Path) -> None:
    words = ["data", "shapeworld", "--photos", "5000", "--workers", "2", "--out", str(tmp_path / "new")]
    command = subprocess.Popen(
        [sys.executable, "-m", "cckt", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        for _ in range(1200):  # until both render
            if len(list((tmp_path / "new/photos").glob("*.png"))) > 32:
                break
            time.sleep(0.1)
        assert command.poll() is None, "expected a command that is still rendering"
        os.kill(command.pid, signal.SIGKILL)
        command.wait()
        for _ in range(600):
            if not alive_in(command.pid):
                return
            time.sleep(0.1)
        raise AssertionError("workers live on")
    finally:
        if alive_in(command.pid):
            os.killpg(command.pid, signal.SIGKILL)
