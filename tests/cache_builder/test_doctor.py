"""Findings on the installation, on data sets and on teachers."""

from __future__ import annotations

import importlib.metadata
import shutil
from pathlib import Path

import numpy as np
import pytest

from cckt.cache_builder.columns.crops import cache_crops
from cckt.cache_builder.columns.images import cache_images
from cckt.cache_builder.columns.text import cache_text
from cckt.cache_builder.doctor.data import check_data, check_leak
from cckt.cache_builder.doctor.finding import Finding
from cckt.cache_builder.doctor.machine import check_installation, check_machine
from cckt.cache_builder.doctor.models import check_teachers
from cckt.cache_builder.index import open_index
from tests.cache_builder.samples import index_photos, write_photos, write_teacher


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_photos(tmp_path)


def bad(findings: list[Finding]) -> str:
    """Return the messages of what must be repaired."""
    return "; ".join(f"{one.subject}: {one.message}" for one in findings if one.level == "bad")


def test_an_empty_folder_holds_no_index(tmp_path: Path) -> None:
    assert "holds no index" in bad(check_data(tmp_path))
    assert "holds no index" in bad(check_leak(tmp_path))
    assert check_teachers([tmp_path]) == []


def test_a_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (found,) = check_installation()
    assert found.level == "good"
    assert "torch " in found.message
    assert check_machine()[0].level == "good"
    known = importlib.metadata.version

    def version(name: str) -> str:
        if name == "zarr":
            raise importlib.metadata.PackageNotFoundError(name)
        return known(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert "zarr>=3.1 is missing; run pip install 'zarr>=3.1'" in bad(check_installation())


def test_a_data_set_without_columns_gets_a_warning(data: Path) -> None:
    findings = check_data(data)
    assert not bad(findings)
    assert any("no column yet" in one.message and one.level == "warn" for one in findings)


def test_tables_that_were_changed_are_found(data: Path) -> None:
    folder = data / "index" / open_index(data).card["tables"]
    areas = np.load(folder / "areas.npy")
    np.save(folder / "areas.npy", areas + 1)
    found = bad(check_data(data))
    assert "the tables are not those that were built" in found
    assert "/areas.npy is damaged" in found


def test_photos_that_cannot_be_read_are_found(data: Path, tmp_path: Path) -> None:
    (tmp_path / "photos" / "000.png").unlink()
    (found,) = [one for one in check_data(data) if one.message.startswith("photos")]
    assert found.level == "warn"
    assert "1 of a sample of 6 cannot be read, the first: 000.png does not exist" in found.message
    for path in (tmp_path / "photos").iterdir():
        path.write_bytes(b"")
    (tmp_path / "photos" / "000.png").touch()
    assert "6 of a sample of 6 cannot be read" in bad(check_data(data))
    shutil.rmtree(tmp_path / "photos")
    assert "the folder of the photos of" in bad(check_data(data))


def test_columns_of_two_teachers_and_of_another_index_are_found(data: Path, tmp_path: Path) -> None:
    first, second = (write_teacher(tmp_path / name, seed) for seed, name in enumerate(("first", "second")))
    cache_text(data, first)
    cache_images(data, first)
    assert not bad(check_data(data))
    cache_images(data, second, overwrite=True)
    assert "columns of several teachers" in bad(check_data(data))
    told = {one.message.split(": ")[0]: one.level for one in check_teachers([data])}
    assert told == {first: "good", second: "good"}
    assert len(check_teachers([data, data])) == 2
    write_teacher(tmp_path / "second", 7)
    assert "other weights than the columns'" in bad(check_teachers([data]))
    shutil.rmtree(tmp_path / "second")
    assert {one.level for one in check_teachers([data])} == {"good", "warn"}, "gone is worth a warning"


def test_a_column_of_another_index_names_the_command_that_makes_it_again(data: Path, tmp_path: Path) -> None:
    cache_crops(data, write_teacher(tmp_path / "teacher"))
    text = (tmp_path / "coco.json").read_text()
    (tmp_path / "coco.json").write_text(text.replace('"name": "cat"', '"name": "lynx"'))
    index_photos(tmp_path)
    told = bad(check_data(data))
    assert "made for another index" in told
    assert f"cckt cache crops {data} --teacher" in told


def test_the_leak_check_counts_boxes_and_the_rows_of_crops(data: Path, tmp_path: Path) -> None:
    cache_crops(data, write_teacher(tmp_path / "teacher"))
    boxes = len(open_index(data).box_images)
    findings = check_leak(data)
    assert not bad(findings)
    assert f"{boxes} boxes were read, all of base concepts" in findings[0].message
    assert f"column crops holds {boxes} boxes, these and no others" in findings[1].message
