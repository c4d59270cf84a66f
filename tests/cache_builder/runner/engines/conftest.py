"""One Ray cluster for all tests of engines: a start takes seconds."""

from __future__ import annotations

import os
from typing import Any

import pytest


def add_node(cluster: Any, **resources: float) -> Any:
    """Add a node of one core. Ray grants a start 30 s, which a busy machine may exceed."""
    for attempt in range(3):
        try:
            return cluster.add_node(**{"num_cpus": 1, **resources})
        except Exception:
            if attempt == 2:
                raise
    raise AssertionError


@pytest.fixture(scope="package")
def cluster() -> Any:
    """Two nodes of one core; the tests are connected to them."""
    ray = pytest.importorskip("ray", reason="needs ray")
    from ray.cluster_utils import Cluster

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    add_node(cluster)
    ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()
