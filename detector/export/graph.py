"""Export a detector with a fixed vocabulary as a graph, for ONNX runtimes or torch.export."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from cckt.cache_builder.base.atomic_files import is_stream, plain, write_together
from cckt.cache_builder.base.digests import digest_of, file_digest
from cckt.cache_builder.base.disk_faults import require_room
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.ownership import json_object, require_ours_or_absent
from cckt.cache_builder.vocabulary import Vocabulary
from cckt.detector.config.config import Config
from cckt.detector.inference.fusion import Fusion
from cckt.detector.inference.postprocess import class_scores
from cckt.detector.inference.predict import Predictor
from cckt.detector.students.boxes import to_xyxy
from cckt.detector.students.contract import PresentText

TOLERANCE = 1e-3
"""Largest accepted difference from torch, of boxes (fractions) and scores."""
LARGEST = 4096
"""Longest side in pixels of the images of a graph for any size."""
Model = TypeVar("Model", bound=nn.Module)


class HalvingPool(nn.Module):
    """2 x 2 average pooling with ceil_mode, as in timm's ResNets, in a form that can be traced for any size.

    torch.export cannot derive the output size of ceil_mode symbolically. Here the last row and column are
    repeated: with an odd side they are averaged with themselves, with an even side the copies are not read.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, ceil(H / 2), ceil(W / 2))."""
        return functional.avg_pool2d(functional.pad(x, (0, 1, 0, 1), mode="replicate"), 2)


def traceable(model: Model) -> Model:
    """Return a copy of a model with pools that can be traced for any size; its outputs are the same."""

    def halves(part: nn.Module) -> bool:
        if not isinstance(part, nn.AvgPool2d) or not part.ceil_mode or part.count_include_pad:
            return False
        return (part.kernel_size, part.stride, part.padding) == (2, 2, 0)

    copied = copy.deepcopy(model)
    for module in list(copied.modules()):
        for name, part in module.named_children():
            if halves(part):
                setattr(module, name, HalvingPool())
    return copied


class GraphModel(nn.Module):
    """A detector whose only input is images: text, present concepts and normalisation are buffers.

    forward(images (B, 3, H, W) float32 RGB in [0, 1]) -> boxes (B, N, 4) float32 x0 y0 x1 y1 as fractions of
    the image's sides, scores (B, N, C) float32 in [0, 1].
    """

    def __init__(self, detector: Predictor, text: np.ndarray, present: np.ndarray, base: np.ndarray) -> None:
        super().__init__()
        config = detector.model.config
        self.model = traceable(detector.model.model)
        self.tau = config.model.tau
        self.inference = config.inference
        place = detector.model.device
        self.register_buffer("text", torch.from_numpy(np.array(text, np.float32)).to(place))
        guidance = PresentText.gather(self.get_buffer("text"), [torch.from_numpy(present)])
        self.register_buffer("base", torch.from_numpy(base).to(place))
        self.register_buffer("words", guidance.embeddings)
        self.register_buffer("counts", guidance.counts)
        self.register_buffer("mean", torch.tensor(config.data.mean, device=place).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(config.data.std, device=place).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return boxes and scores; see the class."""
        text, batch = self.get_buffer("text"), images.shape[0]
        pixels = (images - self.get_buffer("mean")) / self.get_buffer("std")
        guidance = PresentText(
            self.get_buffer("words").expand(batch, -1, -1), self.get_buffer("counts").expand(batch)
        )
        output = self.model.decode(self.model.encode(pixels, None), text, guidance).last()
        inference = self.inference
        scores = class_scores(
            output,
            text,
            self.tau,
            inference.classification,
            softmax=inference.softmax,
            fusion=Fusion(inference, self.get_buffer("base")),
        )
        return to_xyxy(output.boxes[-1]), scores


@dataclass(frozen=True)
class GraphReport:
    """What was written, and its largest differences from torch on random images.

    size: (height, width) of its images in pixels; None: any size from `least` px per side.
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
        """Return plain values for JSON."""
        return {**asdict(self), "path": str(self.path)}


def export_graph(
    detector: Predictor,
    vocabulary: Vocabulary | str | Sequence[str],
    out: Path,
    *,
    format: Literal["onnx", "torch"] = "onnx",
    size: tuple[int, int] | None = None,
    text: np.ndarray | Tensor | None = None,
    present: Sequence[str | int] = (),
) -> GraphReport:
    """Write a graph for image batches of any number, and `card_path(out)` next to it, with the vocabulary.

    out: the file, such as detector.onnx or detector.pt2. size: (height, width) of the images in pixels; None:
    any size, one size per batch. text: (C, D) embeddings by the run's teacher; None uses the guide of the
    detector. present: concepts that guide the queries, the same in every image; empty for no guidance. The
    bytes to be written are loaded and compared with torch on random images, of several sizes if any is
    accepted; then both files appear together. An existing file is replaced only if it is an export of the
    same format.

    Raises UserError for a vocabulary without text embeddings, a size outside the limits,
    a model that cannot be traced for images of any size, and missing packages (pip install 'cckt[export]').
    """
    if format not in ("onnx", "torch"):
        raise UserError(f"--format {format} is not known; expected onnx, torch or hf-folder.")
    config = detector.model.config
    if format == "onnx":
        _require_packages("onnx", "onnxscript", "onnxruntime")
    words, table, rows = detector.prepare(vocabulary, text, present)
    least = _smallest_side(config)
    if size is not None and not least <= min(size) <= max(size) <= LARGEST:
        raise UserError(
            f"--size {size[0]}x{size[1]}: expected {least} to {LARGEST} pixels per side; give a size within "
            "these limits."
        )
    _require_ours(out, format)
    base = np.array([word.split == "base" for word in words], bool)
    graph_model = GraphModel(detector, table, rows, base).eval().cpu()
    generator = torch.Generator().manual_seed(0)
    photos = [torch.rand((2, 3, *one), generator=generator) for one in _checked_sizes(config, size, least)]
    require_room(out.parent, sum(value.nbytes for value in graph_model.state_dict().values()))
    try:
        with torch.no_grad():
            program = _traced(graph_model, photos[0], size is None, least)
            content = _onnx_bytes(program, photos[0]) if format == "onnx" else _bytes(program)
            answer = _onnx_reader(content) if format == "onnx" else _reader(content)
            pairs = [(answer(one), graph_model(one)) for one in photos]
        gaps = [max(float((a[k] - b[k]).abs().max()) for a, b in pairs) for k in (0, 1)]
        if not max(gaps) <= TOLERANCE:
            raise AssertionError(
                f"expected a {format} graph within {TOLERANCE} of torch, found {max(gaps):.2g}"
            )
    except (RuntimeError, ValueError, torch.onnx.errors.OnnxExporterError) as fault:
        if size is not None:
            raise
        raise UserError(
            f"a {config.model.backbone} detector cannot be traced as a graph for photos of any size "
            f"({_reason(fault)}); give one size with --size HEIGHTxWIDTH."
        ) from fault
    named = tuple(words[int(row)].name for row in rows)
    report = GraphReport(out, format, size, least, len(words), named, *gaps)
    card = {"cckt": "export", "digest": digest_of(content), **_card(detector, words, report)}
    out.parent.mkdir(parents=True, exist_ok=True)
    document = json.dumps(plain(card), indent=2, allow_nan=False) + "\n"
    write_together({out: content, card_path(out): document.encode(errors="backslashreplace")})
    return report


def card_path(graph: Path) -> Path:
    """Return the path of the JSON file about a graph: its full name and .json, so that each has its own."""
    return graph.with_name(f"{graph.name}.json")


def _require_ours(out: Path, format: str) -> None:
    """Raise UserError unless a graph and its card can be written: absent, or an export of this format."""
    if out.is_dir() or out.suffix == ".json" or (out.exists() and is_stream(out)):
        raise UserError(
            f"--out {out}: expected a file such as detector.onnx or detector.pt2; name such a file "
            f"({card_path(out).name} is written next to it)."
        )
    made = f"an export made by cckt export --format {format}"
    require_ours_or_absent(out, lambda path: _is_export(path, format), made)
    require_ours_or_absent(
        card_path(out), lambda path: json_object(path).get("cckt") == "export", "about such an export"
    )


def _is_export(graph: Path, format: str) -> bool:
    """Return whether the card of a graph describes exactly this file and format.

    Cards of earlier versions, NAME.json, hold no digest; they name the file.
    """
    card = json_object(card_path(graph))
    if card.get("cckt") == "export":
        report = card.get("report")
        same = isinstance(report, dict) and report.get("format") == format
        return same and card.get("digest") == file_digest(graph)
    report = json_object(graph.with_suffix(".json")).get("report")
    if not isinstance(report, dict):
        return False
    return report.get("format") == format and Path(str(report.get("path"))).name == graph.name


def _checked_sizes(config: Config, size: tuple[int, int] | None, least: int) -> list[tuple[int, int]]:
    """Return the (height, width) at which a graph is compared with torch.

    They are the one size of the graph; or a small size, used for tracing too, the evaluation size, and the
    evaluation size rotated.
    """
    if size is not None:
        return [size]
    short = max(least, config.data.eval_short_side)
    long = max(least + 1, min(config.data.max_side, short * 4 // 3))
    return [(least + 8, least + 37), (short, long), (long, short)]


def _smallest_side(config: Config) -> int:
    """Return the smallest side in pixels: levels need 2 cells, as a side of 1 is traced as a constant."""
    last, levels = config.model.strides[-1], config.model.levels
    added = levels - len(config.model.strides)
    return max(2 * last, (last << added) + 1)


def _traced(
    graph_model: GraphModel, photos: Tensor, any_size: bool, least: int
) -> torch.export.ExportedProgram:
    free = {0: torch.export.Dim("batch", min=1, max=1024)}
    if any_size:
        sides = ("height", "width")
        free |= {at: torch.export.Dim(name, min=least, max=LARGEST) for at, name in enumerate(sides, 2)}
    return torch.export.export(graph_model, (photos,), dynamic_shapes={"images": free})


def _card(detector: Predictor, words: Vocabulary, report: GraphReport) -> dict[str, Any]:
    """Return what the card says about a graph."""
    data, inference = (
        detector.model.config.data,
        detector.model.config.inference,
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
            "priors": "not applied, whatever inference.prior_weight of the run is: the graph has no teacher",
            "precision": "float32; scores of a run in half precision differ by hundredths",
        },
        "words": "exactly the concepts below: scores are shares among them, without the rivals and the "
        "calibration of cckt predict; export all concepts that a photo may show",
        "threshold": detector.own_threshold.score,
        "threshold_of": detector.own_threshold.origin,
        "concepts": words.to_json(),
        "report": report.as_dict(),
    }


def _onnx_bytes(program: torch.export.ExportedProgram, photos: Tensor) -> bytes:
    graph = torch.onnx.export(
        program,
        (photos,),
        dynamo=True,
        verbose=False,
        input_names=["images"],
        output_names=["boxes", "scores"],
        optimize=True,
    )
    assert graph is not None, "torch.onnx.export: expected a graph, found None"
    content: bytes = graph.model_proto.SerializeToString()
    return content


def run_onnx(path: Path, photos: Tensor) -> tuple[Tensor, ...]:
    """Return boxes and scores of an ONNX file on the CPU. Raises UserError without onnxruntime."""
    return _onnx_reader(str(path))(photos)


def _onnx_reader(source: str | bytes) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """Load an ONNX graph, a file or its bytes, as a function of images."""
    _require_packages("onnxruntime")
    runtime = importlib.import_module("onnxruntime")
    session = runtime.InferenceSession(source, providers=["CPUExecutionProvider"])
    return lambda photos: tuple(
        torch.from_numpy(one) for one in session.run(None, {"images": photos.numpy()})
    )


def _bytes(program: torch.export.ExportedProgram) -> bytes:
    memory = io.BytesIO()  # torch.export.save aborts the process if a file cannot be written
    torch.export.save(program, memory)
    return memory.getvalue()


def _reader(content: bytes) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """Load a torch.export archive as a function of images."""
    module: Callable[[Tensor], tuple[Tensor, ...]] = torch.export.load(io.BytesIO(content)).module()
    return module


def _reason(fault: BaseException) -> str:
    """Return the first cause of an exception in one line."""
    while fault.__cause__ is not None:
        fault = fault.__cause__
    first = next((line.strip() for line in str(fault).splitlines() if line.strip()), "")
    return f"{type(fault).__name__}: {first}"


def _require_packages(*packages: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"export to ONNX needs the package {package}, which is not installed; run pip install "
                "'cckt[export]'."
            )
