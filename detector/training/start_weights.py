"""Start a run from the weights of another run, or of any .safetensors file that fits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from cckt.cache_builder.base.errors import UserError
from cckt.detector.runs.run_folder import evaluation_weights, load_weights


@dataclass(frozen=True)
class StartWeights:
    """What was taken from a file of weights.

    taken: tensors copied; other_shape: tensors of the model that have another shape in the file; missing:
    tensors of the model that are not in the file; unused: tensors of the file that the model does not have.
    """

    source: Path
    taken: int
    other_shape: list[str]
    missing: list[str]
    unused: list[str]

    def line(self) -> str:
        """Return a sentence on what was taken."""
        total = self.taken + len(self.other_shape) + len(self.missing)
        parts = [f"{self.source}: {self.taken} of {total} tensors of the model were taken"]
        for names, reason in (
            (self.other_shape, "have another shape there"),
            (self.missing, "are not in the file"),
        ):
            if names:
                parts.append(f"{len(names)} {reason} (first: {names[0]})")
        if self.unused:
            parts.append(f"{len(self.unused)} of the file are not used (first: {self.unused[0]})")
        return "; ".join(parts)


def start_from(model: nn.Module, source: Path) -> StartWeights:
    """Copy the tensors that fit by name and shape into a model.

    source: a run folder, whose evaluated weights are taken, or a .safetensors file. Raises UserError if it
    is neither, and if no tensor fits.
    """
    if source.is_dir():
        path = evaluation_weights(source)
    elif source.suffix == ".safetensors":
        path = source
    else:
        raise UserError(f"--from {source}: expected a run folder or a .safetensors file; give one of them.")
    stored, own = load_weights(path), model.state_dict()
    fitting = {
        name: value for name, value in stored.items() if name in own and value.shape == own[name].shape
    }
    if not fitting:
        first = next(iter(stored), "nothing")
        raise UserError(
            f"--from {path}: none of its {len(stored)} tensors (first: {first}) has a name and shape of this "
            "model, expected weights of cckt train with the same model options; train with the recipe of "
            "that run, or without --from."
        )
    other = [name for name in own if name in stored and name not in fitting]
    model.load_state_dict(own | fitting)
    return StartWeights(
        path,
        len(fitting),
        other,
        [name for name in own if name not in stored],
        [name for name in stored if name not in own],
    )
