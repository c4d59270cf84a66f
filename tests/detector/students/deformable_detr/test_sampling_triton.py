"""The Triton kernel against grid_sample (triton_cases.py): under the interpreter, and on a GPU if marked."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from cckt.cache_builder.base.errors import UserError
from cckt.detector.inference.inference_model import load_inference_model
from cckt.detector.runs.file_digests import accept
from cckt.detector.students.deformable_detr.attention import DeformableAttention
from cckt.detector.students.deformable_detr.model import DeformableDETR
from cckt.detector.students.deformable_detr.sampling import has_triton, sample, sample_grid
from cckt.detector.training.train import train
from tests.detector.tiny import WIDTH, make_data, tiny_config
from tests.places import ROOT

SOURCE = (Path(__file__).parent / "triton_cases.py").read_text(encoding="utf-8")
CASES = [node.name for node in ast.parse(SOURCE).body if isinstance(node, ast.FunctionDef)]
CASES = [name.removeprefix("case_") for name in CASES if name.startswith("case_")]

needs_triton = pytest.mark.skipif(
    not has_triton(), reason="triton is not installed; it comes with CUDA builds of torch"
)


@pytest.fixture(scope="module")
def interpreter_results() -> dict[str, str]:
    """Result of every case under the interpreter, which must be enabled before triton is imported."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.detector.students.deformable_detr.triton_cases", "cpu"],
        cwd=ROOT,
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    assert len(found) > 10, "triton_cases has fewer cases than expected"
    return found


@needs_triton
@pytest.mark.parametrize("case", CASES)
def test_case_under_the_interpreter(interpreter_results: dict[str, str], case: str) -> None:
    assert interpreter_results[case] == ""


@pytest.mark.gpu
@needs_triton
@pytest.mark.parametrize("case", CASES)
def test_case_on_a_gpu(case: str) -> None:
    from tests.detector.students.deformable_detr import triton_cases

    triton_cases.CASES[case]("cuda")


@pytest.mark.gpu
@needs_triton
def test_a_gpu_uses_the_kernel_unless_it_is_switched_off() -> None:
    from tests.detector.students.deformable_detr.triton_cases import ODD, problem

    inputs = [one.cuda() for one in problem(ODD)]
    value, rest = inputs[0].requires_grad_(), inputs[1:]
    assert "cckt_sample" in type(sample(value, ODD, *rest).grad_fn).__name__
    assert "cckt_sample" not in type(sample(value, ODD, *rest, kernel="torch").grad_fn).__name__


def test_a_cpu_samples_without_the_kernel_and_refuses_to_require_it() -> None:
    value, locations, weights = (
        torch.randn(1, 4, 1, 2),
        torch.rand(1, 3, 1, 1, 2, 2),
        torch.rand(1, 3, 1, 1, 2),
    )
    expected = sample_grid(value, [(2, 2)], locations, weights)
    for kernel in ("auto", "torch"):
        torch.testing.assert_close(sample(value, [(2, 2)], locations, weights, kernel), expected)
    with pytest.raises(
        UserError, match=r"model.attention_kernel: found 'triton', but the tensors are on cpu"
    ):
        sample(value, [(2, 2)], locations, weights, "triton")


def test_without_triton_a_gpu_samples_without_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    from cckt.detector.students.deformable_detr import sampling

    monkeypatch.setattr(sampling, "has_triton", lambda: False)
    there = SimpleNamespace(device=torch.device("cuda"), dtype=torch.float32)
    assert not sampling._use_triton(there, [(2, 2)], there, required=False)
    with pytest.raises(UserError, match="triton is not installed"):
        sampling._use_triton(there, [(2, 2)], there, required=True)


def test_a_failing_kernel_is_detected_once_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    from cckt.detector.students.deformable_detr import sampling
    from cckt.detector.students.deformable_detr import sampling_triton as triton_sampling

    def raise_error(*_: object) -> None:
        raise RuntimeError("failed to find a C compiler\nand more")

    monkeypatch.setattr(triton_sampling, "sample_triton", raise_error)
    sampling.kernel_fault.cache_clear()
    assert sampling.kernel_fault(torch.device("cpu")) == "failed to find a C compiler"
    monkeypatch.setattr(triton_sampling, "sample_triton", lambda *_: None)
    assert sampling.kernel_fault(torch.device("cpu")), "the result is cached"
    sampling.kernel_fault.cache_clear()
    assert sampling.kernel_fault(torch.device("cpu")) == ""
    sampling.kernel_fault.cache_clear()


def test_the_config_reaches_every_attention() -> None:
    config = tiny_config("model.attention_kernel=triton", "model.backbone_weights=none")
    model = DeformableDETR(config, WIDTH)
    attentions = [one for one in model.modules() if isinstance(one, DeformableAttention)]
    assert len(attentions) == config.model.encoder_layers + config.model.decoder_layers
    assert {one.kernel for one in attentions} == {"triton"}
    with pytest.raises(UserError, match=r"option model.attention_kernel"):
        model(torch.randn(1, 3, 64, 64), None, torch.eye(3, WIDTH), None)
    with pytest.raises(UserError, match=r"model.attention_kernel"):
        tiny_config("model.attention_kernel=cuda")


def test_a_run_that_required_the_kernel_predicts_without_it(tmp_path: Path) -> None:
    train(tiny_config("train.epochs=1"), make_data(tmp_path / "data"), None, tmp_path / "run", max_steps=1)
    path = tmp_path / "run" / "config.toml"
    config = path.read_text().replace('attention_kernel = "auto"', 'attention_kernel = "triton"')
    assert "triton" in config
    path.write_text(config)
    accept(tmp_path / "run")
    network, _ = load_inference_model(tmp_path / "run", "cpu")
    network.forward([torch.zeros(3, 64, 64, dtype=torch.uint8)], torch.eye(4, WIDTH), None)
