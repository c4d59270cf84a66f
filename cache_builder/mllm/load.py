"""A multimodal LLM from the hub's cache or a folder, frozen, with its processor.

Whatever transformers loads through AutoModelForImageTextToText and AutoProcessor. Code that comes with a
model runs only where `trust_remote_code` says so; weights are read as safetensors or with
``torch.load(weights_only=True)``, as transformers does.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import socket
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
import transformers
from huggingface_hub import constants as hub

from cckt.cache_builder.base.device import resolve_device, weight_digest
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.mllm.answers import Answers, find_answers

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
DEFAULT_MODEL = "HuggingFaceTB/SmolVLM-500M-Instruct"
"""What `--mllm` alone takes for photos of the real world: 0.5 B parameters, 1 GB in bf16, Apache-2.0."""

# Of a configuration, what differs between two copies of one model.
_VOLATILE = ("_name_or_path", "name_or_path", "transformers_version", "dtype", "torch_dtype", "_commit_hash")


@dataclass(frozen=True)
class Mllm:
    """A frozen model with what belongs to it.

    `name` as asked for; `weight_digest` over the weights as loaded in `dtype` ("fp32", "bf16", "fp16");
    `encoder_decoder`: the words are read by an encoder and answered by a decoder.
    """

    name: str
    model: Any
    processor: Any
    tokenizer: Any
    answers: Answers
    device: torch.device
    dtype: str
    weight_digest: str
    encoder_decoder: bool

    @staticmethod
    def of(name: str, model: Any, processor: Any, *, device: str = "auto", dtype: str = "fp32") -> Mllm:
        """Freeze `model` on `device` in `dtype`, and look its tokens up.

        Raises UserError for a device that is not there, an unknown dtype, a processor without a tokenizer or
        without a half for images, and a tokenizer without yes or no.
        """
        where = resolve_device(device)
        check_dtype(dtype)
        tokenizer = getattr(processor, "tokenizer", None)
        if tokenizer is None or getattr(processor, "image_processor", None) is None:
            raise UserError(
                f"--mllm-model {name}: its processor is a {type(processor).__name__}, expected one with a "
                "tokenizer and an image processor; choose a model that takes images and text."
            )
        answers = find_answers(tokenizer, name)
        configs = (model.config, model.config.get_text_config())
        both = any(getattr(part, "is_encoder_decoder", False) for part in configs)
        model = model.eval().requires_grad_(False).to(where, DTYPES[dtype])
        digest = weight_digest(model)
        return Mllm(name, model, processor, tokenizer, answers, where, dtype, digest, both)

    def recipe(self) -> dict[str, Any]:
        """All that decides what this model says, as JSON."""
        return {
            "name": self.name,
            "architecture": type(self.model).__name__,
            "weight_digest": self.weight_digest,
            "config_digest": _digest(self.model.config.to_dict()),
            "preprocessing_digest": _digest(self.processor.image_processor.to_dict()),
            "dtype": self.dtype,
        }


def load_mllm(
    name: str, *, device: str = "auto", dtype: str = "fp32", trust_remote_code: bool = False
) -> Mllm:
    """Load the model `name`: "shapeworld", a folder in transformers' format, or an id on the hub.

    Raises UserError where it cannot be had (offline, not in the cache), takes no images, comes with code that
    nobody trusted, or does not fit `Mllm.of`.
    """
    resolve_device(device)  # said before gigabytes are read
    check_dtype(dtype)
    source, options = _source(name, trust_remote_code)
    with quiet():
        processor = _processor(name, source, options)
        kind = transformers.AutoModelForImageTextToText
        model = _had(name, kind, source, {**options, "dtype": DTYPES[dtype]})
    return Mllm.of(name, model, processor, device=device, dtype=dtype)


def check_dtype(dtype: str) -> None:
    """UserError for a dtype that there is not."""
    if dtype not in DTYPES:
        raise UserError(f"--precision {dtype} is not known; choose one of {', '.join(DTYPES)}.")


def default_model(data: Path) -> str:
    """The model that `--mllm` alone means for a data set: shapeworld's own for a world of shapeworld."""
    return "shapeworld" if (data / "world.json").is_file() else DEFAULT_MODEL


def place_of(name: str) -> str:
    """What transformers calls the model `name`: a folder for shapeworld's, else as it is."""
    return str(shapeworld_folder()) if name == "shapeworld" else name


def shapeworld_folder() -> Path:
    """Where shapeworld's own model lies; UserError where it was not installed."""
    # The one-way rule: cache_builder finds shapeworld's files but never imports its code.
    spec = importlib.util.find_spec("cckt.shapeworld")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(place) / "mllm"
        if (folder / "config.json").is_file():
            return folder
    raise UserError(
        "--mllm-model shapeworld: its weights are not installed with this package; reinstall cckt, train "
        "them with python -m cckt.shapeworld.train_mllm, or name another model."
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' advice off the terminal: what matters is told in one sentence instead."""
    log = transformers.utils.logging
    before, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.set_verbosity(before)
        if bars:
            log.enable_progress_bar()


def _source(name: str, trust_remote_code: bool) -> tuple[str, dict[str, Any]]:
    """(what transformers calls it, options of every from_pretrained)."""
    source = place_of(name)
    return source, {"trust_remote_code": trust_remote_code, "local_files_only": _only_local(source)}


def _processor(name: str, source: str, options: dict[str, Any]) -> Any:
    """The processor of a model that takes images and text; UserError for any other."""
    config = _had(name, transformers.AutoConfig, source, options)
    remote = options["trust_remote_code"] and "AutoModelForImageTextToText" in getattr(config, "auto_map", {})
    if type(config) not in transformers.AutoModelForImageTextToText._model_mapping and not remote:
        raise UserError(
            f"--mllm-model {name} is a {config.model_type}, which takes no images; "
            f"expected a model that AutoModelForImageTextToText loads, such as {DEFAULT_MODEL}."
        )
    return _had(name, transformers.AutoProcessor, source, options)


def _had(name: str, kind: Any, source: str, options: dict[str, Any]) -> Any:
    """`kind.from_pretrained`, its many faults told as one of ours."""
    try:
        return kind.from_pretrained(source, **options)
    except Exception as fault:
        raise UserError(_told(name, source, kind.__name__, options, fault)) from fault


def _told(name: str, source: str, kind: str, options: dict[str, Any], fault: Exception) -> str:
    words = " ".join(str(fault).split()) or type(fault).__name__
    own_code = "trust_remote_code" in words or "custom code" in words
    words = words if len(words) <= 160 else words[:157] + "..."
    if own_code:
        return (
            f"--mllm-model {name} comes with code of its own, which was not run; read that code and add "
            "--trust-remote-code, or choose a model that transformers knows."
        )
    if Path(source).is_dir():
        return (
            f"--mllm-model {name}: {kind} found no usable model in that folder ({words}); expected "
            "config.json, safetensors, tokenizer and processor files as save_pretrained writes them."
        )
    where = (
        "it is not in the cache and there is no network" if options["local_files_only"] else "from the hub"
    )
    return (
        f"--mllm-model {name} could not be had ({where}: {words}); run once with a network so that it "
        f"is kept in {hub.HF_HUB_CACHE}, or give a folder that holds it."
    )


def _only_local(source: str) -> bool:
    """Whether to look no further than this machine: without a network each file costs half a minute."""
    if Path(source).is_dir() or hub.HF_HUB_OFFLINE:
        return True
    if any(os.environ.get(key) for key in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return False
    try:
        socket.getaddrinfo(urlsplit(hub.ENDPOINT).hostname, 443)
    except OSError:
        return True
    return False


def _digest(fields: Any) -> str:
    text = json.dumps(_settled(fields), sort_keys=True, default=str)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _settled(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _settled(item) for key, item in value.items() if key not in _VOLATILE}
    return [_settled(item) for item in value] if isinstance(value, list | tuple) else value
