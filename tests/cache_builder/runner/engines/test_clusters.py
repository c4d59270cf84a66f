"""Clusters of other shapes: through the client server, with an autoscaler, with GPUs on some nodes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cckt.cache_builder.runner.engines import ray as engine
from cckt.cache_builder.store import open_column
from tests.cache_builder.column_samples import make, tree
from tests.cache_builder.runner.engines import makers
from tests.cache_builder.runner.engines.conftest import add_node
from tests.places import ROOT

pytest.importorskip("ray", reason="needs ray")
pytestmark = pytest.mark.slow

DRIVER = """
import sys
from pathlib import Path
from cckt.cache_builder.runner.engines.ray import RayEngine
from tests.cache_builder.runner.engines import makers
report = RayEngine(sys.argv[1], actors=2, cpus=1).call(makers.plain, Path(sys.argv[2]), delay=0.1)
print(report.made, report.rows)
"""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def environment(**more: str) -> dict[str, str]:
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    ours = {"PYTHONPATH": os.pathsep.join(paths), "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    return {**os.environ, **ours, **more}


@pytest.fixture(scope="module")
def autoscaling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A head without cores whose autoscaler adds up to two nodes of one core; its addresses.

    Ray's own `AutoscalingCluster` would stop every cluster of this machine.
    """
    from ray._private.services import get_node_ip_address

    folder, port, client = tmp_path_factory.mktemp("autoscaling"), free_port(), free_port()
    worker = {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2}
    head = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
    commands = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands",
                "head_start_ray_commands", "worker_start_ray_commands")  # fmt: skip
    config = {
        "cluster_name": "fake_multinode",
        "provider": {"type": "fake_multinode", "gcs_address": f"{get_node_ip_address()}:{port}"},
        "available_node_types": {"worker": worker, "ray.head.default": head},
        "head_node_type": "ray.head.default",
        "max_workers": 2,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 1,
        "docker": {},
        "auth": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
        **{name: [] for name in commands},
    }
    (folder / "cluster.json").write_text(json.dumps(config))
    command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--num-cpus=0",
               f"--port={port}", f"--ray-client-server-port={client}", "--include-dashboard=false",
               f"--autoscaling-config={folder / 'cluster.json'}"]  # fmt: skip
    log = (folder / "log").open("w")
    process = subprocess.Popen(
        command,
        env=environment(AUTOSCALER_UPDATE_INTERVAL_S="1", RAY_FAKE_CLUSTER="1"),
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    try:
        until = time.monotonic() + 180
        while "Ray runtime started" not in (folder / "log").read_text():
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < until, (folder / "log").read_text()
            time.sleep(0.2)
        yield f"127.0.0.1:{port}", f"ray://127.0.0.1:{client}"
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its autoscaler and the nodes that it started
        log.close()


@pytest.mark.parametrize("way", ["HOST:PORT", "ray://"])
def test_an_autoscaling_cluster_adds_nodes_for_the_actors_that_are_asked_for(
    autoscaling: tuple[str, str], tmp_path: Path, way: str
) -> None:
    address = autoscaling[way == "ray://"]
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, address, str(tmp_path / "ray")],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-2:] == ["40", "320"]
    make(tmp_path / "alone", makers.SPEC)
    assert tree(tmp_path / "ray") == tree(tmp_path / "alone")
    assert open_column(tmp_path / "ray", "crops").manifest.finished


def places(device: str) -> tuple[set[str], set[str]]:
    """Return the nodes of the workers, and the devices on which they were placed."""
    found = engine.RayEngine(cpus=1).map(
        makers.Where, lambda placed, cpus: (placed,), list(range(12)), device=device
    )
    return {node for node, _ in found}, {placed for _, placed in found}


def test_workers_of_a_mixed_cluster_are_where_the_device_is(cluster) -> None:
    """The GPU is a number that Ray is told, so no device is needed."""
    node = add_node(cluster, num_gpus=1)
    try:
        assert places("auto") == ({node.node_id}, {"auto"})
        assert places("cuda") == ({node.node_id}, {"cuda"})
        nodes, placed = places("cpu")
        assert len(nodes) > 1
        assert placed == {"cpu"}
    finally:
        cluster.remove_node(node, allow_graceful=False)
