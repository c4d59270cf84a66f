"""ONNX graphs: made from a traced program, with names for their free axes, and run on the CPU."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cckt.cache_builder.base.errors import UserError

AXES = {"images": ("batch", "", "height", "width"), "boxes": ("batch", "", ""), "scores": ("batch", "", "")}
"""Names of the free axes of inputs and outputs; an axis of one size keeps its number."""


def to_onnx(program: torch.export.ExportedProgram, photos: Tensor) -> bytes:
    """Return a traced detector as the bytes of an ONNX graph."""
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
    return with_axes(graph.model_proto)


def with_axes(model: Any) -> bytes:
    """Return the bytes of a ModelProto whose free input and output axes are called as in AXES."""
    for value in (*model.graph.input, *model.graph.output):
        for axis, name in zip(value.type.tensor_type.shape.dim, AXES[value.name], strict=True):
            if name and not axis.HasField("dim_value"):
                axis.dim_param = name
    # Shapes of values inside the graph have the symbols of torch, which would be other axes now.
    del model.graph.value_info[:]
    content: bytes = model.SerializeToString()
    return content


def operators(content: bytes) -> set[str]:
    """Return the types of the operators of a graph, those of its functions and subgraphs included."""
    onnx = importlib.import_module("onnx")
    model = onnx.load_from_string(content)
    found: set[str] = set()
    waiting = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while waiting:
        node = waiting.pop()
        found.add(node.op_type)
        for attribute in node.attribute:
            waiting += [*attribute.g.node, *(inner for graph in attribute.graphs for inner in graph.node)]
    return found


def run_onnx(path: Path, photos: Tensor) -> tuple[Tensor, ...]:
    """Return boxes and scores of an ONNX file on the CPU. Raises UserError without onnxruntime."""
    return read_onnx(str(path))(photos)


def read_onnx(source: str | bytes) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """Load an ONNX graph, a file or its bytes, as a function of images."""
    require_packages("onnxruntime")
    runtime = importlib.import_module("onnxruntime")
    quiet = runtime.SessionOptions()
    quiet.log_severity_level = 3
    session = runtime.InferenceSession(source, quiet, providers=["CPUExecutionProvider"])
    return lambda photos: tuple(
        torch.from_numpy(one) for one in session.run(None, {"images": photos.numpy()})
    )


def require_packages(*packages: str) -> None:
    """Raise UserError for the first package that is not installed."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"export to ONNX needs the package {package}, which is not installed; run pip install "
                "'cckt[export]'."
            )
