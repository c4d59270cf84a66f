"""Half precision where a device has instructions for it, fp32 elsewhere."""

from __future__ import annotations

import platform

import pytest
import torch

from cckt.detector.students.precision import autocast, computed_precision, emulation_note, has_instructions

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def forget():
    has_instructions.cache_clear()
    yield
    has_instructions.cache_clear()


@pytest.mark.parametrize(
    ("features", "expected"),
    [((), "fp32"), (("avx512_bf16",), "bf16"), (("amx_tile",), "bf16"), (("avx512",), "fp32")],
)
def test_bf16_on_a_cpu_of_x86(features, expected, monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    for name in ("avx512", "avx512_bf16", "amx_tile"):
        monkeypatch.setattr(
            torch.cpu, f"_is_{name}_supported", lambda name=name: name in features, raising=False
        )
    assert computed_precision("bf16", CPU) == expected
    assert bool(emulation_note("bf16", CPU)) is (expected == "fp32")
    with autocast("bf16", CPU):
        found = torch.ones(2, 2) @ torch.ones(2, 2)
    assert found.dtype == {"bf16": torch.bfloat16, "fp32": torch.float32}[expected]


def test_a_torch_that_cannot_tell_counts_as_a_cpu_without(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    for name in ("avx512_bf16", "amx_tile"):
        monkeypatch.delattr(torch.cpu, f"_is_{name}_supported", raising=False)
    assert computed_precision("bf16", CPU) == "fp32"


def test_other_cpus_are_asked_through_onednn(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    expected = "bf16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "fp32"
    assert computed_precision("bf16", CPU) == expected


@pytest.mark.parametrize("native", [True, False])
def test_bf16_on_a_gpu(native, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    device = torch.device("cuda")
    assert computed_precision("bf16", device) == ("bf16" if native else "fp32")
    assert computed_precision("fp16", device) == "fp16"
    assert [note[:40] for note in emulation_note("bf16", device)] == (
        [] if native else ["this GPU has no instructions for bf16, s"]
    )


def test_fp16_on_a_cpu_and_fp32_anywhere():
    assert computed_precision("fp16", CPU) == "fp32"
    looks = has_instructions.cache_info().misses
    assert computed_precision("fp32", CPU) == "fp32"
    assert emulation_note("fp32", CPU) == []
    assert has_instructions.cache_info().misses == looks, "fp32 needs no look at the device"
