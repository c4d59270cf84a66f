"""Take a trained detector elsewhere: a graph with its words baked in, for ONNX runtimes or torch.export."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from cckt.cache_builder.base.atomic_files import write_json
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.vocabulary import Vocabulary
from cckt.detector.config.config import Config
from cckt.detector.inference.predict import Detector
from cckt.detector.inference.scoring import score
from cckt.detector.students.boxes import to_xyxy
from cckt.detector.students.contract import PresentText

TOLERANCE = 1e-3
"""Largest difference from torch, of boxes (fractions) and scores, with which a graph is handed out."""
LARGEST = 4096
"""Longest side in pixels of a graph for photos of any size."""
Model = TypeVar("Model", bound=nn.Module)


class Halved(nn.Module):
    """2 x 2 average pooling of any side, odd ones too: what timm's ResNets do with ceil_mode.

    The sizes that ceil_mode gives cannot be proved for all photos at once when a graph is traced. A last row
    or column seen twice is averaged to itself, and left out where the side is even.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, ceil(H / 2), ceil(W / 2))."""
        return functional.avg_pool2d(functional.pad(x, (0, 1, 0, 1), mode="replicate"), 2)


def traceable(model: Model) -> Model:
    """A copy of a model with the pools that can be traced for any size; its answers are the same."""

    def halves(part: nn.Module) -> bool:
        if not isinstance(part, nn.AvgPool2d) or not part.ceil_mode or part.count_include_pad:
            return False
        return (part.kernel_size, part.stride, part.padding) == (2, 2, 0)

    copied = copy.deepcopy(model)
    for module in list(copied.modules()):
        for name, part in module.named_children():
            if halves(part):
                setattr(module, name, Halved())
    return copied


class Baked(nn.Module):
    """A detector that only takes photos: words, priors, normalisation and scoring are part of it.

    forward(images (B, 3, H, W) float32 RGB in [0, 1]) -> boxes (B, N, 4) float32 x0 y0 x1 y1 as fractions of
    the photo's sides, scores (B, N, C) float32 in [0, 1].
    """

    def __init__(self, detector: Detector, text: np.ndarray, present: np.ndarray) -> None:
        super().__init__()
        config = detector.network.config
        self.model = traceable(detector.network.model)
        self.tau = config.model.tau
        self.inference = config.inference
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
        inference = self.inference
        scores = score(output, text, self.tau, inference.classification, softmax=inference.softmax)
        return to_xyxy(output.boxes[-1]), scores


@dataclass(frozen=True)
class GraphReport:
    """What was written, and how far its answers are from torch's on random photos.

    size: (height, width) that its photos must have, in pixels; None: any, from `least` px on either side.
    """

    path: Path
    format: str
    size: tuple[int, int] | None
    least: int
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
    """Write a graph that takes photos in batches of any number, and beside it NAME.json with its words.

    out: the file, such as detector.onnx or detector.pt2. size: (height, width) of the photos in pixels; None:
    any size, one within a batch. text: (C, D) embeddings by the run's teacher; None asks the detector's
    guide. present: concepts the queries are guided by, in every photo; none leaves them as learned. The
    written file is read back and compared with torch on random photos, of several sizes where it takes any.

    Raises UserError for words that cannot be read, a size that the model cannot take, a
    model that cannot be traced for photos of any size, or missing packages (pip install 'cckt[export]').
    """
    if format not in ("onnx", "torch"):
        raise UserError(f"--format {format} is not known; expected onnx, torch or hf-folder.")
    config = detector.network.config
    if format == "onnx":
        _need("onnx", "onnxscript", "onnxruntime")
    words, table, rows = detector.read(vocabulary, text, present)
    least = _least(config)
    if size is not None and not least <= min(size) <= max(size) <= LARGEST:
        raise UserError(
            f"--size {size[0]}x{size[1]}: expected {least} to {LARGEST} pixels on either side of the photos."
        )
    if out.is_dir() or out.suffix == ".json":
        raise UserError(
            f"--out {out}: expected a file such as detector.onnx or detector.pt2; NAME.json beside it will "
            "say its words."
        )
    baked = Baked(detector, table, rows).eval().cpu()
    generator = torch.Generator().manual_seed(0)
    photos = [torch.rand((2, 3, *one), generator=generator) for one in _tried(config, size, least)]
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{os.getpid()}-{out.name}")
    write = _write_onnx if format == "onnx" else _write
    try:
        with torch.no_grad():
            write(_traced(baked, photos[0], size is None, least), partial, photos[0])
            answer = _onnx_reader(partial) if format == "onnx" else _reader(partial)
            pairs = [(answer(one), baked(one)) for one in photos]
        gaps = [max(float((a[k] - b[k]).abs().max()) for a, b in pairs) for k in (0, 1)]
        if not max(gaps) <= TOLERANCE:
            raise AssertionError(f"the {format} graph differs from torch by {max(gaps):.2g} > {TOLERANCE}")
        os.replace(partial, out)
    except (RuntimeError, ValueError, torch.onnx.errors.OnnxExporterError) as fault:
        if size is not None:
            raise
        raise UserError(
            f"a {config.model.backbone} detector cannot be written as a graph for photos of any size "
            f"({_reason(fault)}); fix one with --size HEIGHTxWIDTH."
        ) from fault
    finally:
        partial.unlink(missing_ok=True)
    named = tuple(words[int(row)].name for row in rows)
    report = GraphReport(out, format, size, least, len(words), named, *gaps)
    write_json(out.with_suffix(".json"), _card(detector, words, report))
    return report


def _tried(config: Config, size: tuple[int, int] | None, least: int) -> list[tuple[int, int]]:
    """Sizes that a graph is compared at: the one it takes; else a small one, with which it is traced, the
    evaluation's own and that one upright."""
    if size is not None:
        return [size]
    short = max(least, config.data.eval_short_side)
    long = max(least + 1, min(config.data.max_side, short * 4 // 3))
    return [(least + 8, least + 37), (short, long), (long, short)]


def _least(config: Config) -> int:
    """Fewest pixels of a side: no level has one cell only, for a side of one is traced as a constant."""
    last, levels = config.model.strides[-1], config.model.levels
    added = levels - len(config.model.strides)
    return max(2 * last, (last << added) + 1)


def _traced(baked: Baked, photos: Tensor, any_size: bool, least: int) -> torch.export.ExportedProgram:
    free = {0: torch.export.Dim("batch", min=1, max=1024)}
    if any_size:
        sides = ("height", "width")
        free |= {at: torch.export.Dim(name, min=least, max=LARGEST) for at, name in enumerate(sides, 2)}
    return torch.export.export(baked, (photos,), dynamic_shapes={"images": free})


def _card(detector: Detector, words: Vocabulary, report: GraphReport) -> dict[str, Any]:
    """What NAME.json says."""
    data, inference = (
        detector.network.config.data,
        detector.network.config.inference,
    )
    height, width = report.size or ("height", "width")
    sides = f"at least {report.least} px on either side; " if report.size is None else ""
    return {
        "input": f"images: float32 (batch, 3, {height}, {width}), RGB in [0, 1]; {sides}it was trained for "
        f"photos with a short side of {data.eval_short_side} px and a long one of at most {data.max_side}",
        "outputs": "boxes: (batch, queries, 4) x0 y0 x1 y1 in fractions; scores: (batch, queries, concepts)",
        "left_to_you": {
            "nms": inference.nms,
            "top": inference.top,
            "priors": "none are weighed in, whatever the run does: the graph asks no teacher",
            "precision": "the graph computes in float32; where the run computes in half precision its own "
            "scores differ from these by hundredths",
        },
        "threshold": detector.threshold,
        "threshold_of": "the run's own evaluation, with its priors and NMS",
        "concepts": words.to_json(),
        "report": report.as_dict(),
    }


def _write_onnx(program: torch.export.ExportedProgram, path: Path, photos: Tensor) -> None:
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


def run_onnx(path: Path, photos: Tensor) -> tuple[Tensor, ...]:
    """Boxes and scores of an ONNX file on the CPU. Raises UserError where onnxruntime is missing."""
    return _onnx_reader(path)(photos)


def _onnx_reader(path: Path) -> Callable[[Tensor], tuple[Tensor, ...]]:
    _need("onnxruntime")
    runtime = importlib.import_module("onnxruntime")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda photos: tuple(
        torch.from_numpy(one) for one in session.run(None, {"images": photos.numpy()})
    )


def _write(program: torch.export.ExportedProgram, path: Path, photos: Tensor) -> None:
    with path.open("wb") as file:
        torch.export.save(program, file)


def _reader(path: Path) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """A torch.export archive, read back."""
    with path.open("rb") as file:
        module: Callable[[Tensor], tuple[Tensor, ...]] = torch.export.load(file).module()
    return module


def _reason(fault: BaseException) -> str:
    """What began it, in a line."""
    while fault.__cause__ is not None:
        fault = fault.__cause__
    first = next((line.strip() for line in str(fault).splitlines() if line.strip()), "")
    return f"{type(fault).__name__}: {first}"


def _need(*packages: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"exporting to ONNX needs the package {package}, which is not installed; run pip install "
                "'cckt[export]'."
            )
