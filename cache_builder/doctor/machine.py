"""Checks of the installation and of the machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re

from cckt.cache_builder.doctor.finding import Finding


def check_installation() -> list[Finding]:
    """Check that every required package is installed; report the versions."""
    findings, found = [], []
    try:
        needed = importlib.metadata.requires("cckt") or []
    except importlib.metadata.PackageNotFoundError:
        return [
            Finding("bad", "installation", "cckt itself is not installed; run pip install . in its folder")
        ]
    for line in needed:
        if "extra ==" in line:
            continue
        name = re.split(r"[^A-Za-z0-9_.-]", line, maxsplit=1)[0]
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            findings.append(Finding("bad", "installation", f"{line} is missing; run pip install '{line}'"))
    own = f"cckt {importlib.metadata.version('cckt')} on Python {platform.python_version()}"
    return [Finding("good", "installation", f"{own}: {', '.join(found)}"), *findings]


def check_machine() -> list[Finding]:
    """Report cores, memory and devices of this machine."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    findings = [Finding("good", "machine", f"{platform.platform()}, {cores} cores, {_memory()}")]
    for number in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(number)
        findings.append(
            Finding("good", "device", f"cuda:{number}, {card.name}, {card.total_memory >> 30} GiB")
        )
    if torch.backends.mps.is_available():
        findings.append(Finding("good", "device", "mps"))
    if len(findings) == 1:
        findings.append(
            Finding(
                "warn", "device", "cpu only: enough for shapeworld; a recipe for COCO takes days to weeks"
            )
        )
    return findings


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB of memory"
    except (AttributeError, ValueError, OSError):
        return "memory unknown"
