"""The engine ray on a cluster of nodes in processes: bytes, lost and late nodes, errors of workers."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.columns.crops import cache_crops
from cckt.cache_builder.columns.nouns.cache import cache_nouns
from cckt.cache_builder.proposals import Selection
from cckt.cache_builder.runner import Interrupted
from cckt.cache_builder.runner.engines import ray as engine
from cckt.cache_builder.runner.engines import ray_link
from cckt.cache_builder.runner.engines.ray_pool import placement
from cckt.cache_builder.store import open_writer
from cckt.cache_builder.store.claims import LEASE, _machine
from cckt.commands.cache.proposals import propose
from tests.cache_builder.column_samples import Recorder, make, tree
from tests.cache_builder.columns.growth.growing import some_photos
from tests.cache_builder.detectors.detector_models import write_detector
from tests.cache_builder.mllm.mllm_models import build_parts
from tests.cache_builder.runner.engines import makers
from tests.cache_builder.runner.engines.conftest import add_node
from tests.cache_builder.samples import write_photos, write_teacher
from tests.places import ROOT

ray = pytest.importorskip("ray", reason="needs ray")


def whole(folder):
    make(folder, makers.SPEC)
    return tree(folder)


def test_a_cluster_makes_the_bytes_of_one_process(cluster, tmp_path):
    report = engine.RayEngine().call(makers.plain, tmp_path / "ray")
    # `again` is not compared: on a busy machine a late chunk gets a second copy.
    assert (report.made, report.rows, report.skipped) == (40, 320, 0)
    assert report.notes == make(tmp_path / "alone", makers.SPEC).notes
    assert tree(tmp_path / "ray") == tree(tmp_path / "alone")
    again = engine.RayEngine().call(makers.plain, tmp_path / "ray")
    assert (again.made, again.skipped, again.manifest.digest) == (0, 40, report.manifest.digest)


def test_a_maker_of_several_columns_has_a_stage_for_each(cluster, tmp_path):
    reports = engine.RayEngine().call(makers.two_columns, tmp_path / "ray")
    assert [report.made for report in reports] == [40, 10]
    makers.two_columns(tmp_path / "alone")
    assert tree(tmp_path / "ray") == tree(tmp_path / "alone")


def test_a_killed_node_costs_the_chunks_in_hand_and_a_late_one_joins(cluster, tmp_path):
    node = add_node(cluster)
    out = tmp_path / "ray"

    reports = []

    def drive():
        reports.append(engine.RayEngine(cpus=1).call(makers.plain, out, delay=0.3))

    thread = threading.Thread(target=drive)
    thread.start()
    while len(list(out.glob("crops/values/c.*"))) < 8:
        time.sleep(0.05)
    cluster.remove_node(node, allow_graceful=False)
    add_node(cluster)
    thread.join()
    (report,) = reports
    assert report.manifest is not None
    assert report.again <= 3 * engine.AHEAD  # what the lost worker had in hand, and copies of late chunks
    assert tree(out) == whole(tmp_path / "alone")


def test_batches_span_the_chunks_in_hand_and_every_chunk_is_finished(cluster, tmp_path):
    report = engine.RayEngine(cpus=1).call(makers.spanning, tmp_path / "ray")
    assert report.manifest is not None
    assert report.rows >= 320
    assert tree(tmp_path / "ray") == whole(tmp_path / "alone")


def test_a_growing_column_has_the_bytes_of_a_build_from_nothing(cluster, tmp_path):
    """The driver begins it in `.grow/`; workers compare rows, copy them and make the others."""
    teacher = write_teacher(tmp_path / "teacher")
    small = {"chunk_rows": 8, "batch": 8, "workers": 1, "device": "cpu"}
    edited = some_photos(tmp_path, photos=6)
    data = edited.index(tmp_path / "data")
    cache_crops(data, teacher, **small)
    edited.add_box("003.png", (2.0, 2.0, 20.0, 20.0))
    edited.index(data)
    report = engine.RayEngine(cpus=1).call(cache_crops, data, teacher, **small)
    assert (report.copied_rows, report.made_rows) == (18, 1)
    assert not (data / ".grow").exists()
    cache_crops(edited.index(tmp_path / "fresh"), teacher, **small)
    assert tree(data / "crops") == tree(tmp_path / "fresh/crops")


@pytest.mark.slow
def test_proposals_and_nouns_have_the_bytes_of_one_process(cluster, tmp_path):
    """Workers load the detector and the multimodal LLM from their folders."""
    teacher = write_teacher(tmp_path / "teacher")
    detector = write_detector("owlv2", tmp_path / "detector")
    for part in build_parts("llava"):
        part.save_pretrained(tmp_path / "mllm")
    options = {"batch": 2, "device": "cpu", "workers": 1, "selection": Selection(4, min_side=16)}
    naming = {"teacher": teacher, "device": "cpu", "workers": 1, "chunk_rows": 4, "templates": "single"}
    trees = []
    for name, call in (
        ("ray", engine.RayEngine(cpus=1).call),
        ("alone", lambda maker, *a, **k: maker(*a, **k)),
    ):
        data = write_photos(tmp_path / name, photos=5)
        report = call(propose, data, None, detector, words="object", saw_novel="no", **options)
        assert report.manifest is not None
        cache_crops(data, teacher, of="proposals", device="cpu", workers=0)
        reports = call(cache_nouns, data, str(tmp_path / "mllm"), **naming)
        assert all(one.manifest is not None for one in reports[:3])
        trees.append(tree(data / "proposals"))
    assert trees[0] == trees[1]


@pytest.mark.parametrize(
    ("maker", "message"),
    [
        (
            makers.other_teacher,
            "column crops would get another teacher there: found sha256:worker, expected sha256:driver as",
        ),
        (
            makers.full_disk,
            "could not be written because the disk or quota is full: free some space; what",
        ),
    ],
)
def test_the_error_of_a_node_is_one_sentence_and_nothing_is_lost(cluster, tmp_path, maker, message):
    with pytest.raises(UserError) as caught:
        engine.RayEngine().call(maker, tmp_path, os.getpid())
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"node {socket.gethostname()}: ")
    assert "Traceback" not in str(caught.value)
    assert caught.value.exit_code == 2
    if maker is makers.full_disk:
        assert tree(tmp_path).keys() >= {"crops/zarr.json"}
        makers.plain(tmp_path)
        assert tree(tmp_path) == whole(tmp_path.parent / "alone")


def test_a_node_without_the_photos_is_one_sentence(cluster, tmp_path):
    data, bare = (write_photos(tmp_path / name) for name in ("set", "bare"))
    for photo in tmp_path.glob("bare/photos/*.png"):
        photo.unlink()
    with pytest.raises(UserError, match=r"^node .*: .*") as caught:
        engine.RayEngine().call(makers.no_photos, data, bare, os.getpid())
    assert "photo" in str(caught.value)


def test_a_node_with_another_version_is_one_sentence(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "__version__", "9.9.9")
    with pytest.raises(UserError, match=r"^node .*: found cckt .*, expected 9\.9\.9 as on the driver"):
        engine.RayEngine().call(makers.plain, tmp_path)


def test_a_fault_of_a_worker_is_no_error_of_the_user(cluster, tmp_path):
    with pytest.raises(RuntimeError, match="AssertionError: expected the driver"):
        engine.RayEngine().call(makers.broken, tmp_path, os.getpid())


def test_workers_that_die_at_their_start_end_the_run(cluster, tmp_path):
    with pytest.raises(UserError, match="3 workers in a row ended before they began"):
        engine.RayEngine(actors=1).call(makers.deadly, tmp_path, os.getpid())


def test_work_without_columns(cluster):
    seen = Recorder()
    found = engine.RayEngine().map(
        Squares, lambda device, cpus: (2,), [3, 1, 2], progress=seen, rows=[5, 6, 7]
    )
    assert found == [9, 1, 4]
    assert (seen.calls[0], seen.done) == (("start", "work", 18, "units"), 18)


class Squares:
    """A work that raises numbers to a power."""

    def __init__(self, power):
        self._power, self._begun = power, False

    def stage(self):
        begun, self._begun = self._begun, True
        return None if begun else "work"

    def make(self, unit):
        return unit**self._power


DRIVER = """
import sys
from pathlib import Path
from cckt.cache_builder.runner.engines.ray import RayEngine
from tests.cache_builder.runner.engines import makers
from tests.cache_builder.runner.engines.conftest import add_node
RayEngine(sys.argv[1], cpus=1).call(makers.plain, Path(sys.argv[2]), delay=0.3)
"""


@pytest.mark.slow
def test_a_killed_driver_goes_on_where_it_was(cluster, tmp_path):
    out = tmp_path / "ray"
    command = [sys.executable, "-c", DRIVER, cluster.address, str(out)]
    driver = subprocess.Popen(command, cwd=ROOT)
    while len(list(out.glob("crops/values/c.*"))) < 12:
        assert driver.poll() is None
        time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    time.sleep(3)  # its actors end
    made = 40 - len(open_writer(out, makers.SPEC).missing())
    assert made >= 12
    report = engine.RayEngine().call(makers.plain, out)
    assert (report.skipped, report.made) == (made, 40 - made)
    assert tree(out) == whole(tmp_path / "alone")


def test_sigterm_stops_a_run_that_the_same_call_resumes(cluster, tmp_path):
    def stop():
        while len(list(tmp_path.glob("data/crops/values/c.*"))) < 4:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(Interrupted, match=r"stopped by SIGTERM after making [0-9]+ chunks of crops; ") as on:
        engine.RayEngine().call(makers.plain, tmp_path / "data", delay=0.3)
    thread.join()
    assert on.value.exit_code == 128 + signal.SIGTERM
    makers.plain(tmp_path / "data")
    assert tree(tmp_path / "data") == whole(tmp_path / "alone")


def test_a_claim_that_a_dead_maker_left_holds_nobody_up(cluster, tmp_path):
    """Its process has ended; the driver does not ask for claims, and sweeps them with the ledgers."""
    writer = open_writer(tmp_path / "ray", makers.SPEC)
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True
    )
    claim = {"maker": "0" * 32, "home": [_machine(), int(dead.stdout), 1]}
    for unit in range(writer.n_chunks):
        (tmp_path / f"ray/crops/ledger/claim-40-{unit}-0").write_text(json.dumps(claim))
    began = time.monotonic()
    report = engine.RayEngine().call(makers.plain, tmp_path / "ray")
    assert (report.made, time.monotonic() - began < LEASE) == (40, True)
    assert tree(tmp_path / "ray") == whole(tmp_path / "alone")


def test_without_ray_the_sentence_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setattr(ray_link.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"not installed: run pip install 'cckt\[ray\]', or leave"):
        engine.RayEngine().call(makers.plain, tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_address_that_nobody_answers(monkeypatch):
    """A socket that accepts and never answers, and a port that is closed."""
    monkeypatch.setattr(ray_link, "ANSWER_SECONDS", 3.0)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(UserError, match=rf"^--address {address}: found no Ray cluster \(no answer in 3"):
            ray_link._require_answer(address)


def test_placement():
    def node(alive=True, **resources):
        return {"Alive": alive, "Resources": resources}

    cpus = [node(CPU=2.0), node(CPU=16.0), node(CPU=64.0, alive=False)]
    assert vars(placement(cpus, "auto", None)) == {"cpus": 2, "gpus": 0, "room": 9}
    mixed = [*cpus, node(CPU=16.0, GPU=4.0), node(CPU=32.0, GPU=8.0)]
    assert vars(placement(mixed, "auto", None)) == {"cpus": 4, "gpus": 1, "room": 12}
    assert vars(placement(mixed, "cpu", 8)) == {"cpus": 8, "gpus": 0, "room": 8}
    assert vars(placement(mixed, "cuda", None)) == {"cpus": 4, "gpus": 1, "room": 12}
    assert vars(placement(cpus, "cuda", None)) == {"cpus": 4, "gpus": 1, "room": 0}
    assert vars(placement([], "auto", None)) == {"cpus": 4, "gpus": 0, "room": 0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"actors": 0}, "--actors is 0; give at least 1"),
        ({"cpus": -1}, "--actor-cpus is -1; give at"),
    ],
)
def test_numbers_out_of_range(options, message):
    with pytest.raises(UserError, match=message):
        engine.RayEngine(**options)
