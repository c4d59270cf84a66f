"""Load a multimodal LLM from the hub's cache or a folder, frozen, with its processor.

Any model that transformers loads by AutoModelForImageTextToText and AutoProcessor. Code that comes with a
model runs only with `trust_remote_code`. Weights are read as safetensors or by
`torch.load(weights_only=True)`, as transformers does.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import constants as hub

from cckt.cache_builder.base.constants import PRECISION, SHAPEWORLD
from cckt.cache_builder.base.data_cards import is_shapeworld
from cckt.cache_builder.base.device import pick_device, weight_digest
from cckt.cache_builder.base.digests import digest_of
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.hub import hub_is_offline
from cckt.cache_builder.base.untrusted.foreign_models import refuse_absurd_depth
from cckt.cache_builder.mllm.yes_no_tokens import YesNoTokens, find_yes_no_tokens

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
DEFAULT_MODEL = "HuggingFaceTB/SmolVLM-500M-Instruct"
"""The model of `--mllm` for real photos, if none is named: 0.5 B parameters, 1 GB in bf16, Apache-2.0."""

# Entries of a configuration that differ between two copies of one model.
_VOLATILE = ("_name_or_path", "name_or_path", "transformers_version", "dtype", "torch_dtype", "_commit_hash")


@dataclass(frozen=True)
class Mllm:
    """A frozen model with its processor and tokenizer."""

    name: str
    """As requested."""
    model: Any
    processor: Any
    tokenizer: Any
    yes_no: YesNoTokens
    device: torch.device
    dtype: str
    """"fp32", "bf16" or "fp16"."""
    weight_digest: str
    """Over the weights as loaded in `dtype`."""
    encoder_decoder: bool
    """An encoder reads the text and a decoder answers."""

    @staticmethod
    def of(name: str, model: Any, processor: Any, *, device: str = "auto", dtype: str = PRECISION) -> Mllm:
        """Freeze `model` on `device` in `dtype`, and find its tokens for yes and no.

        Raises UserError for a missing device, an unknown dtype, a processor without a tokenizer or an image
        processor, and a tokenizer without a token for yes or no.
        """
        placed = pick_device(device)
        check_dtype(dtype)
        tokenizer = getattr(processor, "tokenizer", None)
        if tokenizer is None or getattr(processor, "image_processor", None) is None:
            raise UserError(
                f"--mllm-model {name}: its processor is a {type(processor).__name__}, expected one with a "
                "tokenizer and an image processor; choose a model that takes images and text."
            )
        yes_no = find_yes_no_tokens(tokenizer, name)
        configs = (model.config, model.config.get_text_config())
        encoder_decoder = any(getattr(part, "is_encoder_decoder", False) for part in configs)
        model = model.eval().requires_grad_(False).to(placed, DTYPES[dtype])
        digest = weight_digest(model)
        return Mllm(name, model, processor, tokenizer, yes_no, placed, dtype, digest, encoder_decoder)

    def recipe(self) -> dict[str, Any]:
        """Return all that decides the answers of this model, as JSON values."""
        return {
            "name": self.name,
            "architecture": type(self.model).__name__,
            "weight_digest": self.weight_digest,
            "config_digest": digest_of_fields(self.model.config.to_dict()),
            "preprocessing_digest": digest_of_fields(self.processor.image_processor.to_dict()),
            "dtype": self.dtype,
        }


def load_mllm(
    name: str, *, device: str = "auto", dtype: str = PRECISION, trust_remote_code: bool = False
) -> Mllm:
    """Load the model `name`: "shapeworld", a folder in transformers' format, or an id on the hub.

    Raises UserError where it cannot be loaded (offline and not in the cache), takes no images, comes with
    code that is not trusted, or does not fit `Mllm.of`.
    """
    pick_device(device)  # before gigabytes are read
    check_dtype(dtype)
    source = model_source(name)
    local = Path(source).is_dir() or hub_is_offline()  # without a network each file costs half a minute
    options = {"trust_remote_code": trust_remote_code, "local_files_only": local}
    with silence_transformers():
        processor = _load_processor(name, source, options)
        kind = transformers.AutoModelForImageTextToText
        model = _from_pretrained(name, kind, source, {**options, "dtype": DTYPES[dtype]})
    return Mllm.of(name, model, processor, device=device, dtype=dtype)


class ConfigFile:
    """config.json as it is written, before a class of transformers makes anything of it."""

    @staticmethod
    def from_pretrained(source: str, **options: Any) -> dict[str, Any]:
        """Return the values of the file; arguments and errors as for the classes of transformers."""
        found: dict[str, Any] = transformers.PretrainedConfig.get_config_dict(source, **options)[0]
        return found


def check_dtype(dtype: str) -> None:
    """Raise UserError for an unknown dtype."""
    if dtype not in DTYPES:
        raise UserError(f"--precision {dtype} is not known; choose one of {', '.join(DTYPES)}.")


def default_model(data: Path) -> str:
    """Return the model of `--mllm` without `--mllm-model`: shapeworld's own for a data set of shapeworld."""
    return SHAPEWORLD if is_shapeworld(data) else DEFAULT_MODEL


def model_source(name: str) -> str:
    """Return the name that transformers loads: a folder for "shapeworld", else `name` itself."""
    return str(shapeworld_folder()) if name == "shapeworld" else name


def shapeworld_folder() -> Path:
    """Return the folder of shapeworld's own model. Raises UserError where it is not installed."""
    # cache_builder may find shapeworld's files but must not import its code.
    spec = importlib.util.find_spec("cckt.shapeworld")
    for package in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(package) / "mllm"
        if (folder / "config.json").is_file():
            return folder
    raise UserError(
        "--mllm-model shapeworld: its weights are not installed with this package; reinstall cckt, train "
        "them with python -m cckt.shapeworld.train_mllm, or name another model."
    )


@contextlib.contextmanager
def silence_transformers() -> Iterator[None]:
    """Keep transformers' log, bars and warnings off the terminal; faults are raised as one message."""
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


def kernel_of(config: Any) -> str:
    """Return the code on the hub that a configuration names for its attention, "" for none.

    transformers fetches and runs "OWNER/NAME" if the package kernels is installed.
    """
    parts = [config, *(getattr(config, name, None) for name in getattr(config, "sub_configs", {}))]
    named = [str(getattr(part, "_attn_implementation", None) or "") for part in parts]
    return next((one for one in named if "/" in one), "")


def _load_processor(name: str, source: str, options: dict[str, Any]) -> Any:
    """Load the processor of a model. Raises UserError for a model that does not take images and text."""
    refuse_absurd_depth(f"--mllm-model {name}", _from_pretrained(name, ConfigFile, source, options))
    config = _from_pretrained(name, transformers.AutoConfig, source, options)
    if kernel_of(config) and not options["trust_remote_code"]:
        raise UserError(
            f"--mllm-model {name}: its attention names the code {kernel_of(config)}, which was not run; "
            "read that code and add --trust-remote-code, or remove attn_implementation from its config.json."
        )
    remote = options["trust_remote_code"] and "AutoModelForImageTextToText" in getattr(config, "auto_map", {})
    if type(config) not in transformers.AutoModelForImageTextToText._model_mapping and not remote:
        raise UserError(
            f"--mllm-model {name} is a {config.model_type}, which takes no images; "
            f"expected a model that AutoModelForImageTextToText loads, such as {DEFAULT_MODEL}."
        )
    return _from_pretrained(name, transformers.AutoProcessor, source, options)


def _from_pretrained(name: str, kind: Any, source: str, options: dict[str, Any]) -> Any:
    """Call `kind.from_pretrained`. Raises UserError for any of its exceptions."""
    try:
        return kind.from_pretrained(source, **options)
    except Exception as fault:
        raise UserError(_load_error(name, source, kind.__name__, options, fault)) from fault


def _load_error(name: str, source: str, kind: str, options: dict[str, Any], fault: Exception) -> str:
    words = " ".join(str(fault).split()) or type(fault).__name__
    own_code = "trust_remote_code" in words or "custom code" in words
    words = words if len(words) <= 160 else words[:157] + "..."
    if own_code:
        return (
            f"--mllm-model {name} comes with its own code, which was not run; read that code and add "
            "--trust-remote-code, or choose a model that transformers supports."
        )
    if Path(source).is_dir():
        return (
            f"--mllm-model {name}: {kind} found no usable model in that folder ({words}); expected "
            "config.json, safetensors, tokenizer and processor files as save_pretrained writes them."
        )
    tried = (
        "it is not in the cache and there is no network" if options["local_files_only"] else "from the hub"
    )
    return (
        f"--mllm-model {name} could not be loaded ({tried}: {words}); run once with a network so that it "
        f"is kept in {hub.HF_HUB_CACHE}, or give a folder that holds it."
    )


def digest_of_fields(fields: Any) -> str:
    """Return the digest of a configuration, without the entries that differ between two copies of one "
    "model."""
    return digest_of(json.dumps(_stable(fields), sort_keys=True, default=str).encode())


def _stable(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _stable(item) for key, item in value.items() if key not in _VOLATILE}
    return [_stable(item) for item in value] if isinstance(value, list | tuple) else value
