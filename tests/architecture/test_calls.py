"""What modules may call: printing, unpickling, reading, and handlers of errors, read from the source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache

import pytest

from cckt.cache_builder.base.errors import UserError
from tests.architecture.source import (
    PACKAGE,
    calls,
    imports,
    is_script,
    modules,
    sources,
    within,
)


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
        (r"json\.loads?\((?!json\.dumps|canonical)", "untrusted.text"),
        (r"np\.load\(", "untrusted.npy_files"),  # a damaged head raises whatever Python's parser raises
        (r"Image\.open\(", "untrusted.image_files"),  # formats by a list, and a limit of pixels
        # "²" is a digit that int() refuses, as it does thousands of digits.
        (r"\.is(digit|decimal|numeric)\(", "untrusted.text"),
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
        if module == "cckt.cache_builder.base.untrusted.regular_files" or is_script(module):
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
