"""Who may import whom, read from the source of every module (docs/architecture.md)."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("ablation", "cache_builder", "detector", "shapeworld")
FRONT = (
    "cckt",
    "cli",
    "cli_cache",
    "cli_columns",
    "cli_detector",
    "cli_results",
    "cli_train",
    "console",
    "quickstart",
)


def is_script(module: str) -> bool:
    """Run by hand with python -m: these train and examine what the package ships."""
    return module.startswith(("shapeworld.train_", "shapeworld.examine"))


@dataclass(frozen=True)
class Import:
    """One imported module (of `from a.b import c` both a.b and a.b.c) and when that happens."""

    name: str
    at_top: bool
    only_typing: bool


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def modules() -> dict[str, ast.Module]:
    files = [ROOT / f"{name}.py" for name in FRONT]
    for room in ROOMS:
        files += sorted((ROOT / room).rglob("*.py"))
    return {module_name(path): ast.parse(path.read_text(encoding="utf-8"), str(path)) for path in files}


@cache
def imports(module: str) -> tuple[Import, ...]:
    return tuple(imports_of(modules()[module]))


def imports_of(tree: ast.Module) -> Iterator[Import]:
    def walk(node: ast.AST, at_top: bool, only_typing: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from (Import(alias.name, at_top, only_typing) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, "imports are absolute"
                yield Import(child.module or "", at_top, only_typing)
                for alias in child.names:
                    yield Import(f"{child.module}.{alias.name}", at_top, only_typing)
            else:
                inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                typing = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
                yield from walk(child, at_top and not inside, only_typing or typing)

    yield from walk(tree, True, False)


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def importers(package: str) -> set[str]:
    return {module for module in modules() if any(within(one.name, package) for one in imports(module))}


def reached(start: str, at_top_only: bool = False) -> set[str]:
    """Everything that importing (or using) a module imports, through our own modules."""
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        module = waiting.pop()
        parts = module.split(".")
        for name in (".".join(parts[:n]) for n in range(1, len(parts) + 1)):
            if name in seen:
                continue
            seen.add(name)
            if name in modules():
                waiting += [
                    one.name
                    for one in imports(name)
                    if not one.only_typing and (one.at_top or not at_top_only)
                ]
    return seen


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


@pytest.mark.parametrize(
    ("room", "may_import"),
    [
        ("cache_builder", {"cache_builder"}),
        ("shapeworld", {"shapeworld", "cache_builder"}),
        ("detector", {"detector", "cache_builder"}),
        ("quickstart", {"shapeworld", "detector", "cache_builder"}),
        ("cckt", {"detector", "cache_builder"}),
        ("ablation", {"ablation", "shapeworld", "detector", "cache_builder"}),
        ("console", {"cache_builder"}),
        ("cli_cache", {"console", "cache_builder"}),
        ("cli_columns", {"console", "cli_cache", "detector", "cache_builder"}),
        ("cli_detector", {"cckt", "console", "cli_cache", "cli_columns", "detector", "cache_builder"}),
        ("cli_train", {"console", "cli_cache", "cli_detector", "detector", "cache_builder"}),
        (
            "cli_results",
            {"ablation", "cckt", "console", "cli_cache", "cli_detector", "detector", "cache_builder"},
        ),
        (
            "cli",
            {*FRONT, *ROOMS},
        ),
    ],
)
def test_rooms_import_one_way_only(room: str, may_import: set[str]) -> None:
    ours = {*ROOMS, *FRONT}
    wrong = {
        (module, one.name)
        for module in modules()
        if within(module, room)
        for one in imports(module)
        if one.name.split(".")[0] in ours - may_import
    }
    assert not wrong


def test_the_detector_knows_of_cache_builder_only_what_it_reads() -> None:
    """Tables, columns, words, photos, errors, findings, whole files: no teacher, no maker of columns."""
    allowed = {"errors", "progress", "index", "vocabulary", "store", "photos", "doctor", "whole"}
    used = {
        (module, one.name)
        for module in modules()
        if within(module, "detector")
        for one in imports(module)
        if within(one.name, "cache_builder")
    }
    assert used
    wrong = {
        (module, name) for module, name in used if name.split(".")[1:2] and name.split(".")[1] not in allowed
    }
    assert not wrong


@pytest.mark.parametrize("module", ["detector.train", "detector.evaluate", "detector.predict"])
def test_training_evaluation_and_prediction_never_load_a_teacher(module: str) -> None:
    found = reached(module)
    assert "cache_builder.store" in found, "the walk goes through our own modules"
    assert not {name for name in found if within(name, "cache_builder.teacher", "open_clip", "transformers")}


def test_the_model_knows_no_data_and_the_losses_no_model() -> None:
    files = {
        "detector.data",
        "detector.checkpoint",
        "detector.train",
        "detector.evaluate",
        "detector.network",
    }
    readers = files | {"cache_builder.store", "cache_builder.index", "cache_builder.photos"}
    for module in ("detector.model", "detector.losses", "detector.matcher"):
        assert not readers & reached(module), module
    for module in ("detector.losses", "detector.matcher"):
        assert not {"detector.model", "detector.transformer", "detector.backbone"} & reached(module), module


@pytest.mark.parametrize(
    ("package", "only_by"),
    [
        ("zarr", ["cache_builder.store"]),
        ("fsspec", ["cache_builder.store"]),
        ("open_clip", ["cache_builder.teacher"]),
        ("transformers", ["cache_builder.mllm", "shapeworld.tiny_mllm"]),
        ("timm", ["detector.backbone"]),
        ("triton", ["detector.triton_sampling"]),
        ("pycocotools", ["detector.evaluation"]),
        ("hotcoco", ["detector.evaluation"]),
        ("rich", ["console"]),
        ("typer", ["cli", "cli_cache", "cli_columns", "cli_detector", "cli_results", "cli_train"]),
        ("matplotlib", ["shapeworld", "detector.paint", "detector.draw", "detector.labels"]),
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
            "cli",
            {"torch", "numpy", "PIL", "zarr", "open_clip", "timm", "transformers", "scipy", "matplotlib"},
        ),
        ("cache_builder.errors", {"torch", "numpy"}),
        ("cache_builder.progress", {"torch", "numpy"}),
        ("cache_builder.vocabulary", {"torch", "zarr", "PIL"}),
        ("cache_builder.index", {"torch", "zarr", "PIL"}),
        ("cache_builder.store", {"torch"}),
        ("detector.config", {"torch", "numpy"}),
        ("shapeworld.dataset", {"torch"}),
    ],
)
def test_light_modules_import_nothing_heavy_at_their_top(module: str, heavy: set[str]) -> None:
    found = {name.split(".")[0] for name in reached(module, at_top_only=True)}
    assert not heavy & found


def test_help_answers_without_anything_heavy() -> None:
    heavy = ["torch", "numpy", "zarr", "PIL", "open_clip", "timm", "transformers", "scipy", "matplotlib"]
    code = (
        "import sys, cli\n"
        "assert cli.run(['--help']) == 0\n"
        f"sys.exit(','.join(set({heavy!r}) & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "quickstart" in done.stdout


def calls(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_only_the_front_prints() -> None:
    printing = {"print", "sys.stdout.write", "sys.stderr.write", "pprint", "warnings.warn"}
    wrong = {
        module
        for module, tree in modules().items()
        if module != "console" and not is_script(module)
        if any(name in printing for name, _ in calls(tree))
    }
    assert not wrong


def test_nothing_from_outside_is_unpickled() -> None:
    for module, tree in modules().items():
        names = {one.name.split(".")[0] for one in imports(module)}
        assert not names & {"pickle", "cloudpickle", "joblib", "dill", "shelve", "marshal"}, module
        for name, call in calls(tree):
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            if name == "torch.load":
                assert given.get("weights_only") == "True", f"{module}: {ast.unparse(call)}"
            if name in ("np.load", "numpy.load"):
                assert given.get("allow_pickle") == "False", f"{module}: {ast.unparse(call)}"
            assert name not in ("eval", "exec"), f"{module}: {ast.unparse(call)}"


def test_every_module_says_what_it_is_for() -> None:
    assert not [module for module, tree in modules().items() if not ast.get_docstring(tree)]


def test_what_lies_at_the_top_is_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert set(project["tool"]["setuptools"]["py-modules"]) == set(FRONT)
    assert {path.stem for path in ROOT.glob("*.py")} == set(FRONT)
    packages = {
        pattern.rstrip("*") for pattern in project["tool"]["setuptools"]["packages"]["find"]["include"]
    }
    assert packages == set(ROOMS)
