"""The engine `ray` on a cluster of three nodes in processes: bytes, chunks made twice, throughput.

Columns of crops of shapeworld's teacher, in chunks that take at least --seconds: the mapper waits after it
has computed, as for a device, so that figures depend little on how busy the machine is (--seconds 0 never
waits).

* churn: one of three nodes is killed with -9 when a quarter of the chunks is made, another one joins.
* restart: the driver is killed with -9 when a third is made, then started again.
* throughput: chunks a second after the first fifth, local runner and Ray in turns, with the same number of
  workers.

Prints one JSON line: same_bytes (of all runs), of_local (median ratio), remade_chunks (of the churn), ...

    python benchmarks/ray_cache.py [--photos 300] [--seconds 0.5] [--repeats 3] \
        [--parts churn,restart,throughput]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROWS = 32
"""Rows of a chunk."""

WORKERS = 2


def slow_crops(data: Path, out: Path, seconds: float) -> int:
    """Make the column `crops` with batches of a chunk that take at least `seconds` each; return `again`."""
    from cckt.cache_builder.columns import crops

    encode = crops.encoder

    def waiting(teacher: Any, batch: int) -> Any:
        inner = encode(teacher, batch)

        def embed(pixels: list[Any]) -> Any:
            began = time.monotonic()
            rows = inner(pixels)()
            time.sleep(max(0.0, seconds - (time.monotonic() - began)))
            return rows

        return embed

    crops.encoder = waiting
    try:
        report = crops.cache_crops(
            data, "shapeworld", batch=ROWS, chunk_rows=ROWS, workers=1, device="cpu", out=out
        )
    finally:
        crops.encoder = encode
    assert report.manifest is not None, "expected a finished column"
    return report.again


def drive(data: Path, out: Path, seconds: float, address: str) -> None:
    """Make the column on a cluster; the driver of this benchmark, in its own process."""
    import benchmarks.ray_cache as own  # the workers import it under this name
    from cckt.cache_builder.runner.engines.ray import RayEngine

    again = RayEngine(address, cpus=1).call(own.slow_crops, data, out, seconds)
    print(json.dumps({"again": again}))


def start(*words: object) -> subprocess.Popen[str]:
    """Start this script as a maker or a driver."""
    root = Path(__file__).parents[1]
    return subprocess.Popen(
        [sys.executable, __file__, *map(str, words)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )


def add_node(cluster: Any) -> Any:
    """Add a node of one core. Ray grants a start 30 s, which a busy machine may exceed."""
    for _ in range(3):
        try:
            return cluster.add_node(num_cpus=1)
        except Exception as error:
            print(error, file=sys.stderr)
    raise RuntimeError("no node could be started")


def times(out: Path) -> list[float]:
    """Return the times of the chunk files, ascending."""
    return sorted(path.stat().st_mtime for path in (out / "crops/values").glob("c.*"))


def wait_for(out: Path, chunks: int, process: subprocess.Popen[str]) -> None:
    """Wait until a number of chunks is made."""
    while len(times(out)) < chunks:
        assert process.poll() is None, f"expected a running maker, found exit code {process.returncode}"
        time.sleep(0.05)


def tree(out: Path) -> str:
    """Return a digest of all files of the column."""
    digest = hashlib.sha256()
    for path in sorted((out / "crops").rglob("*")):
        if path.is_file():
            digest.update(str(path.relative_to(out)).encode() + path.read_bytes())
    return digest.hexdigest()


def rate(out: Path) -> float:
    """Return chunks a second, from the first fifth, when all workers have begun, to the last chunk."""
    found = times(out)
    found = found[len(found) // 5 :]
    return (len(found) - 1) / (found[-1] - found[0])


def ended(process: subprocess.Popen[str]) -> str:
    """Wait for a process; return its output."""
    said = process.communicate()[0]
    assert process.returncode == 0, f"exit code {process.returncode}"
    return said


def measure(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run all parts and return the figures."""
    os.environ.setdefault("RAY_worker_niceness", "0")
    from ray.cluster_utils import Cluster

    from cckt.cache_builder.index import open_index
    from cckt.shapeworld.dataset import make_dataset

    data = folder / "data"
    make_dataset(data, given.photos, seed=1)
    chunks = -(-len(open_index(data).box_images) // ROWS)
    ended(start("--make", data, folder / "alone", 0))
    alone, same = tree(folder / "alone"), True
    figures: dict[str, Any] = {"chunks": chunks, "load": round(os.getloadavg()[0], 1)}

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes = [add_node(cluster) for _ in range(WORKERS)]
    cluster.wait_for_nodes()
    address = cluster.address
    try:
        if "churn" in given.parts:
            out = folder / "churn"
            driver = start("--drive", data, out, given.seconds, address)
            wait_for(out, chunks // 4, driver)
            cluster.remove_node(nodes.pop(), allow_graceful=False)
            nodes.append(add_node(cluster))
            figures["remade_chunks"] = json.loads(ended(driver).splitlines()[-1])["again"]
            same &= tree(out) == alone
            print(figures, same, file=sys.stderr)
        if "restart" in given.parts:
            out = folder / "restart"
            driver = start("--drive", data, out, given.seconds, address)
            wait_for(out, chunks // 3, driver)
            driver.send_signal(signal.SIGKILL)
            driver.wait()
            figures["made_before_restart"] = before = len(times(out))
            first = times(out)[before - 1]
            ended(start("--drive", data, out, given.seconds, address))
            figures["made_after_restart"] = sum(when > first for when in times(out))
            same &= tree(out) == alone
            print(figures, same, file=sys.stderr)
        if "throughput" in given.parts:
            cluster.remove_node(nodes.pop(), allow_graceful=True)  # WORKERS of one core are left
            time.sleep(3)
            ratios, rates = [], []
            for number in range(given.repeats):
                out = folder / f"local-{number}"
                for process in [start("--make", data, out, given.seconds) for _ in range(WORKERS)]:
                    ended(process)
                same &= tree(out) == alone
                spread = folder / f"ray-{number}"
                ended(start("--drive", data, spread, given.seconds, address))
                same &= tree(spread) == alone
                ratios.append(rate(spread) / rate(out))
                rates.append([round(rate(out), 3), round(rate(spread), 3)])
                print(rates, same, file=sys.stderr)
            figures["of_local"] = round(statistics.median(ratios), 3)
            figures["ratios"] = [round(one, 3) for one in ratios]
            figures["chunks_per_second_local_ray"] = rates
    finally:
        cluster.shutdown()
    return {"benchmark": "ray_cache", "same_bytes": same, **figures}


def main() -> None:
    """Measure and print, or be one of the processes of a measurement."""
    if sys.argv[1:2] == ["--make"]:
        slow_crops(Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4]))
        return
    if sys.argv[1:2] == ["--drive"]:
        drive(Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4]), sys.argv[5])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--photos", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--parts", type=lambda text: text.split(","), default=["churn", "restart", "throughput"]
    )
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(parser.parse_args(), Path(folder))))


if __name__ == "__main__":
    main()
