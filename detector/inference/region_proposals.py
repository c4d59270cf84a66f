"""Class-agnostic regions of a trained run: the detector's side of `cckt cache proposals --from RUN`.

`RunProposer` is a `Proposer` of `cache_builder/columns/proposals.py`, which knows no detector.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from cckt.cache_builder.base.constants import PRECISION
from cckt.cache_builder.base.device import pick_device
from cckt.cache_builder.base.digests import file_digest
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.proposals import Provenance
from cckt.detector.config.train import Precision
from cckt.detector.inference.inference_model import load_inference_model
from cckt.detector.runs.base_text import load_base_text
from cckt.detector.runs.checkpoints import evaluation_weights
from cckt.detector.runs.run_folder import Facts
from cckt.detector.students.boxes import to_xyxy
from cckt.detector.students.contract import MASKED
from cckt.detector.students.precision import computed_precision


class RunProposer:
    """The class-agnostic regions of a run, of any student; present concepts never guide it.

    A device without instructions for `precision` computes, and records, fp32.

    Attributes: `provenance`; `recipe`, what decides the boxes beside weights and batch.
    """

    def __init__(self, run: Path, device: str = "auto", precision: str = PRECISION) -> None:
        """Load a run folder. Raises UserError if `run` is not one, or has no weights or base texts."""
        known = get_args(Precision)
        if precision not in known:
            raise UserError(f"--precision {precision} is not known; choose one of {', '.join(known)}.")
        computed = computed_precision(cast(Precision, precision), pick_device(device))
        self._model, facts = load_inference_model(run, device, fold=True, precision=computed)
        text = load_base_text(run, facts)
        if text is None:
            raise UserError(
                f"--from {run}: the run has no base_text.safetensors, because an earlier version trained it, "
                "expected its text embeddings of the base concepts; train it again, or take another run."
            )
        self._text = torch.from_numpy(text).to(self._model.device)
        self.provenance = provenance_of(run, facts)
        config = self._model.config
        data = config.data
        self.recipe: dict[str, Any] = {
            "student": type(self._model.model).__name__,
            "recipe": config.recipe,
            "short_side": data.eval_short_side,
            "max_side": data.max_side,
            "precision": computed,
        }

    def prepare(self, photo: Image.Image) -> Tensor:
        """Return an RGB photo as (3, h, w) uint8 at the evaluation size."""
        return self._model.preprocess(photo)

    def propose(
        self, views: Sequence[Tensor]
    ) -> list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
        """Return for each prepared photo boxes (S, 4) xyxy as fractions of its sides, and scores (S,)."""
        encoded = self._model.encode(views)
        with self._model.inference():
            found = self._model.model.region_proposals(encoded, self._text)
        boxes, objectness = to_xyxy(found.boxes).double().cpu().numpy(), found.objectness.double().cpu()
        results = []
        for one, logits in zip(boxes, objectness, strict=True):
            real = (logits > MASKED / 2).numpy()
            results.append((one[real], logits.sigmoid().numpy()[real]))
        return results


def provenance_of(run: Path, facts: Facts, weights: Path | None = None) -> Provenance:
    """Return the provenance of a run's regions: the concepts whose annotated boxes it was trained on.

    A run that started from weights that may have seen novel classes has seen them, and so has one that was
    trained on proposals or nouns of such a maker. It also knows the words that these makers were given.
    weights: file whose digest is stated; None for those by which the run is evaluated.
    """
    names = [name for name in facts.names if name not in facts.made_base]
    makers = [*facts.makers, *facts.makers_of_proposals]
    for one in makers:
        names += [name for name in one.concepts if name not in names]
    trained_on = f"boxes of {len(names)} concepts of the index {facts.index_digest}"
    if facts.pseudo:
        trained_on += f"; {facts.pseudo}"
    return Provenance(
        "run",
        run.resolve().name,
        file_digest(weights or evaluation_weights(run)),
        trained_on,
        concepts=tuple(names),
        words=tuple(dict.fromkeys(word for one in makers for word in one.words)),
        saw_novel="yes" if any(map(_may_have_seen, makers)) else "unknown",
        prompt="; ".join(dict.fromkeys(one.prompt for one in makers if one.prompt)),
    )


def _may_have_seen(maker: Provenance) -> bool:
    """Whether a maker may have been trained on novel classes, whichever these are."""
    stated = maker.maker in ("detector", "import") and maker.saw_novel != "no"
    return stated or maker.saw_novel == "yes"
