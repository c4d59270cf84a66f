"""A teacher is data: Python files in its folder are never executed, whatever its configuration holds."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import BertConfig

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.hub import no_prompts
from cckt.cache_builder.teacher import clip
from cckt.cache_builder.teacher.clip import load_teacher
from tests.cache_builder.samples import tiny_config, write_teacher

TOKENIZER = "tokenizer_config.json"
TEXT = tiny_config()["text_cfg"]
CODE = {"tokenizer_class": "Tokenizer", "auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}}
TRUSTED = {"hf_tokenizer_name": "own", "tokenizer_kwargs": {"trust_remote_code": True}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A teacher with the file evil.py, which creates the file EXECUTED when it is imported."""
    write_teacher(tmp_path / "teacher")
    code = f"from pathlib import Path\nPath({str(tmp_path / 'EXECUTED')!r}).touch()\n"
    classes = (
        "from transformers import AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerFast\n"
        "class Tokenizer(PreTrainedTokenizerFast): pass\n"
        "class Config(BertConfig):\n    model_type = 'evil'\n"
        "class Model(BertModel):\n    config_class = Config\n"
    )
    (tmp_path / "teacher/evil.py").write_text(code + classes, encoding="utf-8")
    return tmp_path / "teacher"


@pytest.fixture(autouse=True)
def nothing_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The file that the code would create does not appear, though somebody at the terminal answers yes."""
    terminal = io.StringIO("y\n" * 9)
    monkeypatch.setattr(sys, "stdin", terminal)
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    yield
    assert not (tmp_path / "EXECUTED").exists()
    assert sys.stdin is terminal


def write(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content), encoding="utf-8")


def use_it(folder: Path) -> str:
    """The refusal of a teacher that is loaded and encodes a sentence."""
    with pytest.raises(UserError) as caught:
        load_teacher(f"local-dir:{folder}", device="cpu").encode_texts(["a photo of a cat."])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def set_config(folder: Path, **sections: dict[str, Any]) -> None:
    """Change sections of the model configuration."""
    config = tiny_config()
    for section, changes in sections.items():
        config[section] = {**config[section], **changes}
    write(folder / clip.CONFIG, {"model_cfg": config, "preprocess_cfg": {}})


def test_a_configuration_that_trusts_the_code_of_its_tokenizer(folder: Path) -> None:
    set_config(folder, text_cfg=TRUSTED)
    write(folder / TOKENIZER, CODE)
    refusal = use_it(folder)
    assert "open_clip_config.json has model_cfg.text_cfg.tokenizer_kwargs.trust_remote_code = True" in refusal
    assert "remove the key 'trust_remote_code'" in refusal


@pytest.mark.parametrize("tokenizer", ["own", "evil/repository"])
def test_a_tokenizer_that_names_code(folder: Path, tokenizer: str) -> None:
    set_config(folder, text_cfg={"hf_tokenizer_name": tokenizer})
    write(folder / TOKENIZER, CODE)
    assert f"{TOKENIZER} has auto_map.AutoTokenizer.0 = 'evil.Tokenizer'" in use_it(folder)


def test_a_tokenizer_changed_after_loading_is_not_trusted(folder: Path) -> None:
    """The second line of defence: the option itself is off, whatever the files hold by then."""
    set_config(folder, text_cfg={"hf_tokenizer_name": "own"})
    teacher = load_teacher(f"local-dir:{folder}", device="cpu")
    set_config(folder, text_cfg=TRUSTED)
    write(folder / TOKENIZER, CODE)
    with pytest.raises(UserError, match=r"the tokenizer of teacher .* could not be loaded"):
        teacher.encode_texts(["a photo of a cat."])


@pytest.mark.parametrize("own_config", [True, False])
def test_a_text_tower_that_names_code(folder: Path, tmp_path: Path, own_config: bool) -> None:
    tower = folder if own_config else tmp_path / "tower"
    tower.mkdir(exist_ok=True)
    (tower / "evil.py").write_bytes((folder / "evil.py").read_bytes())
    classes = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}
    write(tower / "config.json", {**BertConfig().to_dict(), "model_type": "evil", "auto_map": classes})
    set_config(folder, text_cfg={"hf_model_name": str(tower)})
    assert f"{tower}/config.json has auto_map.AutoConfig = 'evil.Config'" in use_it(folder)


def test_a_text_tower_of_the_hub_gets_no_prompt(folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """transformers asks on the terminal before it executes code: the answer is no, without a prompt."""
    tower = tmp_path / "tower"
    tower.mkdir()
    (tower / "evil.py").write_bytes((folder / "evil.py").read_bytes())
    classes = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}
    write(tower / "config.json", {**BertConfig().to_dict(), "model_type": "evil", "auto_map": classes})
    set_config(folder, text_cfg={"hf_model_name": str(tower)})
    monkeypatch.setattr(clip, "refuse_code_of_config", lambda *_: None)  # as if it were on the hub
    assert "could not be loaded" in use_it(folder)


@pytest.mark.parametrize("architecture", ["resnet10t", "evil"])
def test_an_image_tower_of_timm(folder: Path, architecture: str) -> None:
    code = {"auto_map": {"AutoModel": "evil.Model"}, "trust_remote_code": True}
    model = {"architecture": architecture, "model_args": {"custom_load": "evil"}}
    write(folder / "config.json", {**model, **code})
    set_config(folder, vision_cfg={"timm_model_name": f"local-dir:{folder}"})
    assert "config.json has " in use_it(folder)


def test_preprocessing_that_trusts_code(folder: Path) -> None:
    preprocess: dict[str, Any] = {"interpolation": "evil.Model", "trust_remote_code": True}
    write(folder / clip.CONFIG, {"model_cfg": tiny_config(), "preprocess_cfg": preprocess})
    assert "has preprocess_cfg.trust_remote_code = True" in use_it(folder)
    del preprocess["trust_remote_code"]
    write(folder / clip.CONFIG, {"model_cfg": tiny_config(), "preprocess_cfg": preprocess})
    assert "could not be loaded" in use_it(folder)


def test_a_configuration_of_the_hub_is_checked_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config(text_cfg={**TEXT, **TRUSTED})
    monkeypatch.setattr(clip.open_clip, "get_model_config", lambda _: config)
    with pytest.raises(UserError, match=r"open_clip_config.json of hf-hub:evil/teacher has text_cfg\."):
        load_teacher("hf-hub:evil/teacher", device="cpu")


def test_a_teacher_that_states_that_it_has_no_code_is_loaded(folder: Path) -> None:
    (folder / "evil.py").unlink()
    set_config(folder, text_cfg={"tokenizer_kwargs": {}})
    write(folder / "config.json", {"trust_remote_code": False})
    write(folder / TOKENIZER, [])
    assert load_teacher(f"local-dir:{folder}", device="cpu").encode_texts(["a cat"]).shape == (1, 24)


def test_a_prompt_gets_end_of_file_and_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with no_prompts(), pytest.raises(EOFError):
        input("Do you wish to run the custom code? [y/N] ")
    assert capsys.readouterr().out == ""
    assert input() == "y"
