"""Where tests find the repository, and real data that may lie beside it."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
"""Real photos and records; tests that need them are skipped where they are absent."""
