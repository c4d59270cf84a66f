"""No code of a folder or file is executed by any loader, and docs/security.md lists every loader."""

from __future__ import annotations

import ast
import json
import pickle
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.columns.text import read_table
from cckt.cache_builder.detectors import load_detector
from cckt.cache_builder.mllm.load import load_mllm
from cckt.cache_builder.mllm.questions import PROMPT
from cckt.cache_builder.mllm.wrapping import Wrapping
from cckt.cache_builder.teacher.clip import load_teacher
from cckt.cache_builder.vocabulary import Vocabulary
from cckt.detector.config.config import Config, changed
from cckt.detector.runs.checkpoints import load_state
from cckt.detector.students.backbones.backbone import Backbone
from tests.cache_builder.detectors.detector_models import write_detector
from tests.cache_builder.mllm.mllm_models import build_parts
from tests.cache_builder.samples import write_teacher
from tests.commands.front import World
from tests.faults.test_fuzz import call
from tests.places import ROOT

LOADERS = re.compile(
    r"open_clip\.(create_\w+|get_tokenizer)|timm\.create_model|torch\.load|torch\.export\.load"
    r"|(\w+\.)*load_file|safe_open|\w+\.from_pretrained|np\.load|pickle\.\w+|yaml\.\w*load\w*|tomllib\.loads?"
    r"|ElementTree\.(fromstring|parse)|pq\.(ParquetFile|read_\w+)|Image\.open"
)
"""Calls that read what may come from others, or that may run code."""
OUR_SCRIPTS = ("shapeworld/train_", "shapeworld/tiny_")
"""Scripts that made the files of shapeworld; no command of cckt uses them."""


def calls_of_loaders() -> set[str]:
    """Return "FILE: CALL" of every call in the package."""
    found = set()
    for room in ("ablation", "cache_builder", "commands", "detector", "shapeworld", "cckt/quickstart"):
        for path in sorted((ROOT / room).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if name.startswith(OUR_SCRIPTS):
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and LOADERS.fullmatch(ast.unparse(node.func)):
                    found.add(f"{name}: {ast.unparse(node.func)}")
    return found


def test_the_table_lists_every_loader() -> None:
    page = (ROOT / "docs/security.md").read_text(encoding="utf-8")
    table = page.partition("## Loaders")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ") and "`" in line]
    named = {part for row in rows for part in re.findall(r"`([a-z_]+/[a-z_/0-9]+\.py)`", row)}
    called = {one.partition(":")[0] for one in calls_of_loaders()}
    assert called - named == set(), "expected these files in the table of docs/security.md"
    assert named - called == set(), "expected no other file in the table"
    for row in rows:
        name = re.findall(r"`(test_[a-z_]+)`", row)[-1]
        assert list((ROOT / "tests").rglob(f"{name}.py")), f"expected the test that the row names: {row}"


class Evil:
    """An object whose pickle creates a file when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.mark,))


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file that executed code would create; it does not exist at the end of a test."""
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    yield tmp_path / "EXECUTED"
    assert not (tmp_path / "EXECUTED").exists()


def test_the_pickle_would_run(tmp_path: Path) -> None:
    """Else the tests below would show nothing."""
    pickle.loads(pickle.dumps(Evil(tmp_path / "EXECUTED")))  # noqa: S301, our own bytes
    assert (tmp_path / "EXECUTED").exists()


def add_code(folder: Path, mark: Path) -> None:
    """Add evil.py, and name it in every JSON file that transformers reads."""
    code = f"from pathlib import Path\nPath({str(mark)!r}).touch()\n"
    names = ("Config", "Model", "Tokenizer", "Processor")
    (folder / "evil.py").write_text(code + "".join(f"class {name}: pass\n" for name in names))
    classes = {
        "AutoConfig": "evil.Config",
        "AutoModelForImageTextToText": "evil.Model",
        "AutoModelForObjectDetection": "evil.Model",
        "AutoModelForZeroShotObjectDetection": "evil.Model",
        "AutoTokenizer": ["evil.Tokenizer", None],
        "AutoProcessor": "evil.Processor",
        "AutoImageProcessor": "evil.Processor",
    }
    for path in folder.glob("*.json"):
        content = json.loads(path.read_text())
        if isinstance(content, dict) and path.name != "tokenizer.json":
            path.write_text(json.dumps({**content, "auto_map": classes, "trust_remote_code": True}))


def write_llava(folder: Path) -> Path:
    for part in build_parts("llava"):
        part.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("own_type", [False, True])
def test_code_of_a_multimodal_llm(tmp_path: Path, mark: Path, own_type: bool) -> None:
    folder = write_llava(tmp_path / "mllm")
    add_code(folder, mark)
    if own_type:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "model_type": "own"}))
        with pytest.raises(UserError, match="comes with its own code, which was not run"):
            load_mllm(str(folder), device="cpu")
    else:  # transformers has a class of its own, and takes that
        assert type(load_mllm(str(folder), device="cpu").model).__module__.startswith("transformers.")


@pytest.mark.parametrize("kind", ["detr", "owlv2"])
@pytest.mark.parametrize("own_type", [False, True])
def test_code_of_a_detector(tmp_path: Path, mark: Path, kind: str, own_type: bool) -> None:
    folder = Path(write_detector(kind, tmp_path / kind))
    add_code(folder, mark)
    if own_type:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "model_type": "own"}))
        with pytest.raises(UserError, match="comes with its own code, which cckt does not run"):
            load_detector(str(folder), device="cpu")
    else:
        assert type(load_detector(str(folder), device="cpu").model).__module__.startswith("transformers.")


def test_code_of_the_hub_for_the_attention(tmp_path: Path, mark: Path) -> None:
    for folder, load, message in (
        (write_llava(tmp_path / "mllm"), load_mllm, "its attention names the code owner/kernel"),
        (
            Path(write_detector("detr", tmp_path / "detr")),
            load_detector,
            "its attention names the code owner/kernel, which cckt does not run",
        ),
    ):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "attn_implementation": "owner/kernel"}))
        with pytest.raises(UserError, match=message):
            load(str(folder), device="cpu")


@pytest.mark.parametrize("layers", [10**6, 2**63, 10**400])
def test_a_model_of_a_million_layers_is_refused_before_it_is_built(tmp_path: Path, layers: int) -> None:
    teacher = write_teacher(tmp_path / "teacher")
    card = tmp_path / "teacher/open_clip_config.json"
    mllm, detector = write_llava(tmp_path / "mllm"), Path(write_detector("detr", tmp_path / "detr"))
    for part in build_parts("qwen2_5_vl"):  # whose configuration makes a list of its layers when it is read
        part.save_pretrained(tmp_path / "qwen")
    for path, keys in (
        (card, ("model_cfg", "vision_cfg", "layers")),
        (tmp_path / "qwen/config.json", ("text_config", "num_hidden_layers")),
        (mllm / "config.json", ("text_config", "num_hidden_layers")),
        (detector / "config.json", ("decoder_layers",)),
    ):
        content = json.loads(path.read_text())
        place = content
        for key in keys[:-1]:
            place = place[key]
        assert keys[-1] in place
        place[keys[-1]] = layers
        path.write_text(json.dumps(content))
    began = time.monotonic()
    loads: list[tuple[Callable[..., Any], str]] = [(load_teacher, teacher), (load_mllm, str(mllm))]
    loads += [(load_mllm, str(tmp_path / "qwen")), (load_detector, str(detector))]
    for load, name in loads:
        with pytest.raises(UserError, match="expected at most 2000 layers"):
            load(name, device="cpu")
    assert time.monotonic() - began < 30


def test_pickled_weights_are_no_code(tmp_path: Path, mark: Path) -> None:
    evil = {"weight": Evil(mark)}
    mllm, detector = write_llava(tmp_path / "mllm"), Path(write_detector("detr", tmp_path / "detr"))
    for folder in (mllm, detector):
        (folder / "model.safetensors").unlink()
        torch.save(evil, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="found no usable model in that folder"):
        load_mllm(str(mllm), device="cpu")
    with pytest.raises(UserError, match="found no usable detector in that folder"):
        load_detector(str(detector), device="cpu")
    torch.save(evil, tmp_path / "table.pt")
    with pytest.raises(UserError, match="plain tensors, which need no pickled code"):
        read_table(tmp_path / "table.pt", Vocabulary.free("cup"))
    torch.save(evil, tmp_path / "state.pt")
    with pytest.raises(pickle.UnpicklingError):
        load_state(tmp_path)


def test_a_state_with_code_is_refused_in_a_sentence(world: World, tmp_path: Path, mark: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(world.run, run)
    (checkpoint,) = (run / "checkpoints").iterdir()
    torch.save({"step": Evil(mark)}, checkpoint / "state.pt")
    (checkpoint / "files.json").unlink()
    code, err = call(["train", "--resume", run, "--max-steps", "3"])
    assert code in (0, 2), err  # 0: it trains again from the start
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "template", ["{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ 1 / 0 }}", "no question", "{{"]
)
def test_a_chat_template_reaches_no_python(tmp_path: Path, mark: Path, template: str) -> None:
    folder = write_llava(tmp_path / "mllm")
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(UserError, match="its chat template"):
        Wrapping(load_mllm(str(folder), device="cpu"), PROMPT)


@pytest.mark.parametrize("name", ["local-dir:{folder}", "hf-hub:owner/model", "evil/model", "/{folder}"])
def test_a_backbone_is_a_name_of_timm(tmp_path: Path, mark: Path, name: str) -> None:
    """The config of a run may come from a stranger."""
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet18"}))
    model = changed(Config(), "model", backbone=name.format(folder=tmp_path), backbone_weights="none").model
    with pytest.raises(UserError, match=r"option model\.backbone: timm has no model"):
        Backbone(model)
