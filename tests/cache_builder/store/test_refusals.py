"""What a writer refuses, and what a disk can do to it."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.store import open_column, open_writer
from cckt.cache_builder.store.places import files as files_module
from tests.cache_builder.column_samples import crops_spec, make, row_of, tree


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"index_digest": "sha256:other"}, "index: found sha256:index, expected sha256:other"),
        ({"recipe": {"teacher": "x"}}, f"recipe: found {crops_spec().recipe_digest}, expected sha256:"),
        ({"width": 25}, "shape: found 100 x 24 float16 in chunks of 16, expected 100 x 25"),
    ],
)
def test_another_column_in_the_place_is_refused_and_replaced_on_demand(tmp_path, changes, what):
    make(tmp_path, crops_spec())
    other = crops_spec(**changes)
    with pytest.raises(UserError, match=what) as caught:
        open_writer(tmp_path, other)
    assert "--overwrite`" in str(caught.value)
    assert open_writer(tmp_path, other, overwrite=True).missing() == list(range(7))
    assert not list(tmp_path.glob(".tmp-*"))


def test_overwrite_replaces_even_an_edited_manifest(tmp_path):
    make(tmp_path, crops_spec())
    (tmp_path / "crops/zarr.json").write_text("{}")
    with pytest.raises(UserError, match="no manifest of a column"):
        open_writer(tmp_path, crops_spec())
    assert len(open_writer(tmp_path, crops_spec(), overwrite=True).missing()) == 7


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.ENOSPC, "disk or quota is full: free some space"),
        (errno.EROFS, "read-only for this user"),
        (errno.EIO, "could not be used"),
    ],
)
@pytest.mark.parametrize("where", ["fsync", "replace", "write"])
def test_a_failing_disk_tears_nothing(tmp_path, monkeypatch, number, sentence, where):
    spec = crops_spec()
    make(tmp_path / "whole", spec)
    make(tmp_path / "data", spec, part=(0, 2))
    calls = []
    real = getattr(files_module.os, where)

    def fail(*arguments):
        calls.append(arguments)
        if len(calls) >= 2:
            raise OSError(number, os.strerror(number))
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(files_module.os, where, fail)
        with pytest.raises(UserError, match=sentence) as caught:
            make(tmp_path / "data", spec)
    assert "run the same command again" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="not finished"):
        open_column(tmp_path / "data", "crops")
    make(tmp_path / "data", spec)
    assert tree(tmp_path / "data") == tree(tmp_path / "whole")


def test_a_folder_that_vanishes_is_told(tmp_path):
    spec = crops_spec()
    writer = open_writer(tmp_path / "data", spec)
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    values = np.stack([row_of(spec, row) for row in range(16)])
    with pytest.raises(UserError, match="vanished"):
        writer.write(0, values)
    assert not (tmp_path / "data").exists()


def test_a_file_in_the_place_of_the_folder_is_told(tmp_path):
    (tmp_path / "data").write_text("")
    with pytest.raises(UserError, match="data/crops"):
        open_writer(tmp_path / "data", crops_spec())


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_folder_is_told(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="read-only"):
        open_writer(tmp_path, crops_spec())


@pytest.mark.parametrize("name", ["", "Crops", "a//b", "../x", "index", "index/x", "a/../b", "crops/"])
def test_column_names_that_could_climb_or_hide_are_refused(name):
    with pytest.raises(UserError, match="cannot be used"):
        crops_spec(name=name)


def test_a_column_without_values_or_rows_a_chunk_is_refused():
    with pytest.raises(UserError, match="rows of 0 values"):
        crops_spec(width=0)
    with pytest.raises(UserError, match="chunk_rows is 0"):
        crops_spec(chunk_rows=0)
