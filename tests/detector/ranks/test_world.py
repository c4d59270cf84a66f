from __future__ import annotations

import datetime
import socket

import pytest
import torch

from cckt.cache_builder.base.device import pick_device
from cckt.cache_builder.base.errors import UserError
from cckt.detector.ranks.world import LaunchInfo, World, first_host, joined, read_launch_info


def test_without_a_launcher_there_is_one_rank():
    assert read_launch_info({}) is None
    with joined("cpu") as world:
        assert world == World(0, 1, torch.device("cpu"))
        assert world.first
        assert world.total(torch.tensor(3.0)) == 3
        world.wait()
        model = torch.nn.Linear(1, 1)
        assert world.wrap(model) is model


def test_torchrun_variables_are_read():
    variables = {
        "RANK": "3",
        "WORLD_SIZE": "4",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": "host",
        "MASTER_PORT": "123",
    }
    assert read_launch_info(variables) == LaunchInfo(3, 4, 1, "host", 123)


def test_srun_variables_are_read_but_not_those_of_a_shell_inside_a_job():
    variables = {
        "SLURM_PROCID": "5",
        "SLURM_STEP_NUM_TASKS": "8",
        "SLURM_LOCALID": "1",
        "SLURM_JOB_ID": "70123",
        "SLURM_STEP_NODELIST": "gpu[03-04]",
    }
    assert read_launch_info(variables) == LaunchInfo(5, 8, 1, "gpu03", 20000 + 70123 % 20000)
    assert read_launch_info({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8"}) is None


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RANK": "x", "WORLD_SIZE": "2"}, "RANK: found 'x' in the environment, expected the whole number"),
        ({"RANK": "5", "WORLD_SIZE": "2"}, "launcher started rank 5 of 2, expected 0 to 1"),
        ({"SLURM_STEP_NUM_TASKS": "2"}, "SLURM_PROCID: found '' in the environment"),
    ],
)
def test_invalid_launcher_variables_are_refused(variables, message):
    with pytest.raises(UserError, match=message):
        read_launch_info(variables)


def test_a_rank_that_waits_in_vain_names_the_address(monkeypatch):
    monkeypatch.setattr("cckt.detector.ranks.world.RENDEZVOUS_TIMEOUT", datetime.timedelta(seconds=1))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in {"RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, str(value))
    message = f"rank 0 of 2 did not meet all other ranks at 127.0.0.1:{port} within 1 s"
    with pytest.raises(UserError, match=message), joined("cpu"):
        pass


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("a", "a"), ("a,b", "a"), ("gpu[03-05,09],login1", "gpu03"), ("n[7]", "n7"), ("r[1-2]-ib,x", "r1-ib")],
)
def test_the_first_host_of_a_node_list(nodes, first):
    assert first_host(nodes) == first


@pytest.mark.parametrize("name", ["warp", "meta", "cpu:x"])
def test_an_unknown_device_is_refused(name):
    with pytest.raises(UserError, match=r"--device: found .*expected auto, cpu, cuda or mps"):
        pick_device(name)
    with (
        pytest.raises(UserError, match=r"option train\.device: found .*expected auto, cpu"),
        joined(name, "option train.device"),
    ):
        pass


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_missing_gpu_is_refused():
    with pytest.raises(
        UserError, match=r"torch sees 0 CUDA devices here; use auto or cpu, or install a CUDA build"
    ):
        pick_device("cuda")
    if not torch.backends.mps.is_available():
        assert pick_device("auto") == torch.device("cpu")
        with pytest.raises(UserError, match="'mps', which torch cannot use here"):
            pick_device("mps")
