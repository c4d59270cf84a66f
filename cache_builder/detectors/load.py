"""Load an object or zero-shot detector from the hub's cache or a folder, frozen, with its processor.

Any model that transformers loads by AutoModelForObjectDetection and that predicts boxes and logits for a set
of queries (DETR, Deformable DETR, RT-DETR, D-FINE, YOLOS, ...), and the zero-shot detectors of ZERO_SHOT.
Code that comes with a model is never run. Weights are read as safetensors or by
`torch.load(weights_only=True)`, as transformers does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import constants as hub

from cckt.cache_builder.base.constants import PRECISION
from cckt.cache_builder.base.device import pick_device, weight_digest
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.hub import hub_is_offline
from cckt.cache_builder.base.untrusted.foreign_models import refuse_absurd_depth
from cckt.cache_builder.mllm.load import (
    DTYPES,
    ConfigFile,
    check_dtype,
    digest_of_fields,
    kernel_of,
    silence_transformers,
)

ZERO_SHOT = ("owlvit", "owlv2", "grounding-dino", "mm-grounding-dino")
"""Types of zero-shot detectors whose output is known; they are given words."""

_UNNAMED = re.compile(r"LABEL_\d+|N/A")


@dataclass(frozen=True)
class FrozenDetector:
    """A frozen detector with its processor."""

    name: str
    """As requested."""
    model: Any
    processor: Any
    """A processor of images and text, or of a detector with fixed classes: an image processor."""
    zero_shot: bool
    device: torch.device
    dtype: str
    """"fp32", "bf16" or "fp16"."""
    weight_digest: str

    @property
    def kind(self) -> str:
        """Type of the model, "rt_detr" for example."""
        return str(self.model.config.model_type)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes of a detector with fixed classes; empty if its config names none."""
        if self.zero_shot:
            return ()
        names = dict.fromkeys(map(str, (self.model.config.id2label or {}).values()))
        return tuple(name for name in names if not _UNNAMED.fullmatch(name))

    def recipe(self) -> dict[str, Any]:
        """Return what decides its boxes beside the weights, as JSON values."""
        images = getattr(self.processor, "image_processor", self.processor)
        return {
            "architecture": type(self.model).__name__,
            "config_digest": digest_of_fields(self.model.config.to_dict()),
            "preprocessing_digest": digest_of_fields(images.to_dict()),
            "precision": self.dtype,
        }


def load_detector(name: str, *, device: str = "auto", precision: str = PRECISION) -> FrozenDetector:
    """Load the detector `name`: a folder in transformers' format, or an id on the hub.

    Raises UserError where it cannot be loaded (offline and not in the cache), is no detector, is a zero-shot
    detector of an unknown type, or comes with code.
    """
    placed = pick_device(device)  # before gigabytes are read
    check_dtype(precision)
    local = Path(name).is_dir() or hub_is_offline()
    options = {"trust_remote_code": False, "local_files_only": local}
    with silence_transformers():
        refuse_absurd_depth(f"--detector {name}", _from_pretrained(name, ConfigFile, options))
        config = _from_pretrained(name, transformers.AutoConfig, options)
        if kernel_of(config):
            raise UserError(
                f"--detector {name}: its attention names the code {kernel_of(config)}, which cckt does not "
                "run; remove attn_implementation from its config.json."
            )
        zero_shot = type(config) in transformers.AutoModelForZeroShotObjectDetection._model_mapping
        if zero_shot and config.model_type not in ZERO_SHOT:
            raise UserError(
                f"--detector {name} is a {config.model_type}, whose output cckt cannot read; expected a "
                f"zero-shot detector of type {', '.join(ZERO_SHOT)}, or one with fixed classes."
            )
        if not zero_shot and type(config) not in transformers.AutoModelForObjectDetection._model_mapping:
            raise UserError(
                f"--detector {name} is a {config.model_type}, which is no detector; expected a model that "
                "AutoModelForObjectDetection or AutoModelForZeroShotObjectDetection loads."
            )
        kind = (
            transformers.AutoModelForZeroShotObjectDetection
            if zero_shot
            else transformers.AutoModelForObjectDetection
        )
        processor = transformers.AutoProcessor if zero_shot else transformers.AutoImageProcessor
        prepared = _from_pretrained(name, processor, options)
        model = _from_pretrained(name, kind, {**options, "dtype": DTYPES[precision]})
    model = model.eval().requires_grad_(False).to(placed)
    return FrozenDetector(name, model, prepared, zero_shot, placed, precision, weight_digest(model))


def _from_pretrained(name: str, kind: Any, options: dict[str, Any]) -> Any:
    """Call `kind.from_pretrained`. Raises UserError for any of its exceptions."""
    try:
        return kind.from_pretrained(name, **options)
    except Exception as fault:
        words = " ".join(str(fault).split()) or type(fault).__name__
        if "trust_remote_code" in words or "custom code" in words:
            raise UserError(
                f"--detector {name} comes with its own code, which cckt does not run; choose a detector that "
                "transformers supports."
            ) from fault
        words = words if len(words) <= 160 else words[:157] + "..."
        if Path(name).is_dir():
            raise UserError(
                f"--detector {name}: {kind.__name__} found no usable detector in that folder ({words}); "
                "expected config.json, safetensors and processor files as save_pretrained writes them."
            ) from fault
        local = options["local_files_only"]
        tried = "it is not in the cache and there is no network" if local else "from the hub"
        raise UserError(
            f"--detector {name} could not be loaded ({tried}: {words}); run once with a network so that it "
            f"is kept in {hub.HF_HUB_CACHE}, or give a folder that holds it."
        ) from fault
