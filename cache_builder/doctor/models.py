"""Checks of teachers and multimodal LLMs: they can be loaded here, and made the columns."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.doctor.finding import Finding
from cckt.cache_builder.store import (
    architecture_differences,
    column_info,
    list_columns,
    teacher_of,
)


def check_teachers(folders: Iterable[Path], device: str = "auto") -> list[Finding]:
    """Check that the teachers of the folders' columns can be loaded here and have the columns' weights.

    Loads each teacher once. Only new columns and new words need a teacher; training and evaluation do not.
    """
    named: dict[str, dict[str, Any]] = {}  # name -> weight digests of the columns -> architecture
    for data in folders:
        for column in list_columns(data):
            try:
                teacher = teacher_of(column_info(data, column).manifest.spec.recipe)
            except UserError:
                continue
            if teacher is not None:
                named.setdefault(teacher["name"], {})[teacher["weight_digest"]] = teacher.get("architecture")
    if not named:
        return []
    # These import open_clip, which takes seconds.
    from cckt.cache_builder.teacher.clip import load_teacher
    from cckt.cache_builder.teacher.recorded import foreign_teacher

    findings = []
    for name, digests in named.items():
        if what := foreign_teacher(name):
            message = f"the columns name the teacher {name}, {what}; it was not loaded"
            findings.append(Finding("warn", "teacher", message))
            continue
        try:
            loaded = load_teacher(name, device=device)
        except UserError as error:
            findings.append(Finding("warn", "teacher", f"{error} Only new columns and words need it."))
            continue
        for digest, architecture in sorted(digests.items()):
            differing = architecture_differences(architecture, loaded.recipe()["architecture"])
            same = loaded.weight_digest == digest and not differing
            weights = (
                "the weights that made the columns" if same else f"other weights than the columns' {digest}"
            )
            if loaded.weight_digest == digest and differing:
                weights = (
                    f"differs in {', '.join(differing)} from the teacher of the columns; make them again "
                    "with --overwrite"
                )
            findings.append(
                Finding(
                    "good" if same else "bad",
                    "teacher",
                    f"{name}: width {loaded.width}, on {loaded.device}, {weights}",
                )
            )
    return findings


def check_mllm(name: str, device: str = "auto") -> list[Finding]:
    """Check that a multimodal LLM can be loaded here; report which of its tokens mean yes and no.

    Code that comes with the model is not run.
    """
    from cckt.cache_builder.mllm import load_mllm

    subject = f"mllm {name}"
    try:
        loaded = load_mllm(name, device=device)
    except UserError as error:
        return [Finding("bad", subject, str(error))]
    millions = sum(value.numel() for value in loaded.model.parameters()) / 1e6
    kind = type(loaded.model).__name__
    message = f"{kind}, {millions:.1f}M parameters, on {loaded.device}; tokens for {loaded.yes_no.summary()}"
    return [Finding("good", subject, message)]
