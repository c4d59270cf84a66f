"""Earlier indexes: the digests that columns use are found while other makers move columns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cckt.cache_builder.base.listing import LISTINGS
from cckt.cache_builder.index import generations


@pytest.mark.parametrize("vanished", [0, 1, LISTINGS])
def test_a_folder_that_vanishes_while_it_is_listed_hides_no_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vanished: int
) -> None:
    (tmp_path / "crops").mkdir()
    (tmp_path / "crops/zarr.json").write_text("sha256:used")
    glob, left = Path.glob, [vanished]

    def vanishing(path: Path, pattern: str) -> Iterator[Path]:
        if pattern.startswith(".grow") and left[0]:
            left[0] -= 1
            raise FileNotFoundError(".grow")
        return glob(path, pattern)

    monkeypatch.setattr(Path, "glob", vanishing)
    assert b"sha256:used" in generations.digests_in_use(tmp_path)
    left[0] = 10**6
    with pytest.raises(FileNotFoundError):
        generations.digests_in_use(tmp_path)
