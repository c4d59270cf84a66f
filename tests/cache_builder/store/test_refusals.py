"""What a writer refuses, and what a disk can do to it."""

from __future__ import annotations

import errno
import json
import os

import numpy as np
import pytest

from cckt.cache_builder.base.digests import digest_of
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.runner import ExactPart
from cckt.cache_builder.store import column_info, open_column, open_writer, verify_column
from cckt.cache_builder.store.format.spec import canonical
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


def test_a_refusal_names_the_entries_that_differ(tmp_path):
    make(tmp_path, crops_spec(recipe={"a": 1, "b": {"c": "x", "d": 2}, "e": "sha256:1", "f": [1]}))
    recipe = {"a": 1, "b": {"c": "y", "d": 3}, "e": "sha256:2", "g": {"h": 1}}
    with pytest.raises(UserError) as caught:
        open_writer(tmp_path, crops_spec(recipe=recipe))
    told = (
        "(b.c 'x' instead of 'y', b.d 2 instead of 3, e 'sha256:1' instead of 'sha256:2' and 2 more); keep it"
    )
    assert told in str(caught.value)


@pytest.mark.parametrize("edit", [("tiny/one", "tiny/two"), ("cckt.column/1", "cckt.column/9")])
def test_overwrite_replaces_even_an_edited_manifest(tmp_path, edit):
    make(tmp_path, crops_spec())
    manifest = tmp_path / "crops/zarr.json"
    manifest.write_text(manifest.read_text().replace(*edit))
    with pytest.raises(UserError, match=r"was edited|has schema"):
        open_writer(tmp_path, crops_spec())
    assert len(open_writer(tmp_path, crops_spec(), overwrite=True).missing()) == 7


GROUPS = [
    "{}",
    '{"zarr_format":3,"node_type":"group","attributes":{}}',
    "[]",
    "",
    '{"attributes": {"cckt": 1}}',
]


@pytest.mark.parametrize("document", GROUPS)
@pytest.mark.parametrize("other", ["values/c.0.0", "mine/c.0"])
def test_overwrite_never_deletes_a_zarr_group_of_somebody_else(tmp_path, document, other):
    (tmp_path / "crops" / other).parent.mkdir(parents=True)
    (tmp_path / "crops" / other).write_text("precious")
    (tmp_path / "crops/zarr.json").write_text(document)
    before = tree(tmp_path)
    with pytest.raises(UserError, match="no manifest of a column"):
        open_writer(tmp_path, crops_spec())
    with pytest.raises(UserError, match=r"crops holds a zarr\.json that cckt did not make: .* --out"):
        open_writer(tmp_path, crops_spec(), overwrite=True)
    assert tree(tmp_path) == before


PHOTOS = [
    "00000000.png",
    "ledger/page1.png",
    "shot.tmp-1.png",
    "values/c.0.0.png",
    "sub/.tmp-1",
    "ledger/a/b.jsonl",
]


@pytest.mark.parametrize("photo", PHOTOS)
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_column_is_not_begun_among_other_files(tmp_path, photo, overwrite):
    (tmp_path / "crops" / photo).parent.mkdir(parents=True)
    (tmp_path / "crops" / photo).write_text("precious")
    with pytest.raises(
        UserError, match=f"crops holds {photo} that do not belong to a column: .* nothing was deleted"
    ):
        open_writer(tmp_path, crops_spec(), overwrite=overwrite)
    assert list(tree(tmp_path)) == [f"crops/{photo}"]


@pytest.mark.parametrize("photo", PHOTOS)
def test_overwrite_never_deletes_photos_in_the_folder_of_a_column(tmp_path, photo):
    make(tmp_path, crops_spec())
    (tmp_path / "crops" / photo).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "crops" / photo).write_text("precious")
    before = tree(tmp_path)
    with pytest.raises(UserError, match=f"crops holds {photo} that do not belong to a column"):
        open_writer(tmp_path, crops_spec(width=8), overwrite=True)
    assert tree(tmp_path) == before
    make(tmp_path, crops_spec(), overwrite=True)  # the same column made again replaces only its own files
    assert tree(tmp_path) == before


def test_a_foreign_array_with_the_name_of_ours_is_refused(tmp_path):
    (tmp_path / "crops/values").mkdir(parents=True)
    (tmp_path / "crops/values/zarr.json").write_text("{}")
    (tmp_path / "crops/values/c.0.0").write_text("precious")
    with pytest.raises(UserError, match=r"crops holds values/zarr\.json that do not belong to a column"):
        open_writer(tmp_path, crops_spec(), overwrite=True)
    assert (tmp_path / "crops/values/c.0.0").read_text() == "precious"


def test_files_that_a_file_system_leaves_behind_are_ignored(tmp_path):
    (tmp_path / "crops").mkdir()
    for name in (".DS_Store", ".nfs0000123", ".tmp-killed"):
        (tmp_path / "crops" / name).touch()
    assert open_writer(tmp_path, crops_spec()).missing() == list(range(7))


def edited(folder, **changes):
    """Write a manifest with changed fields whose digest is right again."""
    document = json.loads((folder / "zarr.json").read_text())
    fields = document["attributes"]["cckt"]
    fields.update(changes)
    del fields["digest"]
    fields["digest"] = digest_of(canonical(fields))
    (folder / "zarr.json").write_text(json.dumps(document))


BOMBS = [
    ({"reasons": {"x": "0-99999999999"}}, "row 99999999999 of 100 rows has the reason 'x'"),
    ({"reasons": {"x": "5-3"}}, "is not ascending"),
    ({"reasons": {"x": "-5"}}, "is not a run of numbers"),
    ({"reasons": {"x": "9" * 5000}}, "contradicts itself"),
    ({"rows": 10**15}, "chunks"),
    ({"rows": 10**15, "chunk_rows": 10**14}, "it has digests of chunks"),
    ({"rows": "100"}, "contradicts itself"),
    ({"invalid": 101}, "101 of 100 rows are invalid"),
    ({"documents": {"../../evil": "sha256:x"}}, r"documents are \['\.\./\.\./evil'\]"),
    ({"chunks": {"../../evil": ["sha256:x"]}}, "it has digests of chunks"),
    ({"name": "../evil"}, "cannot be used"),
    ({"table": "passwords"}, "contradicts itself"),
    ({"recipe": []}, "recipe is not a mapping"),
]


@pytest.mark.parametrize(("changes", "what"), BOMBS)
def test_a_manifest_that_contradicts_itself_is_refused_before_it_is_expanded(tmp_path, changes, what):
    make(tmp_path, crops_spec())
    edited(tmp_path / "crops", **changes)
    for look in (column_info, open_column):
        with pytest.raises(UserError, match=what) as caught:
            look(tmp_path, "crops")
        assert "\n" not in str(caught.value)
    assert [problem.kind for problem in verify_column(tmp_path, "crops", repair=True).problems] == [
        "manifest"
    ]


def test_a_group_that_zarr_cannot_open_is_refused(tmp_path):
    make(tmp_path, crops_spec())
    group = tmp_path / "crops/zarr.json"
    group.write_text(group.read_text().replace('"zarr_format": 3', '"zarr_format": 7'))
    with pytest.raises(UserError, match="no manifest of a column"):
        open_column(tmp_path, "crops")


@pytest.mark.parametrize("name", ["../x", "/etc", "a/../../b", ".", "crops/", "crops\\x", "C:x", "Crops"])
def test_a_name_that_could_leave_the_data_set_is_not_opened(tmp_path, name):
    (tmp_path / "x").mkdir()
    make(tmp_path / "x", crops_spec())
    for opened in (open_column, column_info, verify_column):
        with pytest.raises(UserError, match=r"Column name .* cannot be used"):
            opened(tmp_path / "y", name)


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.ENOSPC, "disk or quota is full: free some space"),
        (errno.EROFS, "the disk is read-only"),
        (errno.EIO, "could not be used"),
    ],
)
@pytest.mark.parametrize("where", ["fsync", "replace", "write"])
def test_a_failing_disk_leaves_no_partial_file(tmp_path, monkeypatch, number, sentence, where):
    spec = crops_spec()
    make(tmp_path / "whole", spec)
    make(tmp_path / "data", spec, part=ExactPart((0, 2)))
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


def test_a_folder_that_vanishes_is_a_user_error(tmp_path):
    spec = crops_spec()
    writer = open_writer(tmp_path / "data", spec)
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    values = np.stack([row_of(spec, row) for row in range(16)])
    with pytest.raises(UserError, match="vanished"):
        writer.write(0, values)
    assert not (tmp_path / "data").exists()


def test_a_file_in_the_place_of_the_folder_is_a_user_error(tmp_path):
    (tmp_path / "data").write_text("")
    with pytest.raises(UserError, match="data: could not be used because a part of this path is a file"):
        open_writer(tmp_path / "data", crops_spec())


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_folder_is_a_user_error(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="read-only"):
        open_writer(tmp_path, crops_spec())


@pytest.mark.parametrize("name", ["", "Crops", "a//b", "../x", "index", "index/x", "a/../b", "crops/"])
def test_column_names_outside_the_data_set_are_refused(name):
    with pytest.raises(UserError, match="cannot be used"):
        crops_spec(name=name)


def test_a_column_with_no_values_or_no_rows_in_a_chunk_is_refused():
    with pytest.raises(UserError, match="rows of 0 values"):
        crops_spec(width=0)
    with pytest.raises(UserError, match="chunk_rows is 0"):
        crops_spec(chunk_rows=0)


def test_a_pipe_or_device_in_the_place_of_a_chunk_is_refused_and_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    for name in ("pipe", "endless"):
        with pytest.raises(UserError, match=rf"{name}: is a pipe or a device, expected a file"):
            files_module.LocalFiles(tmp_path).get(name)
