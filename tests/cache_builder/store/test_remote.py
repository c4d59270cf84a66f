"""Columns behind a URL: the same bytes, the same refusals; staging to a folder."""

from __future__ import annotations

import json
import pickle
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable

import numpy as np
import pytest
import zarr

from cckt.cache_builder.base.digests import digest_of
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.runner import ExactPart
from cckt.cache_builder.store import column_info, list_columns, open_column, open_writer, pull, verify_column
from cckt.cache_builder.store.format.spec import canonical
from cckt.cache_builder.store.places.files import LocalFiles, open_files
from tests.cache_builder.column_samples import crops_spec, is_bad, make, tree

fsspec = pytest.importorskip("fsspec", reason="needs the extra `remote`")


@pytest.fixture(scope="session")
def s3_server():
    """moto's S3 server on loopback."""
    pytest.importorskip("moto", reason="needs moto[server]")
    pytest.importorskip("s3fs", reason="needs s3fs")
    pytest.importorskip("flask", reason="needs moto[server]")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(address, timeout=5).close()
                break
            except OSError:
                time.sleep(0.1)
        else:
            pytest.skip("moto's server did not start within a minute")
        yield address
    finally:
        server.terminate()
        server.wait()


@pytest.fixture(params=["memory", "file"])
def url(request, tmp_path) -> str:
    """An empty data set in each kind of store that costs nothing."""
    return request.getfixturevalue("empty")(request.param)


@pytest.fixture(params=["memory", "file", "s3"])
def any_url(request) -> str:
    """An empty data set in each kind of store."""
    return request.getfixturevalue("empty")(request.param)


@pytest.fixture
def empty(request, tmp_path, monkeypatch) -> Callable[[str], str]:
    """Makes an empty data set of a kind."""

    def make_one(kind: str) -> str:
        if kind == "memory":
            return f"memory://{uuid.uuid4().hex}/coco"
        if kind == "file":
            return f"file://{tmp_path}/coco"
        use_server(monkeypatch, request.getfixturevalue("s3_server"))
        bucket = f"b{uuid.uuid4().hex}"
        fsspec.filesystem("s3").mkdir(bucket)
        return f"s3://{bucket}/coco"

    return make_one


def use_server(monkeypatch, address: str) -> None:
    """Credentials and address as a user gives them: by the library's own environment variables."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


def test_every_place_implements_chunk_files(any_url):
    files = open_files(any_url, "crops")
    assert files.get("a/b") is None
    assert files.size("a/b") is None
    assert files.sizes() == {}
    files.remove(["a/b"])
    assert files.put("a/b", b"one", new=True)
    assert not files.put("a/b", b"two", new=True)
    assert files.get("a/b") == b"one"
    assert files.put("a/b", np.arange(3, dtype=np.float16).reshape(1, 3).data)
    assert files.size("a/b") == 6
    files.append("a/ledger", b"x\n")
    files.append("a/ledger", b"y\n")
    assert files.get("a/ledger") == b"x\ny\n"
    assert files.sizes() == {"a/b": 6, "a/ledger": 4}
    files.remove(["a/b"])
    assert files.sizes() == {"a/ledger": 4}
    files.clear()
    assert files.sizes() == {}
    files.clear()


def test_a_column_is_written_in_parts_read_and_verified(any_url, tmp_path):
    spec = crops_spec(40, 16)
    make(any_url, spec, part=ExactPart((1, 2)))
    with pytest.raises(
        UserError, match=f"not finished: .* run `cckt cache crops {any_url} --teacher tiny/one`"
    ):
        open_column(any_url, "crops")
    assert column_info(any_url, "crops").missing == (0, 2)
    assert make(any_url, spec).made == 2
    make(tmp_path / "local", spec)
    local = open_column(tmp_path / "local", "crops")
    column = pickle.loads(pickle.dumps(open_column(any_url, "crops")))  # noqa: S301 -- our own, as a worker gets it
    rows = np.array([39, 0, 16, 16, 15])
    assert np.array_equal(column.take(rows), local.take(rows))
    assert np.array_equal(column.valid(rows), [not is_bad(spec, row) for row in rows])
    assert np.array_equal(column.all(), local.all())
    assert np.array_equal(column.valid_all(), local.valid_all())
    assert column.manifest.digest == local.manifest.digest
    assert verify_column(any_url, "crops").ok
    files, here = open_files(any_url, "crops"), LocalFiles(tmp_path / "local/crops")
    assert files.sizes() == here.sizes()
    assert all(files.get(name) == here.get(name) for name in here.sizes())


def test_damage_is_found_and_repaired(url):
    spec = crops_spec(40, 16)
    make(url, spec)
    files = open_files(url, "crops")
    digest = open_column(url, "crops").manifest.digest
    files.put("values/c.1.0", bytes(768))
    files.remove(["valid/c.2"])
    with pytest.raises(UserError, match=r"valid/c\.2 gave no such file|valid/c\.2 cannot be read"):
        open_column(url, "crops").valid([39])
    assert verify_column(url, "crops", repair=True).repaired == (1, 2)
    assert make(url, spec).made == 2
    assert open_column(url, "crops").manifest.digest == digest


def test_another_column_is_refused_or_replaced(url):
    make(url, crops_spec(20))
    with pytest.raises(UserError, match="another index"):
        open_writer(url, crops_spec(20, index_digest="sha256:other"))
    assert open_writer(url, crops_spec(20, index_digest="sha256:other"), overwrite=True).missing() == [0, 1]


def test_any_zarr_client_opens_it(any_url):
    make(any_url, crops_spec(20))
    if any_url.startswith("file://"):
        group = zarr.open_group(f"{any_url}/crops", mode="r")
    else:
        group = zarr.open_group(
            zarr.storage.FsspecStore.from_url(f"{any_url}/crops", read_only=True), mode="r"
        )
    assert np.array_equal(group["values"][:], open_column(any_url, "crops").all())


def test_pull_copies_columns_and_resumes(any_url, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no column under"):
        pull(any_url, tmp_path / "staged")
    for spec in (crops_spec(60, 8), crops_spec(5, 2, name="priors/clip")):
        make(any_url, spec)
        make(tmp_path / "local", spec)
    assert list_columns(any_url) == ["crops", "priors/clip"]
    real = LocalFiles.put
    calls = []

    def full(self, name, data, **options):
        calls.append(name)
        if len(calls) == 9:
            raise UserError("disk full")
        return real(self, name, data, **options)

    with monkeypatch.context() as patch:
        patch.setattr(LocalFiles, "put", full)
        with pytest.raises(UserError, match="disk full"):
            pull(any_url, tmp_path / "staged", workers=1)
    with pytest.raises(UserError, match="no column"):
        open_column(tmp_path / "staged", "crops")
    report = pull(any_url, tmp_path / "staged")
    assert 6 <= report.kept < 16  # what stood before the disk was full
    assert report.columns == ("crops", "priors/clip")
    assert tree(tmp_path / "staged") == tree(tmp_path / "local")
    again = pull(any_url, tmp_path / "staged", ["crops"])
    assert (again.fetched, again.kept, again.bytes) == (0, 16, 0)


def test_pull_refuses_damage_and_other_columns(url, tmp_path):
    make(url, crops_spec(20))
    make(tmp_path / "other", crops_spec(20, recipe={}))
    with pytest.raises(UserError, match="holds another column: found digest sha256:"):
        pull(url, tmp_path / "other")
    open_files(url, "crops").put("values/c.0.0", bytes(768))
    with pytest.raises(UserError, match=r"values/c\.0\.0 is damaged: found sha256:.* expected sha256:"):
        pull(url, tmp_path / "staged")


@pytest.mark.parametrize(
    "name", ["../crops", "/etc/crops", "crops/../../x", "notes", "text-flipped", ".tmp-x"]
)
def test_pull_copies_only_names_of_columns(url, tmp_path, name):
    make(url, crops_spec(20))
    with pytest.raises(UserError, match=r"is not the name of a column: .* holds crops"):
        pull(url, tmp_path / "staged", [name])
    assert not (tmp_path / "staged").exists()


@pytest.mark.parametrize("key", ["../evil", "crops/../../evil", "notes", "/evil"])
def test_keys_of_a_malicious_store_are_no_columns(tmp_path, key):
    """Whatever a store lists, a pull writes only what the grammar of names makes of it."""
    address = f"memory://{uuid.uuid4().hex}/coco"
    make(address, crops_spec(20))
    system = fsspec.filesystem("memory")
    root = address.removeprefix("memory://")
    for stored, content in list(system.store.items()):
        if stored.startswith(f"/{root}/crops/"):
            system.store[stored.replace("/crops/", f"/{key}/", 1)] = content
    assert list_columns(address) == ["crops"]
    pull(address, tmp_path / "a/b/staged")
    assert {path.name for path in tmp_path.rglob("*") if path.parent.name in ("b", "staged")} == {
        "staged",
        "crops",
    }


def test_a_manifest_that_names_files_elsewhere_is_not_pulled(url, tmp_path):
    make(url, crops_spec(20))
    files = open_files(url, "crops")
    document = json.loads(files.get("zarr.json"))
    fields = document["attributes"]["cckt"]
    for changes in (
        {"documents": {**fields["documents"], "../../../evil": digest_of(b"evil")}},
        {"chunks": {**fields["chunks"], "../../../evil": [digest_of(b"evil")]}},
    ):
        forged = {key: value for key, value in {**fields, **changes}.items() if key != "digest"}
        document["attributes"]["cckt"] = {**forged, "digest": digest_of(canonical(forged))}
        files.put("zarr.json", json.dumps(document).encode())
        with pytest.raises(UserError, match="contradicts itself"):
            pull(url, tmp_path / "a/b/staged")
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and "evil" in path.name]
    assert not (tmp_path / "a/b/staged/crops").exists()


def test_a_pull_does_not_copy_among_other_files(url, tmp_path):
    make(url, crops_spec(20))
    (tmp_path / "staged/crops").mkdir(parents=True)
    (tmp_path / "staged/crops/photo.png").write_text("precious")
    with pytest.raises(UserError, match=r"crops holds photo\.png that do not belong to a column"):
        pull(url, tmp_path / "staged")
    assert list(tree(tmp_path / "staged")) == ["crops/photo.png"]


def test_a_killed_pull_leaves_nothing_behind(url, tmp_path, monkeypatch):
    """Temporary files of a killed pull are removed by the next one, or by verify --repair."""
    make(url, crops_spec(20))
    pull(url, tmp_path / "staged")
    left = tmp_path / "staged/crops/values/.tmp-killed"
    left.write_bytes(b"half a chunk")
    assert [problem.kind for problem in verify_column(tmp_path / "staged", "crops").problems] == ["foreign"]
    verify_column(tmp_path / "staged", "crops", repair=True)
    assert verify_column(tmp_path / "staged", "crops").ok
    left.write_bytes(b"half a chunk")
    pull(url, tmp_path / "staged")
    assert verify_column(tmp_path / "staged", "crops").ok
    (tmp_path / "staged/crops/zarr.json").unlink()
    left.write_bytes(b"half a chunk")
    pull(url, tmp_path / "staged")
    assert verify_column(tmp_path / "staged", "crops").ok


@pytest.mark.parametrize(("kind", "fault"), [("s3", None), ("memory", OSError(22, "PreconditionFailed"))])
def test_a_claim_on_an_object_has_one_holder(empty, monkeypatch, kind, fault):
    """The conditional put decides, also where the look before it finds nothing yet."""
    place = empty(kind)
    open_writer(place, crops_spec(20))
    claims = [open_writer(place, crops_spec(20)).claims(2) for _ in range(3)]
    system = claims[1]._files._system
    monkeypatch.setattr(type(system), "exists", lambda self, path, **options: False)
    if fault is not None:
        real = type(system).pipe_file

        def conflict(self, path, value, mode="overwrite", **options):
            if mode == "create" and not fresh:
                raise fault
            fresh.clear()
            return real(self, path, value, mode="overwrite", **options)

        fresh = [True]
        monkeypatch.setattr(type(system), "pipe_file", conflict)
    assert [one.take(0) for one in claims] == [True, False, False]


def test_a_scheme_without_its_library_is_a_user_error():
    with pytest.raises(UserError, match=r"needs a library for nowhere:// .* `pip install 'cckt\[remote\]'`"):
        open_column("nowhere://x", "crops")


def test_a_store_that_fails_is_a_user_error(s3_server, monkeypatch):
    use_server(monkeypatch, s3_server)
    with pytest.raises(UserError, match="check the address, the credentials and the network"):
        open_writer("s3://there-is-no-such-bucket/coco", crops_spec(20))
