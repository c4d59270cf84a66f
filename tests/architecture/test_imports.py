"""Who may import whom, read from the source of every module (docs/architecture.md)."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from tests.architecture.source import (
    importers,
    imports,
    imports_of,
    is_script,
    modules,
    reached,
    within,
)
from tests.places import ROOT


def test_the_reader_of_imports_sees_what_there_is() -> None:
    source = (
        "import a.b\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import t\n"
        "class C:\n    import c\n    def f(self):\n        from d import e\n"
    )
    found = {one.name: (one.at_top, one.only_typing) for one in imports_of(ast.parse(source))}
    assert found["a.b"] == (True, False)
    assert found["t"] == (True, True)
    assert found["c"] == (True, False)
    assert found["d"] == found["d.e"] == (False, False)
    assert len(modules()) > 60, "the rooms were found"


LAYERS = {
    "cckt.cache_builder": (),
    "cckt.shapeworld": ("cckt.cache_builder",),
    "cckt.detector": ("cckt.cache_builder",),
    "cckt.api": ("cckt.cache_builder", "cckt.detector"),
    "cckt.ablation": ("cckt.cache_builder", "cckt.detector", "cckt.shapeworld"),
    "cckt.quickstart": ("cckt.cache_builder", "cckt.detector", "cckt.shapeworld"),
    "cckt.commands": (
        "cckt.cache_builder",
        "cckt.detector",
        "cckt.shapeworld",
        "cckt.api",
        "cckt.ablation",
        "cckt.quickstart",
    ),
}
"""Room -> the rooms that it may import."""


@pytest.mark.parametrize(("room", "may_import"), LAYERS.items())
def test_rooms_import_one_way_only(room: str, may_import: tuple[str, ...]) -> None:
    ours = {*LAYERS, "cckt.cli", "cckt.__main__"}
    forbidden = ours - {room, *may_import}
    if room != "cckt.commands":
        assert not [one for one in ours_imported(room) if within(one, *forbidden)]


def ours_imported(room: str) -> set[str]:
    return {one.name for module in modules() if within(module, room) for one in imports(module)}


STEPS = {
    "cckt.cache_builder": (
        "base",
        "vocabulary",
        "index",
        "presence",
        "photos",
        "store",
        "proposals",
        "runner",
        "teacher",
        "quality",
        "mllm",
        "detectors",
        "columns",
        "doctor",
    ),
    "cckt.detector": (
        "config",
        "students",
        "losses",
        "ranks",
        "runs",
        "data",
        "inference",
        "drawing",
        "evaluation",
        "export",
        "report",
        "training",
        "doctor",
    ),
}
"""Room -> its parts, from the ground up: each imports only those before it."""


@pytest.mark.parametrize("room", STEPS)
def test_parts_of_a_room_import_only_those_below(room: str) -> None:
    order = {f"{room}.{part}": number for number, part in enumerate(STEPS[room])}

    def step(module: str) -> tuple[str, int] | None:
        part = ".".join(module.split(".")[:3])
        return (part, order[part]) if part in order else None

    known = {module for module in modules() if within(module, room) and module != room}
    assert {".".join(module.split(".")[:3]) for module in known} == set(order), "every part has its step"
    wrong = set()
    for module in known:
        here = step(module)
        for one in imports(module):
            there = step(one.name)
            if here and there and there[1] > here[1]:
                wrong.add((module, one.name))
    assert not wrong


def test_no_two_modules_import_each_other_at_their_top() -> None:
    waiting: dict[str, set[str]] = {
        module: {
            one.name
            for one in imports(module)
            if one.at_top and not one.only_typing and one.name in modules()
        }
        - {module}
        for module in modules()
    }
    while ready := [module for module, needs in waiting.items() if not needs & set(waiting)]:
        for module in ready:
            del waiting[module]
    assert not waiting, "an import circle"


def test_a_student_knows_no_loss_and_a_loss_no_student() -> None:
    for module in modules():
        names = {one.name for one in imports(module)}
        if within(module, "cckt.detector.students"):
            assert not [name for name in names if within(name, "cckt.detector.losses")], module
        if within(module, "cckt.detector.losses"):
            students = [name for name in names if within(name, "cckt.detector.students")]
            assert not [
                name for name in students if within(name, "cckt.detector.students.deformable_detr")
            ], module


def test_the_detector_reads_columns_and_never_makes_them() -> None:
    allowed = {"base", "index", "presence", "vocabulary", "store", "proposals", "photos", "quality", "doctor"}
    used = {
        (module, one.name)
        for module in modules()
        if within(module, "cckt.detector")
        for one in imports(module)
        if within(one.name, "cckt.cache_builder")
    }
    assert used
    assert not {
        (module, name) for module, name in used if name.split(".")[2:3] and name.split(".")[2] not in allowed
    }


@pytest.mark.parametrize(
    "module",
    ["cckt.detector.training.train", "cckt.detector.evaluation.evaluate", "cckt.detector.inference.predict"],
)
def test_training_evaluation_and_prediction_never_load_a_teacher(module: str) -> None:
    found = reached(module)
    assert "cckt.cache_builder.store" in found, "the walk goes through our own modules"
    assert not {
        name for name in found if within(name, "cckt.cache_builder.teacher.clip", "open_clip", "transformers")
    }


def test_a_student_reads_no_data_and_a_term_knows_no_student() -> None:
    readers = {f"cckt.detector.{room}" for room in ("data", "evaluation", "inference", "runs", "training")}
    readers |= {"cckt.cache_builder.store", "cckt.cache_builder.index", "cckt.cache_builder.photos"}
    students = [module for module in modules() if within(module, "cckt.detector.students")]
    terms = [module for module in modules() if within(module, "cckt.detector.losses")]
    assert students
    assert terms
    for module in (*students, *terms):
        assert not [name for name in reached(module) if within(name, *readers)], module
    for module in terms:
        found = reached(module)
        assert not [name for name in found if within(name, "cckt.detector.students.deformable_detr")], module


@pytest.mark.parametrize(
    ("package", "only_by"),
    [
        ("zarr", ["cckt.cache_builder.store"]),
        ("fsspec", ["cckt.cache_builder.store"]),
        ("pyarrow", ["cckt.cache_builder.store.exchange"]),
        ("ray", ["cckt.cache_builder.runner.engines"]),
        ("open_clip", ["cckt.cache_builder.teacher.clip"]),
        # Two rooms load models of transformers: those that answer, and those that detect.
        (
            "transformers",
            ["cckt.cache_builder.mllm", "cckt.cache_builder.detectors", "cckt.shapeworld.tiny_mllm"],
        ),
        (
            "timm",
            ["cckt.detector.students.backbones.backbone", "cckt.detector.students.backbones.same_padding"],
        ),
        ("triton", ["cckt.detector.students.deformable_detr.sampling_triton"]),
        ("pycocotools", ["cckt.detector.evaluation"]),
        ("hotcoco", ["cckt.detector.evaluation"]),
        ("rich", ["cckt.commands.console"]),
        ("typer", ["cckt.cli", "cckt.commands"]),
        ("matplotlib", ["cckt.shapeworld", "cckt.detector.drawing", "cckt.ablation.retention_page"]),
    ],
)
def test_a_library_has_one_place(package: str, only_by: list[str]) -> None:
    wrong = {
        module for module in importers(package) if not is_script(module) and not within(module, *only_by)
    }
    assert not wrong
    assert importers(package), f"nobody imports {package} any more: take it from this list"


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        (
            "cckt.cli",
            {"torch", "numpy", "PIL", "zarr", "open_clip", "timm", "transformers", "scipy", "matplotlib"},
        ),
        ("cckt.cache_builder.base.errors", {"torch", "numpy"}),
        ("cckt.cache_builder.base.progress", {"torch", "numpy"}),
        ("cckt.cache_builder.vocabulary", {"torch", "zarr", "PIL"}),
        ("cckt.cache_builder.index", {"torch", "zarr", "PIL"}),
        ("cckt.cache_builder.store", {"torch"}),
        ("cckt.detector.config.config", {"torch", "numpy"}),
        ("cckt.shapeworld.dataset", {"torch"}),
    ],
)
def test_light_modules_import_nothing_heavy_at_their_top(module: str, heavy: set[str]) -> None:
    found = {name.split(".")[0] for name in reached(module, at_top_only=True)}
    assert not heavy & found


def test_help_answers_without_anything_heavy() -> None:
    heavy = ["torch", "numpy", "zarr", "PIL", "open_clip", "timm", "transformers", "scipy", "matplotlib"]
    code = (
        "import sys\nfrom cckt import cli\n"
        "assert cli.run(['--help']) == 0\n"
        f"sys.exit(','.join(set({heavy!r}) & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "quickstart" in done.stdout
