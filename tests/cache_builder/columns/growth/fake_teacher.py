"""A teacher without torch that counts what it embeds. For the tests of growing columns."""

from __future__ import annotations

from typing import Any

import numpy as np

from cckt.cache_builder.teacher.clip import Teacher


class FakeTeacher(Teacher):
    """Embeds pixels by a fixed random projection, row by row, and counts the rows."""

    def __init__(self, teacher: Teacher) -> None:
        self.name, self.width, self.precision = "fake", 8, "fp32"
        self.preprocess, self.device, self.weight_digest = teacher.preprocess, teacher.device, "sha256:fake"
        self.rows = 0
        pixels = int(np.prod(self.preprocess.shape))
        self._matrix = np.random.default_rng(0).normal(size=(pixels, self.width))

    def recipe(self) -> dict[str, Any]:
        return {"name": self.name, "weight_digest": self.weight_digest, "precision": self.precision}

    def preprocess_recipe(self) -> dict[str, Any]:
        return dict(self.preprocess.recipe)

    def launch_images(self, images: Any, shape: int | None = None) -> Any:
        rows = [np.asarray(image).ravel() @ self._matrix for image in images]
        self.rows += len(rows)
        return lambda: np.stack([row / np.linalg.norm(row) for row in rows]).astype(np.float32)
