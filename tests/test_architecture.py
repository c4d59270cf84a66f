"""Who may import whom, read from the source of every module (docs/architecture.md)."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from cckt.cache_builder.base.errors import UserError
from tests.places import ROOT

PACKAGE = "cckt"
ROOMS = ("ablation", "cache_builder", "commands", "detector", "shapeworld")
"""Folders at the top of the repository; parts of the package by links in `cckt/`."""
FRONT = ("cckt", "cckt.__main__", "cckt.api", "cckt.cli")


def is_script(module: str) -> bool:
    """Run by hand with python -m: these train and evaluate what the package ships."""
    return module.startswith(("cckt.shapeworld.train_", "cckt.shapeworld.evaluate_"))


@dataclass(frozen=True)
class Import:
    """One imported module (of `from a.b import c` both a.b and a.b.c) and when that happens."""

    name: str
    at_top: bool
    only_typing: bool


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts if parts[0] == PACKAGE else (PACKAGE, *parts)).removesuffix(".__init__")


@cache
def sources() -> dict[str, Path]:
    files = [*ROOT.glob("*.py"), *(ROOT / PACKAGE).glob("[!.]*.py")]
    files = [path for path in files if not path.is_symlink()]
    for room in (*ROOMS, "cckt/quickstart"):
        files += sorted((ROOT / room).rglob("*.py"))
    return {module_name(path): path for path in files}


@cache
def modules() -> dict[str, ast.Module]:
    return {name: ast.parse(path.read_text(encoding="utf-8"), str(path)) for name, path in sources().items()}


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


def test_no_two_public_classes_share_a_name() -> None:
    places: dict[str, list[str]] = {}
    for module, tree in modules().items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(module)
    assert not {name: found for name, found in places.items() if len(found) > 1}


def test_no_floor_is_crowded() -> None:
    for folder in {path.parent for path in sources().values()}:
        assert len(list(folder.glob("*.py"))) <= 18, folder


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


def calls(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_only_the_front_prints() -> None:
    printing = {"print", "sys.stdout.write", "sys.stderr.write", "pprint", "warnings.warn"}
    wrong = {
        module
        for module, tree in modules().items()
        if module != "cckt.commands.console" and not is_script(module)
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


def names_called(nodes: list[ast.stmt]) -> set[str]:
    """Names that are called in statements: f of f() and self.f(); calls of other objects are left out."""
    found = set()
    for node in nodes:
        for one in ast.walk(node):
            if isinstance(one, ast.Call):
                text = ast.unparse(one.func)
                found.add(text.removeprefix("self."))
    return {name for name in found if "." not in name}


def raising_functions() -> set[tuple[str, str]]:
    """(module, function or method) of everything that raises UserError, itself or by what it calls."""
    bodies = {
        (module, node.name): node
        for module, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
    }
    origins = {module: dict(imported_names(module)) for module in modules()}
    found = {
        place
        for place, node in bodies.items()
        if any(isinstance(one, ast.Raise) and "UserError" in ast.unparse(one) for one in ast.walk(node))
    }
    calls_of = {place: names_called(node.body) for place, node in bodies.items()}
    while True:
        more = {
            (module, function)
            for (module, function), names in calls_of.items()
            if any(origins[module].get(name, (module, name)) in found for name in names)
        }
        if more <= found:
            return found
        found |= more


def imported_names(module: str) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield (name, (module that defines it, its name there)) of our own functions, also through a package."""
    for node in ast.walk(modules()[module]):
        if isinstance(node, ast.ImportFrom) and within(node.module or "", PACKAGE):
            for alias in node.names:
                yield alias.asname or alias.name, defined(node.module or "", alias.name)


@cache
def defined(module: str, name: str) -> tuple[str, str]:
    for node in ast.walk(modules()[module]) if module in modules() else ():
        if isinstance(node, ast.ImportFrom) and name in [alias.asname or alias.name for alias in node.names]:
            return defined(node.module or "", name)
    return module, name


def test_no_wide_handler_swallows_the_sentence_for_the_user() -> None:
    """`except Exception` around code of ours that raises UserError lets UserError pass first."""
    assert not issubclass(UserError, ValueError | OSError | RuntimeError)
    raising = raising_functions()
    assert ("cckt.cache_builder.base.disk_faults", "require_room") in raising
    assert ("cckt.detector.runs.run_folder", "run_config") in raising, "by what it calls"
    wrong = []
    for module, tree in modules().items():
        origins = dict(imported_names(module))
        for node in ast.walk(tree):
            if not isinstance(node, ast.Try) or is_script(module):
                continue
            kinds = [ast.unparse(one.type) if one.type else "" for one in node.handlers]
            wide = [at for at, kind in enumerate(kinds) if kind in ("", "Exception")]
            if not wide or any("UserError" in kind for kind in kinds[: wide[0]]):
                continue
            handler = ast.unparse(node.handlers[wide[0]])
            named = {name for name in names_called(node.body) if origins.get(name, (module, name)) in raising}
            if named and "raise\n" not in f"{handler}\n":
                wrong.append((module, node.lineno, sorted(named)))
    assert not wrong


@pytest.mark.parametrize(
    ("name", "only_by"),
    [
        # RecursionError for deep nesting; what the same line encodes may be decoded so.
        (r"json\.loads?\((?!json\.dumps|canonical)", "untrusted_text"),
        (r"np\.load\(", "npy_files"),  # a damaged head raises whatever Python's parser raises
        (r"Image\.open\(", "image_files"),  # formats by a list, and a limit of pixels
        # "²" is a digit that int() refuses, as it does thousands of digits.
        (r"\.is(digit|decimal|numeric)\(", "untrusted_text"),
    ],
)
def test_what_others_wrote_is_read_in_one_place(name: str, only_by: str) -> None:
    found = {
        module
        for module, path in sources().items()
        if not is_script(module) and re.search(name, path.read_text(encoding="utf-8"))
    }
    assert found == {f"cckt.cache_builder.base.{only_by}"}


def test_no_file_is_read_whole_that_may_be_a_pipe_or_an_endless_device() -> None:
    """Files of the package itself, and of /proc, are no input."""
    own = re.compile(r"folder\.joinpath\(.*|Path\(f?['\"]/proc/.*")
    for module, tree in modules().items():
        if module == "cckt.cache_builder.base.regular_files" or is_script(module):
            continue
        for name, call in calls(tree):
            reads = name.endswith((".read_text", ".read_bytes"))
            assert not reads or own.match(name), f"{module}: {ast.unparse(call)}"


def test_no_pool_of_processes_outlives_its_parent() -> None:
    """Idle workers of a killed parent would wait forever; those of a DataLoader look for it themselves."""
    pools = {
        (module, ast.unparse(call))
        for module, tree in modules().items()
        for name, call in calls(tree)
        if name.endswith(("ProcessPoolExecutor", ".Pool"))
    }
    assert len(pools) >= 4
    assert not [place for place in pools if "initializer=follow_parent" not in place[1]]


def test_every_module_says_what_it_is_for() -> None:
    assert not [module for module, tree in modules().items() if not ast.get_docstring(tree)]


def test_every_folder_says_what_each_of_its_files_holds() -> None:
    missing = []
    for name, path in sources().items():
        if path.name != "__init__.py":
            continue
        text = ast.get_docstring(modules()[name]) or ""
        files = {other.name for other in path.parent.glob("*.py")} - {"__init__.py", "__main__.py"}
        folders = {f"{inner.parent.name}/" for inner in path.parent.glob("*/__init__.py")}
        links = {link.name for link in path.parent.iterdir() if link.is_symlink()}
        missing += [f"{name}: {file}" for file in sorted((files | folders) - links) if file not in text]
    assert not missing


def test_the_package_holds_every_room_by_a_link() -> None:
    """`cckt.detector` is `detector/`, in a checkout and in a wheel, and nothing else is installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["tool"]["setuptools"]["packages"]["find"]["include"] == ["cckt*"]
    links = {path.name: path.resolve() for path in (ROOT / PACKAGE).iterdir() if path.is_symlink()}
    assert links == {name: ROOT / name for name in (*ROOMS, "cli.py")}
