"""The package beside a user's own files, as a checkout and as an installed wheel."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cckt import __version__
from tests.places import ROOT

ROOMS = ("ablation", "cache_builder", "commands", "detector", "shapeworld")
DATA_FILES = (
    *("detector/report/page.html", "detector/report/page.css", "detector/report/page.js"),
    *("detector/report/charts.js", "detector/report/gallery.js", "detector/report/matrix.js"),
    *("shapeworld/teacher/open_clip_model.safetensors", "shapeworld/teacher/tokenizer.json"),
    "shapeworld/backbone/resnet10t.safetensors",
    *("shapeworld/mllm/model.safetensors", "shapeworld/mllm/chat_template.jinja"),
)
USERS_FILES = ("detector", "cli", "console", "commands", "ablation", "quickstart")

SCRIPT = """
import cckt
from cckt import Detector, Vocabulary
from cckt.cli import run
assert Detector.__module__ == "cckt.api", Detector.__module__
assert run(["cache", "--help"]) == 0
print(cckt.__file__)
"""


def python(folder: Path, place: Path, *words: object) -> str:
    """Run Python in `folder` with the package in `place`; return its output."""
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(place)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package installed from a wheel, without its dependencies."""
    try:
        version = importlib.metadata.version("setuptools")
    except importlib.metadata.PackageNotFoundError:
        version = "0"
    if int(version.partition(".")[0]) < 77:
        pytest.skip("needs setuptools 77 or newer")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a build leaves files in its source folder
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("cckt", *ROOMS):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE", "cli.py"):
        shutil.copyfile(ROOT / name, source / name)
    pip = ["-m", "pip", "--quiet", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-index"]
    python(source, ROOT, *pip, "wheel", *options, "--no-build-isolation", "-w", folder, ".")
    (made,) = folder.glob("cckt-*.whl")
    python(folder, ROOT, *pip, "install", *options, "--target", folder / "site", made)
    return folder / "site"


@pytest.fixture(params=["checkout", "wheel"])
def place(request: pytest.FixtureRequest) -> Path:
    """The folder that holds the package."""
    return ROOT if request.param == "checkout" else Path(request.getfixturevalue("wheel"))


def test_files_of_the_user_do_not_shadow_the_package(place: Path, tmp_path: Path) -> None:
    for name in USERS_FILES:
        (tmp_path / f"{name}.py").write_text('raise RuntimeError("imported a file of the user")\n')
    (tmp_path / "script.py").write_text(SCRIPT)
    printed = python(tmp_path, place, "script.py")
    assert Path(printed.splitlines()[-1]) == place / "cckt" / "__init__.py"
    assert "Usage: cckt" in python(tmp_path, place, "-m", "cckt", "--help")
    assert python(tmp_path, place, "-m", "cckt", "--version") == f"cckt {__version__}\n"


def test_the_wheel_holds_every_room_as_a_folder_with_its_data(wheel: Path) -> None:
    package = wheel / "cckt"
    assert not [path for path in package.rglob("*") if path.is_symlink()]
    for room in ROOMS:
        names = {path.relative_to(ROOT) for path in (ROOT / room).rglob("*.py")}
        found = {path.relative_to(package) for path in (package / room).rglob("*.py")}
        assert found == names, room
    for name in DATA_FILES:
        assert (package / name).read_bytes() == (ROOT / name).read_bytes(), name
    top = {path.name for path in wheel.iterdir()} - {"bin", f"cckt-{__version__}.dist-info"}
    assert top == {"cckt"}, "expected no other package"
    assert list(wheel.glob("*.dist-info/licenses/LICENSE")), "expected the licence"
    assert (wheel / "bin" / "cckt").is_file()
