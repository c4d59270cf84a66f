"""Start a run from the weights of another run, of a public detector, or of any .safetensors file that fits.

Weights that were trained on boxes of novel concepts have seen what an open-vocabulary protocol measures: such
a start is recorded in facts.json (`Facts.started_from`) and refused under these protocols.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from cckt.cache_builder.base.digests import file_digest
from cckt.cache_builder.base.errors import UserError, counted
from cckt.cache_builder.index import Index
from cckt.cache_builder.proposals import Provenance, find_leak, is_guarded
from cckt.cache_builder.proposals.provenance import check_saw_novel
from cckt.detector.inference.region_proposals import provenance_of as run_provenance
from cckt.detector.runs.checkpoints import evaluation_weights
from cckt.detector.runs.run_folder import Facts
from cckt.detector.runs.weights import load_weights
from cckt.detector.training.public_names import library_of, with_our_names


@dataclass(frozen=True)
class StartWeights:
    """What was taken from a file of weights.

    taken: tensors copied; other_shape: tensors of the model that have another shape in the file; missing:
    tensors of the model that are not in the file; unused: tensors of the file that the model does not have.
    library: the library whose names the file has, "" for our own.
    """

    source: Path
    taken: int
    other_shape: list[str]
    missing: list[str]
    unused: list[str]
    library: str = ""

    def line(self) -> str:
        """Return a sentence on what was taken."""
        total = self.taken + len(self.other_shape) + len(self.missing)
        named = f" (named as in {self.library})" if self.library else ""
        parts = [f"{self.source}{named}: {self.taken} of {total} tensors of the model were taken"]
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
    is neither, if no tensor fits, and if one is not finite.
    """
    path = _file_of(source)
    stored, own = load_weights(path), model.state_dict()
    library = library_of(stored)
    unused = [name for name in stored if name not in own]
    if library:
        given = list(stored)
        stored, origin = with_our_names(stored, library)
        taken = {name for one in stored if one in own for name in origin[one]}
        unused = [name for name in given if name not in taken]
    fitting = {
        name: value for name, value in stored.items() if name in own and value.shape == own[name].shape
    }
    if not fitting:
        first = next(iter(stored), "nothing")
        raise UserError(
            f"--from {path}: none of its {counted(len(stored), 'tensor')} (first: {first}) has a name and "
            "shape of this "
            "model, expected weights of cckt train with the same model options; train with the recipe of "
            "that run, or without --from."
        )
    bad = next(
        (one for one, value in fitting.items() if value.is_floating_point() and not value.isfinite().all()),
        None,
    )
    if bad is not None:
        raise UserError(
            f"--from {path}: its tensor {bad} holds non-finite numbers, expected finite weights; give "
            "another checkpoint."
        )
    other = [name for name in own if name in stored and name not in fitting]
    model.load_state_dict(own | fitting)
    missing = [name for name in own if name not in stored]
    return StartWeights(path, len(fitting), other, missing, unused, library)


def provenance_of(source: Path, saw_novel: str = "unknown") -> list[Provenance]:
    """Return who trained the weights of a run folder or file, and whose weights they had started from.

    A run of ours is known by its facts, also where its model.safetensors is given. Of any other file only
    saw_novel is known ("yes", "no" or "unknown"): whether it was trained on boxes of novel concepts. For a
    run, "yes" and "no" replace what its facts say of it.
    """
    path, stated = _file_of(source), check_saw_novel(saw_novel)
    run = source if source.is_dir() else source.parent
    if (run / "facts.json").is_file() and (source.is_dir() or (run / "config.toml").is_file()):
        facts = Facts.load(run)
        known = run_provenance(run, facts, path)
        return [known if stated == "unknown" else replace(known, saw_novel=stated), *facts.makers]
    return [Provenance("detector", source.name, file_digest(path), saw_novel=stated)]


def require_clean_start(makers: list[Provenance], index: Index, recipe: str) -> None:
    """Raise UserError if training follows an open-vocabulary protocol and starts from weights that may have
    seen novel concepts."""
    if not is_guarded(index, recipe):
        return
    for maker in makers:
        leak = find_leak(maker, index)
        if leak:
            raise UserError(
                f"--from: the weights of {maker} {leak}, expected weights that never saw them under an "
                f"open-vocabulary protocol ({index.folder}); start without --from, from a run on the same "
                "base concepts, or state --saw-novel no if that is so."
            )


def _file_of(source: Path) -> Path:
    if source.is_dir():
        return evaluation_weights(source)
    if source.suffix == ".safetensors":
        return source
    raise UserError(f"--from {source}: expected a run folder or a .safetensors file; give one of them.")
