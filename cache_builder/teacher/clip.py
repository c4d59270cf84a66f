"""The frozen CLIP whose knowledge is transferred. The only module that imports open_clip.

A teacher is named the way open_clip names it:

* ``MODEL/PRETRAINED``: an architecture and published weights, "ViT-L-14/laion2b_s32b_b82k"; PRETRAINED may
  be a weights file.
* ``MODEL/random:SEED``: untrained, for full-size trials without weights; exactly
  ``open_clip.create_model(MODEL)`` after ``torch.manual_seed(SEED)``.
* ``local-dir:PATH``: a folder with open_clip_config.json and open_clip_model.safetensors.
* ``shapeworld``: the tiny teacher that ships with the embedded data set.

Preprocessing, context length and tokenizer are open_clip's own for that model. Weights are read as
safetensors or by ``torch.load(weights_only=True)``, never by plain pickle.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from huggingface_hub import constants as hub
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from cckt.cache_builder.base.device import resolve_device, weight_digest
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.hub import first_line, no_waiting_offline, quiet
from cckt.cache_builder.teacher.fold_norms import fold_batch_norms
from cckt.cache_builder.teacher.preprocess import Preprocess
from cckt.cache_builder.teacher.tiles import Tiles

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_CONFIG = "open_clip_config.json"
_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors")


class Teacher:
    """A frozen vision-language model. All embeddings it gives are float32 of unit length.

    Attributes: `name` as asked for; `weight_digest` over the float32 weights, whatever the precision;
    `width` D of its embeddings; `preprocess`; `device`; `precision`.
    """

    def __init__(
        self,
        name: str,
        model: torch.nn.Module,
        preprocess: Preprocess,
        config: dict[str, Any],
        source: str,
        device: torch.device,
        precision: str,
    ) -> None:
        self.name = name
        self.weight_digest = weight_digest(model)
        self.width = int(config["embed_dim"])
        self.preprocess = preprocess
        self.device = device
        self.precision = precision
        self._config = config
        self._source = source  # what open_clip.get_tokenizer takes
        model.eval().requires_grad_(False).to(device)
        if device.type != "mps":  # convolutions are a quarter faster so, and nothing else changes
            model.to(memory_format=torch.channels_last)
        tower = getattr(model, "visual", None)
        self._folded = tower is not None and fold_batch_norms(tower, PRECISIONS[precision])
        self._tiles: Tiles | None = None
        self._encode_image: Callable[[Tensor], Tensor] = model.encode_image  # type: ignore[assignment]
        self._encode_text: Callable[[Tensor], Tensor] = model.encode_text  # type: ignore[assignment]
        self._tokenizer: Any = None

    def recipe(self) -> dict[str, Any]:
        """All that decides what this teacher says, as JSON: name, weights, architecture, precision.

        The digest of the weights alone would not do: heads and activations are not in the state dict.
        """
        return {
            "name": self.name,
            "weight_digest": self.weight_digest,
            "architecture": self._config,
            "precision": self.precision,
        }

    def preprocess_recipe(self) -> dict[str, Any]:
        """open_clip's preprocessing in full: size, mean, std, interpolation, resize mode, fill."""
        return dict(self.preprocess.recipe)

    def encode_images(self, images: Tensor | NDArray[Any]) -> NDArray[np.float32]:
        """(B, 3, S, S) -> (B, D) float32 unit.

        uint8 pixels are normalised here, on the device; floats are taken as preprocessed already.

        Raises UserError if the model overflows in this precision.
        """
        return self.launch_images(images)()

    def launch_images(self, images: Tensor | NDArray[Any]) -> Callable[[], NDArray[np.float32]]:
        """Begin `encode_images`; what comes back waits for it. On CUDA and the CPU the host is free in
        between; the CPU takes a batch in tiles (see `Tiles`).
        """
        batch = torch.as_tensor(images)
        if batch.shape[0] == 0:
            return lambda: np.zeros((0, self.width), np.float32)
        if self.device.type == "cpu":
            if self._tiles is None or self._tiles.threads != torch.get_num_threads():
                self._tiles = Tiles(torch.get_num_threads())
            parts = self._tiles.launch(self._features, batch)
            return lambda: self._finite(np.concatenate([part.numpy() for part in parts()]))
        if self.device.type == "cuda":
            batch = batch.pin_memory()
        features = self._features(batch.to(self.device, non_blocking=True))
        return lambda: self._finite(features.cpu().numpy())

    def _features(self, batch: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, D) float32 unit, on the device."""
        with torch.inference_mode(), self._autocast():
            if batch.dtype == torch.uint8:
                batch = self.preprocess.finish(batch)
            if self._folded:
                batch = batch.to(memory_format=torch.channels_last)
            return F.normalize(self._encode_image(batch).float(), dim=-1)

    def encode_texts(self, texts: Sequence[str], batch: int = 256) -> NDArray[np.float32]:
        """B sentences -> (B, D) float32 unit; beyond the context length they are cut, as open_clip does."""
        parts = [np.zeros((0, self.width), np.float32)]
        for lo in range(0, len(texts), batch):
            tokens = self.tokenize(list(texts[lo : lo + batch])).to(self.device)
            with torch.inference_mode(), self._autocast():
                features = F.normalize(self._encode_text(tokens).float(), dim=-1)
            parts.append(self._finite(features.cpu().numpy()))
        return np.concatenate(parts)

    def tokenize(self, texts: list[str]) -> Tensor:
        """(B, context length) int64 by the model's own tokenizer.

        Raises UserError if that has files of its own which are neither here nor to be fetched.
        """
        if self._tokenizer is None:
            try:
                with quiet(), no_waiting_offline():
                    self._tokenizer = open_clip.get_tokenizer(self._source)
            except Exception as fault:
                raise UserError(
                    f"the tokenizer of teacher {self.name} could not be loaded ({first_line(fault)}); "
                    "run once with a network so that it is kept in the Hugging Face cache, or name a "
                    "local-dir: teacher that holds its tokenizer files."
                ) from fault
        tokens: Tensor = self._tokenizer(texts)
        return tokens

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=PRECISIONS[self.precision])

    def _finite(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        if not np.isfinite(rows).all():
            raise UserError(
                f"teacher {self.name} gave embeddings that are not finite in {self.precision}; "
                "use --precision bf16 or fp32."
            )
        return rows


def load_teacher(name: str, *, device: str = "auto", precision: str = "fp32") -> Teacher:
    """Load the teacher called `name` (see the top of this file), frozen.

    device: "auto" is cuda, then mps, then cpu. precision: what matrix products run in, by autocast; weights
    and embeddings stay float32.

    Raises UserError for an unknown name (with the nearest ones), weights that cannot be had, an unusable
    folder, a device that is not there, or an unknown precision.
    """
    where = resolve_device(device)
    if precision not in PRECISIONS:
        raise UserError(f"--precision {precision} is not known; choose one of {', '.join(PRECISIONS)}.")
    if name == "shapeworld":
        source, model, transform = _from_folder(name, _shapeworld_folder())
    elif name.startswith("local-dir:"):
        source, model, transform = _from_folder(name, Path(name.removeprefix("local-dir:")))
    elif name.startswith("hf-hub:"):
        source, model, transform = _published(name, name, None)
    else:
        source, model, transform = _from_registry(name)
    config = json.loads(json.dumps(open_clip.get_model_config(source)))
    recipe = json.loads(json.dumps(open_clip.get_model_preprocess_cfg(model)))
    return Teacher(name, model, Preprocess(transform, recipe), config, source, where, precision)


def imagenet_templates() -> tuple[str, ...]:
    """The 80 templates of OpenAI's ImageNet ensemble as open_clip ships them, with `{}` for the name."""
    return tuple(fill("{}") for fill in open_clip.OPENAI_IMAGENET_TEMPLATES)


_Loaded = tuple[str, torch.nn.Module, Any]


def _from_registry(name: str) -> _Loaded:
    architecture, slash, weights = name.partition("/")
    if architecture not in open_clip.list_models() or not slash or not weights:
        known = [f"{model}/{tag}" for model, tag in open_clip.list_pretrained()]
        raise UserError(
            f"teacher {name!r} is not known to open_clip; {_nearest(name, known)}; "
            "or give MODEL/random:SEED, local-dir:PATH or shapeworld."
        )
    if weights.startswith("random:"):
        return _untrained(name, architecture, weights.removeprefix("random:"))
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if not open_clip.is_pretrained_cfg(architecture, weights) and not Path(weights).is_file():
        choices = _nearest(f"{architecture}/{weights}", [f"{architecture}/{tag}" for tag in tags])
        raise UserError(
            f"teacher {name!r}: open_clip has no weights {weights!r} for {architecture}; {choices}; or give "
            f"{architecture}/random:SEED."
        )
    return _published(name, architecture, weights)


def _untrained(name: str, architecture: str, seed: str) -> _Loaded:
    if not seed.isdigit():
        raise UserError(
            f"teacher {name!r}: {seed!r} is not a seed; give a whole number, as in {architecture}/random:0."
        )
    with quiet(), no_waiting_offline(), torch.random.fork_rng():
        torch.manual_seed(int(seed))
        try:
            model, _, transform = open_clip.create_model_and_transforms(architecture)
        except Exception as fault:
            raise UserError(
                f"teacher {name!r} could not be built ({first_line(fault)}); "
                "its text tower may need files from the Hugging Face hub: run once with a network, or "
                "choose another architecture."
            ) from fault
    return architecture, model, transform


def _published(name: str, architecture: str, weights: str | None) -> _Loaded:
    try:
        with quiet(), no_waiting_offline():
            model, transform = open_clip.create_model_from_pretrained(
                architecture, weights, weights_only=True
            )
    except Exception as fault:
        raise UserError(
            f"the weights of teacher {name} could not be fetched or read ({first_line(fault)}); "
            f"run once with a network so that they are kept in {hub.HF_HUB_CACHE}, or give a folder that "
            "holds them as local-dir:PATH."
        ) from fault
    return architecture, model, transform


def _from_folder(name: str, folder: Path) -> _Loaded:
    if not folder.is_dir():
        raise UserError(
            f"teacher {name}: {folder} is not a folder; give one that holds {_CONFIG} and {_WEIGHTS[0]}."
        )
    if not (folder / _CONFIG).is_file() or not any((folder / file).is_file() for file in _WEIGHTS):
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:4]) or "nothing"
        raise UserError(
            f"teacher {name}: {folder} holds {found}, not both {_CONFIG} and {_WEIGHTS[0]}; "
            "open_clip.push_to_hf_hub.save_for_hf(..., safe_serialization=True) writes both."
        )
    source = f"local-dir:{folder}"
    try:
        with quiet(), no_waiting_offline():
            model, transform = open_clip.create_model_from_pretrained(source)
    except Exception as fault:
        raise UserError(
            f"teacher {name}: {folder} could not be loaded ({first_line(fault)}); "
            f"its {_CONFIG} must describe the model whose weights lie beside it."
        ) from fault
    return source, model, transform


def _shapeworld_folder() -> Path:
    # The one-way rule: cache_builder finds shapeworld's files but never imports its code.
    spec = importlib.util.find_spec("cckt.shapeworld")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(place) / "teacher"
        if (folder / _CONFIG).is_file():
            return folder
    raise UserError(
        "teacher shapeworld: its weights are not installed with this package; reinstall cckt, or name "
        "another teacher."
    )


def _nearest(name: str, known: Sequence[str]) -> str:
    lowered = {item.lower(): item for item in known}
    close = difflib.get_close_matches(name.lower(), list(lowered), n=3, cutoff=0.3)
    if not close:
        return "open_clip.list_pretrained() names them all"
    return "the nearest are " + ", ".join(lowered[item] for item in close)
