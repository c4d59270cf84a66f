"""Export a detector with a fixed vocabulary as a graph, for ONNX runtimes or torch.export."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cckt.cache_builder.base.atomic_files import plain, write_together
from cckt.cache_builder.base.digests import digest_of
from cckt.cache_builder.base.disk_faults import require_room
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Progress, Silent
from cckt.cache_builder.vocabulary import Vocabulary
from cckt.detector.config.config import Config
from cckt.detector.export.differences import differences
from cckt.detector.export.graph_card import GraphReport, card_of, card_path, require_own_export
from cckt.detector.export.graph_model import GraphModel
from cckt.detector.export.onnx_graph import operators, read_onnx, require_packages
from cckt.detector.export.onnx_graph import to_onnx as _onnx_bytes
from cckt.detector.export.precision import calibration_images, in_half, in_int8
from cckt.detector.export.time_limit import time_limit
from cckt.detector.inference.predict import Predictor
from cckt.detector.students.backbones.same_padding import has_same_padding

TOLERANCE = 1e-3
"""Largest accepted difference from torch, of boxes (fractions) and scores, of a graph in fp32."""
LARGEST = 4096
"""Longest side in pixels of the images of a graph for any size."""
MINUTES = 15.0
"""Default limit of an export."""


def export_graph(
    detector: Predictor,
    vocabulary: Vocabulary | str | Sequence[str],
    out: Path,
    *,
    format: Literal["onnx", "torch"] = "onnx",
    size: tuple[int, int] | None = None,
    text: np.ndarray | Tensor | None = None,
    present: Sequence[str | int] = (),
    precision: Literal["fp32", "fp16", "int8"] = "fp32",
    gather: bool = False,
    photos: Sequence[Image.Image] = (),
    minutes: float = MINUTES,
    progress: Progress | None = None,
) -> GraphReport:
    """Write a graph for image batches of any number, and `card_path(out)` next to it, with the vocabulary.

    out: the file, such as detector.onnx or detector.pt2. size: (height, width) of the images in pixels; None:
    any size, one size per batch; in multiples of the largest stride if the backbone pads as TensorFlow does.
    text: (C, D) embeddings by the run's teacher; None uses the guide of the detector. present: concepts that
    guide the queries, the same in every image; empty for no guidance. precision: of an ONNX graph; "fp16"
    converts everything but inputs and outputs, "int8" the convolutions, with ranges from `photos`. gather:
    deformable attention by Gather in place of GridSample. minutes: limit of the export.

    The bytes to be written are loaded and compared with torch, on random images of several sizes if any is
    accepted, or on `photos`; then both files appear together. An existing file is replaced only if it is an
    export of the same format.

    Raises UserError for a vocabulary without text embeddings, a size outside the limits, options that do not
    go together, a model that cannot be traced for images of any size, an export that takes longer than
    `minutes`, and missing packages (pip install 'cckt[export]').
    """
    progress = progress or Silent()
    if format not in ("onnx", "torch"):
        raise UserError(f"--format {format} is not known; expected onnx, torch or hf-folder.")
    config = detector.model.config
    _require_options(config, format, precision, gather, photos)
    if format == "onnx":
        require_packages("onnx", "onnxscript", "onnxruntime")
    words, table, rows = detector.prepare(vocabulary, text, present)
    least, multiple = _smallest_side(config), 1
    static_padding = size is None and has_same_padding(detector.model.model)
    if static_padding:
        multiple = config.model.strides[-1]
        least = -(-least // multiple) * multiple
    if size is not None and not least <= min(size) <= max(size) <= LARGEST:
        raise UserError(
            f"--size {size[0]}x{size[1]}: expected {least} to {LARGEST} pixels per side; give a size within "
            "these limits."
        )
    require_own_export(out, format)
    if len(rows) and not detector.model.guided:
        raise UserError(
            f"--present {words[int(rows[0])].name}: present concepts guide the queries, and this run has no "
            "guidance; leave --present out."
        )
    base = np.array([word.split == "base" for word in words], bool)
    graph_model = GraphModel(detector, table, rows, base, gather=gather, static_padding=static_padding)
    graph_model = graph_model.eval().cpu()
    generator = torch.Generator().manual_seed(0)
    sizes = _checked_sizes(config, size, least, multiple)
    images = [torch.rand((2, 3, *one), generator=generator) for one in sizes]
    shown = calibration_images(photos, config, size, multiple) if photos else images
    require_room(out.parent, sum(value.nbytes for value in graph_model.state_dict().values()))
    quicker = "" if size is not None else "one size with --size HEIGHTxWIDTH, which is quicker, or "
    try:
        with torch.no_grad(), time_limit(minutes, f"give {quicker}a higher --time-limit"):
            with _stage(progress, "trace"):
                program = _traced(graph_model, images[0], size is None, least, multiple)
            with _stage(progress, f"write {precision}"):
                if format == "onnx":
                    content = _onnx_bytes(program, images[0])
                    if gather and "GridSample" in operators(content):
                        raise UserError(
                            f"--gather: a {config.model.student} detector also samples elsewhere; leave "
                            "--gather out."
                        )
                    if precision == "fp16":
                        content = in_half(content)
                    elif precision == "int8":
                        content = in_int8(content, shown)
                else:
                    content = _bytes(program)
            with _stage(progress, "compare"):
                answer = read_onnx(content) if format == "onnx" else _reader(content)
                pairs = [(answer(one), graph_model(one)) for one in shown]
        gaps, means = differences(pairs, TOLERANCE)
        accepted = TOLERANCE if precision == "fp32" else 1.0
        if not all(gap <= accepted for gap in gaps):  # NaN is not accepted
            raise AssertionError(
                f"expected a {format} graph within {accepted} of torch, found {gaps[0]:.2g} in boxes and "
                f"{gaps[1]:.2g} in scores"
            )
    except (RuntimeError, ValueError, torch.onnx.errors.OnnxExporterError) as fault:
        if size is not None or isinstance(fault, UserError):
            raise
        raise UserError(
            f"a {config.model.backbone} detector cannot be traced as a graph for photos of any size "
            f"({_reason(fault)}); give one size with --size HEIGHTxWIDTH."
        ) from fault
    named = tuple(words[int(row)].name for row in rows)
    report = GraphReport(
        out, format, size, least, multiple, len(words), named, precision, gather, *gaps, *means
    )
    card = {"cckt": "export", "digest": digest_of(content), **card_of(detector, words, report)}
    out.parent.mkdir(parents=True, exist_ok=True)
    document = json.dumps(plain(card), indent=2, allow_nan=False) + "\n"
    write_together({out: content, card_path(out): document.encode(errors="backslashreplace")})
    return report


@contextmanager
def _stage(progress: Progress, name: str) -> Iterator[None]:
    """Report the block as a stage of one step."""
    progress.start(name, 1, "graphs")
    yield
    progress.advance()
    progress.finish()


def _require_options(
    config: Config, format: str, precision: str, gather: bool, photos: Sequence[Image.Image]
) -> None:
    """Raise UserError for options that do not go together."""
    if precision not in ("fp32", "fp16", "int8"):
        raise UserError(f"--precision {precision} is not known; expected fp32, fp16 or int8.")
    if format != "onnx" and precision != "fp32":
        raise UserError(f"--precision {precision} is for --format onnx; remove it.")
    if precision == "int8" and not photos:
        raise UserError(
            "--precision int8 needs photos, from which the ranges of values are taken; give --photos FOLDER "
            "with a few dozen like those of later use."
        )
    if gather and config.model.student != "deformable_detr":
        raise UserError(
            "--gather replaces the sampling of deformable attention, which the student "
            f"{config.model.student} does not have; remove it."
        )


def _checked_sizes(
    config: Config, size: tuple[int, int] | None, least: int, multiple: int
) -> list[tuple[int, int]]:
    """Return the (height, width) at which a graph is compared with torch.

    They are the one size of the graph; or a small size, used for tracing too, the evaluation size, and the
    evaluation size rotated; all in multiples of `multiple`.
    """
    if size is not None:
        return [size]
    short = max(least, config.data.eval_short_side)
    long = max(least + 1, min(config.data.max_side, short * 4 // 3))
    sizes = [(least + 8, least + 37), (short, long), (long, short)]
    return [(-(-height // multiple) * multiple, -(-width // multiple) * multiple) for height, width in sizes]


def _smallest_side(config: Config) -> int:
    """Return the smallest side in pixels: levels need 2 cells, as a side of 1 is traced as a constant."""
    last, levels = config.model.strides[-1], config.model.levels
    added = levels - len(config.model.strides)
    return max(2 * last, (last << added) + 1)


def _traced(
    graph_model: GraphModel, photos: Tensor, any_size: bool, least: int, multiple: int
) -> torch.export.ExportedProgram:
    free: dict[int, Any] = {0: torch.export.Dim("batch", min=1, max=1024)}
    if any_size:
        for at, name in enumerate(("height", "width"), 2):
            steps = torch.export.Dim(name, min=-(-least // multiple), max=LARGEST // multiple)
            free[at] = steps if multiple == 1 else multiple * steps
    with warnings.catch_warnings(action="ignore"):  # torch's, about its own code; the output is compared
        return torch.export.export(graph_model, (photos,), dynamic_shapes={"images": free})


def _bytes(program: torch.export.ExportedProgram) -> bytes:
    memory = io.BytesIO()  # torch.export.save aborts the process if a file cannot be written
    with warnings.catch_warnings(action="ignore"):
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
