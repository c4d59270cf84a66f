"""The frozen vision-language model: unit embeddings of images and of sentences."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from cckt.cache_builder.base.constants import BATCH, TAU
from cckt.cache_builder.base.cpu.fold_norms import fold_batch_norms
from cckt.cache_builder.base.cpu.tiles import TILE, Tiles
from cckt.cache_builder.base.device import weight_digest
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.hub import first_line, no_prompts, no_waiting_offline, quiet
from cckt.cache_builder.teacher.preprocess import Preprocess
from cckt.cache_builder.teacher.short_texts import ShortTexts
from cckt.cache_builder.teacher.two_stream import TwoStream

SHORT_BATCH = 128
"""Sentences of a batch of `Teacher.encode_texts_quickly`."""
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Teacher:
    """A frozen CLIP model. Its embeddings are float32 rows of length 1.

    Attributes: `name` as the user gave it; `weight_digest` of the float32 weights, whatever the precision;
    `width`, the number D of values of an embedding; `preprocess`; `device`; `precision`; `logit_scale` and
    `logit_bias`, with which it was trained to compare images and texts: logit = scale * cos + bias.
    """

    def __init__(
        self,
        name: str,
        model: torch.nn.Module,
        preprocess: Preprocess,
        config: dict[str, Any],
        load_tokenizer: Callable[[], Any],
        device: torch.device,
        precision: str,
    ) -> None:
        """config: open_clip's model configuration. load_tokenizer: called at the first text."""
        self.name = name
        self.weight_digest = weight_digest(model)
        self.width = int(config["embed_dim"])
        self.preprocess = preprocess
        self.device = device
        self.precision = precision
        self._config = config
        self.logit_scale = _scalar(model, "logit_scale", math.log(1 / TAU), math.exp)
        self.logit_bias = _scalar(model, "logit_bias", 0.0, float)
        model.eval().requires_grad_(False).to(device)
        if device.type != "mps":  # convolutions are a quarter faster, with the same result
            model.to(memory_format=torch.channels_last)
        self._tower = tower = getattr(model, "visual", None)
        self._two_stream: TwoStream | None = None
        self._folded = tower is not None and fold_batch_norms(tower, PRECISIONS[precision])
        self._tiles: Tiles | None = None
        self._encode_image: Callable[[Tensor], Tensor] = model.encode_image  # type: ignore[assignment]
        self._encode_text: Callable[[Tensor], Tensor] = model.encode_text  # type: ignore[assignment]
        self._short_texts = ShortTexts.of(model)
        self._load_tokenizer = load_tokenizer
        self._tokenizer: Any = None

    def recipe(self) -> dict[str, Any]:
        """Return what determines the embeddings, as JSON: name, weights, architecture, precision.

        The digest of the weights is not enough: head counts and activations are not in the state dict.
        """
        return {
            "name": self.name,
            "weight_digest": self.weight_digest,
            "architecture": self._config,
            "precision": self.precision,
        }

    def preprocess_recipe(self) -> dict[str, Any]:
        """Return open_clip's preprocessing in full: size, mean, std, interpolation, resize mode, fill."""
        return dict(self.preprocess.recipe)

    def encode_images(self, images: Tensor | NDArray[Any]) -> NDArray[np.float32]:
        """Return (B, D) float32 unit embeddings of images (B, 3, S, S).

        uint8 pixels are normalised on the device; float pixels count as normalised already.

        Raises UserError if the model overflows in this precision.
        """
        return self.launch_images(images)()

    def launch_images(
        self, images: Tensor | NDArray[Any], shape: int | None = None
    ) -> Callable[[], NDArray[np.float32]]:
        """Begin `encode_images`; return a function that waits for the result.

        On CUDA and on the CPU the calling thread is free meanwhile; the CPU computes a batch in tiles (see
        `Tiles`).

        shape: compute a batch of at most this many images as one of exactly this many, filled with zeros; the
        CPU fills the last tile. The shape of a batch decides which kernels a library chooses and so the last
        bits of an embedding. With a fixed shape they depend on the image, not on the other images.
        """
        batch = torch.as_tensor(images)
        count = len(batch)
        if count == 0:
            return lambda: np.zeros((0, self.width), np.float32)
        if shape is not None:
            batch = _filled(batch, -(-count // TILE) * TILE if self.device.type == "cpu" else shape)
        if self.device.type == "cpu":
            parts = self._cpu_tiles().launch(self._features, batch)
            return lambda: self._finite(np.concatenate([part.numpy() for part in parts()])[:count])
        if self.device.type == "cuda":
            batch = batch.pin_memory()
        features = self._features(batch.to(self.device, non_blocking=True))
        return lambda: self._finite(features[:count].cpu().numpy())

    @property
    def two_stream(self) -> TwoStream:
        """The image tower with a second class token; UserError if the teacher is no ViT with a class "
        "token."""
        if self._two_stream is None:
            self._two_stream = TwoStream(self.name, self._tower)
        return self._two_stream

    def launch_masked(
        self, images: NDArray[np.uint8], foreground: NDArray[np.bool_], shape: int | None = None
    ) -> Callable[[], NDArray[np.float32]]:
        """Begin to embed the foreground of uint8 images (B, 3, S, S); return a function that waits for the
        (B, D) float32 unit rows. foreground: (B, G, G), see `TwoStream`. shape: see `launch_images`."""
        count = len(images)
        rows = count if shape is None else shape
        batch = _filled(torch.from_numpy(images), rows).to(self.device, non_blocking=True)
        mask = _filled(torch.from_numpy(foreground), rows).to(self.device, non_blocking=True)
        with torch.inference_mode(), self._autocast():
            features = F.normalize(self.two_stream(self.preprocess.finish(batch), mask).float(), dim=-1)
        return lambda: self._finite(features[:count].cpu().numpy())

    def _features(self, batch: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, D) float32 unit, on the device."""
        with torch.inference_mode(), self._autocast():
            if batch.dtype == torch.uint8:
                batch = self.preprocess.finish(batch)
            if self._folded:
                batch = batch.to(memory_format=torch.channels_last)
            return F.normalize(self._encode_image(batch).float(), dim=-1)

    def encode_texts(self, texts: Sequence[str], batch: int = BATCH) -> NDArray[np.float32]:
        """Return (B, D) float32 unit embeddings of B sentences.

        Sentences longer than the context length are cut, as open_clip does.
        """
        parts = [np.zeros((0, self.width), np.float32)]
        for lo in range(0, len(texts), batch):
            tokens = self.tokenize(list(texts[lo : lo + batch])).to(self.device)
            with torch.inference_mode(), self._autocast():
                features = F.normalize(self._encode_text(tokens).float(), dim=-1)
            parts.append(self._finite(features.cpu().numpy()))
        return np.concatenate(parts)

    def encode_texts_quickly(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return what `encode_texts` returns, up to rounding: sentences of similar length form a batch, which
        ends at its longest sentence, and the CPU computes several batches at once."""
        if self._short_texts is None or not texts:
            return self.encode_texts(texts)
        tokens = torch.cat(
            [self.tokenize(list(texts[lo : lo + BATCH])) for lo in range(0, len(texts), BATCH)]
        )
        order = self._short_texts.lengths(tokens).argsort(stable=True)
        batches = torch.split(tokens[order], SHORT_BATCH)
        if self.device.type == "cpu":
            parts = self._cpu_tiles().launch_all(self._short_features, batches)()
        else:
            parts = [self._short_features(batch.to(self.device)).cpu() for batch in batches]
        rows = torch.empty(len(tokens), self.width)
        rows[order] = torch.cat(parts)
        return self._finite(rows.numpy())

    def _short_features(self, tokens: Tensor) -> Tensor:
        assert self._short_texts is not None, "expected a causal text tower, found another"
        with torch.inference_mode(), self._autocast():
            return F.normalize(self._short_texts(tokens).float(), dim=-1)

    def _cpu_tiles(self) -> Tiles:
        if self._tiles is None or self._tiles.threads != torch.get_num_threads():
            self._tiles = Tiles(torch.get_num_threads())
        return self._tiles

    def tokenize(self, texts: list[str]) -> Tensor:
        """Return (B, context length) int64 token ids by the model's own tokenizer.

        Raises UserError if the tokenizer's files are neither in a local folder nor can be downloaded.
        """
        if self._tokenizer is None:
            try:
                with quiet(), no_prompts(), no_waiting_offline():
                    self._tokenizer = self._load_tokenizer()
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


def _scalar(model: torch.nn.Module, name: str, default: float, convert: Callable[[float], float]) -> float:
    """Return a learned scalar of the model, or `default` if it has none."""
    value = getattr(model, name, None)
    return convert(value.item() if isinstance(value, Tensor) else default)


def _filled(batch: Tensor, rows: int) -> Tensor:
    """Return a batch (n, ...) with zeros after it, (rows, ...); n <= rows."""
    assert len(batch) <= rows, f"expected at most {rows} images, found {len(batch)}"
    if len(batch) == rows:
        return batch
    return torch.cat([batch, batch.new_zeros((rows - len(batch), *batch.shape[1:]))])
