"""Take a trained detector elsewhere: a graph with its words baked in, for ONNX runtimes or torch.export."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from cache_builder.errors import UserError
from cache_builder.vocabulary import Vocabulary
from detector.checkpoint import write_json
from detector.matcher import to_xyxy
from detector.predict import Detector
from detector.scoring import score
from detector.structures import PresentText

TOLERANCE = 1e-3
"""Largest difference from torch, of boxes (fractions) and scores, with which a graph is handed out."""


class Baked(nn.Module):
    """A detector that only takes photos: words, priors, normalisation and scoring are part of it.

    forward(images (B, 3, H, W) float32 RGB in [0, 1]) -> boxes (B, N, 4) float32 x0 y0 x1 y1 as fractions of
    the photo's sides, scores (B, N, C) float32 in [0, 1].
    """

    def __init__(self, detector: Detector, text: np.ndarray, present: np.ndarray) -> None:
        super().__init__()
        config = detector.network.config
        self.model = detector.network.model
        self.tau = config.loss.tau
        self.classification = config.inference.classification
        place = detector.network.device
        self.register_buffer("text", torch.from_numpy(np.array(text, np.float32)).to(place))
        guidance = PresentText.gather(self.get_buffer("text"), [torch.from_numpy(present)])
        self.register_buffer("words", guidance.embeddings)
        self.register_buffer("counts", guidance.counts)
        self.register_buffer("mean", torch.tensor(config.data.mean, device=place).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(config.data.std, device=place).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        text, batch = self.get_buffer("text"), images.shape[0]
        pixels = (images - self.get_buffer("mean")) / self.get_buffer("std")
        guidance = PresentText(
            self.get_buffer("words").expand(batch, -1, -1), self.get_buffer("counts").expand(batch)
        )
        output = self.model.decode(self.model.encode(pixels, None), text, guidance).last()
        scores = score(output, text, self.tau, self.classification)
        return to_xyxy(output.boxes[-1]), scores


@dataclass(frozen=True)
class GraphReport:
    """What was written, and how far its answers are from torch's on two random photos."""

    path: Path
    format: str
    size: tuple[int, int]
    concepts: int
    present: tuple[str, ...]
    boxes_difference: float
    scores_difference: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "path": str(self.path)}


def export_graph(
    detector: Detector,
    vocabulary: Vocabulary | str | Sequence[str],
    out: Path,
    *,
    format: Literal["onnx", "torch"] = "onnx",
    size: tuple[int, int] | None = None,
    text: np.ndarray | Tensor | None = None,
    present: Sequence[str | int] = (),
) -> GraphReport:
    """Write a graph that takes photos of one size in batches of any, and beside it NAME.json with its words.

    out: the file, such as detector.onnx or detector.pt2. size: (height, width) of the photos in pixels; None:
    the config's evaluation size, square. text: (C, D) embeddings by the run's teacher; None asks the
    detector's guide. present: concepts the queries are guided by, in every photo; none leaves them as
    learned. The written file is read back and compared with torch on two random photos.

    Raises UserError for a linear class head, words that cannot be read, a size that the model cannot take,
    or packages that are missing (pip install 'cckt[export]').
    """
    if format not in ("onnx", "torch"):
        raise UserError(f"--format {format} is not known; expected onnx, torch or hf-folder.")
    config = detector.network.config
    if config.model.class_head == "linear" and config.inference.classification != "similarity":
        raise UserError(
            "a linear class head names only what it was trained on; export a run that is scored by "
            "similarity."
        )
    if format == "onnx":
        _need("onnx", "onnxscript", "onnxruntime")
    words, table, rows = detector.read(vocabulary, text, present)
    height, width = size or (config.data.eval_short_side,) * 2
    least = 2 * config.model.strides[-1]
    if min(height, width) < least:
        raise UserError(f"--size {height}x{width}: expected at least {least} pixels on either side.")
    baked = Baked(detector, table, rows).eval().cpu()
    generator = torch.Generator().manual_seed(0)
    photos = torch.rand((2, 3, height, width), generator=generator)
    try:
        with torch.no_grad():
            expected = baked(photos)
            program = torch.export.export(
                baked, (photos,), dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1, max=1024)}}
            )
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = out.with_name(f".{os.getpid()}-{out.name}")
        found = (
            _write_onnx(program, partial, photos) if format == "onnx" else _write(program, partial, photos)
        )
    finally:
        baked.to(detector.network.device)
    gaps = [float((a - b).abs().max()) for a, b in zip(found, expected, strict=True)]
    if max(gaps) > TOLERANCE:
        partial.unlink()
        raise RuntimeError(f"the {format} graph differs from torch by {max(gaps):.2g}, more than {TOLERANCE}")
    os.replace(partial, out)
    report = GraphReport(
        out, format, (height, width), len(words), tuple(words[int(row)].name for row in rows), *gaps
    )
    card = {
        "input": f"images: float32 (batch, 3, {height}, {width}), RGB in [0, 1]",
        "outputs": "boxes: (batch, queries, 4) x0 y0 x1 y1 in fractions; scores: (batch, queries, concepts)",
        "threshold": detector.threshold,
        "concepts": words.to_json(),
        "report": report.as_dict(),
    }
    write_json(out.with_suffix(".json"), card)
    return report


def _write_onnx(program: Any, path: Path, photos: Tensor) -> tuple[Tensor, ...]:
    """Write, and what onnxruntime answers."""
    graph = torch.onnx.export(
        program,
        (photos,),
        dynamo=True,
        verbose=False,
        input_names=["images"],
        output_names=["boxes", "scores"],
        optimize=True,
    )
    assert graph is not None
    graph.save(str(path), external_data=False)
    return run_onnx(path, photos)


def run_onnx(path: Path, photos: Tensor) -> tuple[Tensor, ...]:
    """Boxes and scores of an ONNX file on the CPU. Raises UserError where onnxruntime is missing."""
    _need("onnxruntime")
    runtime = importlib.import_module("onnxruntime")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return tuple(torch.from_numpy(one) for one in session.run(None, {"images": photos.numpy()}))


def _write(program: Any, path: Path, photos: Tensor) -> tuple[Tensor, ...]:
    """Write a torch.export archive, and what it answers once read back."""
    with path.open("wb") as file:
        torch.export.save(program, file)
    with path.open("rb") as file:
        module = torch.export.load(file).module()
    with torch.no_grad():
        answer: tuple[Tensor, ...] = module(photos)
    return answer


def _need(*packages: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"exporting to ONNX needs the package {package}, which is not installed; run pip install "
                "'cckt[export]'."
            )
