"""Measure whether a teacher's text embeddings let a linear student name novel objects.

Claim: with a good teacher the novel top-1 is well above that of random embeddings, which is zero.
Peer: the same student with random unit vectors instead of text embeddings.

    python benchmarks/linear_student.py [--teacher shapeworld] [--photos 1500] [--held-out 400]

A ridge regression maps features of the pretrained backbone at annotated base boxes to text embeddings, and
classifies the boxes of all concepts in held-out images. It takes seconds, so a teacher can be assessed before
any training. Prints one JSON line:

    base_top1, novel_top1                   share of boxes of each split that get the right concept
    base_top1_random, novel_top1_random     the same with random unit vectors of the same width
    teacher, width, boxes                   teacher, width of its embeddings, boxes of the regression
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import roi_align

from cckt.cache_builder.columns.text import cache_text
from cckt.cache_builder.index import Index, open_index
from cckt.cache_builder.photos import load_photo
from cckt.cache_builder.store import open_column
from cckt.cache_builder.teacher.clip import load_teacher
from cckt.detector.config.recipes import recipe
from cckt.detector.students.backbones.backbone import Backbone
from cckt.shapeworld.dataset import make_dataset

RIDGE = 3000.0
"""Weight of the L2 penalty."""


def features(backbone: Backbone, index: Index, mean: float, std: float) -> tuple[Tensor, Tensor]:
    """Return (M, F) float32 features of all boxes, 3 x 3 cells of each map, and (M,) int64 concept rows."""
    found = []
    for row in range(len(index)):
        size = (int(index.widths[row]), int(index.heights[row]))
        photo = load_photo(index.photo_path(row), size, exif=index.exif)
        pixels = torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None].float()
        boxes = [torch.from_numpy(np.array(index.box_xyxy[index.boxes_of(row)])).float()]
        with torch.no_grad():
            maps = backbone((pixels / 255 - mean) / std)
        cells = [
            roi_align(one, boxes, (3, 3), one.shape[-1] / pixels.shape[-1], 2, True).flatten(1)
            for one in maps
        ]
        found.append(torch.cat(cells, 1))
    return torch.cat(found), torch.from_numpy(np.array(index.box_concepts)).long()


def predict(inputs: Tensor, targets: Tensor, queries: Tensor, text: Tensor) -> Tensor:
    """Return (K,) concept rows of `queries`: nearest text after ridge regression from `inputs` to `targets`.

    inputs: (M, F) features, targets: (M, D) unit embeddings, queries: (K, F) features, text: (C, D) unit.
    """
    mean, spread, centre = inputs.mean(0), inputs.std(0) + 1e-6, targets.mean(0)
    scaled = (inputs - mean) / spread
    normal = scaled.T @ scaled + RIDGE * torch.eye(scaled.shape[1])
    weights = torch.linalg.solve(normal, scaled.T @ (targets - centre))
    embeddings = functional.normalize((queries - mean) / spread @ weights + centre, dim=1)
    return (embeddings @ text.T).argmax(1)


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teacher", default="shapeworld")
    parser.add_argument("--photos", type=int, default=1500)
    parser.add_argument("--held-out", type=int, default=400)
    options = parser.parse_args()
    config = recipe("shapeworld")
    backbone = Backbone(config.model).eval()
    with tempfile.TemporaryDirectory() as folder:
        seen, held_out = Path(folder, "seen"), Path(folder, "held-out")
        make_dataset(seen, options.photos, 11, keep="base")
        make_dataset(held_out, options.held_out, 12)
        teacher = load_teacher(options.teacher)
        cache_text(held_out, teacher)
        index = open_index(held_out)
        column = open_column(held_out, "text", index_digest=index.digest)
        text = torch.from_numpy(np.array(column.all())).float()
        mean, std = config.data.mean[0], config.data.std[0]
        x, x_concepts = features(backbone, open_index(seen), mean, std)
        z, z_concepts = features(backbone, index, mean, std)
    novel = torch.from_numpy(index.concepts.in_split("novel"))[z_concepts]
    draws = torch.Generator().manual_seed(0)
    random = functional.normalize(torch.randn(text.shape, generator=draws), dim=1)
    line: dict[str, object] = {"teacher": options.teacher, "width": text.shape[1], "boxes": len(x)}
    for name, space in (("", text), ("_random", random)):
        right = predict(x, space[x_concepts], z, space) == z_concepts
        line[f"base_top1{name}"] = round(float(right[~novel].float().mean()), 3)
        line[f"novel_top1{name}"] = round(float(right[novel].float().mean()), 3)
    sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
