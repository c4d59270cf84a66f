"""Pretrained weights of a backbone from a .safetensors file: from this package or from the user."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from cckt.cache_builder.base.disk_faults import raise_unless_missing
from cckt.cache_builder.base.errors import UserError, counted
from cckt.cache_builder.base.untrusted.regular_files import require_regular


def uses_timm_weights(weights: str) -> bool:
    """Whether `model.backbone_weights` names weights that timm downloads."""
    return weights == "imagenet" or weights.startswith("tag:")


def weights_file(weights: str) -> Path:
    """Return the file that `model.backbone_weights` names. Raises UserError if there is none."""
    if weights == "shapeworld":
        spec = importlib.util.find_spec("cckt.shapeworld")
        assert spec is not None, "the package has no cckt.shapeworld"
        assert spec.submodule_search_locations, "cckt.shapeworld is not a package"
        path = Path(next(iter(spec.submodule_search_locations))) / "backbone" / "resnet10t.safetensors"
    else:
        path = Path(weights)
    if path.suffix != ".safetensors" or not path.is_file():
        raise UserError(
            f"option model.backbone_weights: found {weights!r}, expected imagenet, none, tag:NAME, "
            f"shapeworld or an existing .safetensors file ({path} is none)."
        )
    return path


def load_backbone(net: nn.Module, path: Path) -> None:
    """Load a file into a timm model of feature maps.

    The file has the names of the whole timm model (as on the hub) or of the model of feature maps; further
    tensors, such as the classifier's, are ignored. Raises UserError for a file that cannot be read, missing
    tensors and other shapes.
    """
    try:
        stored = load_file(require_regular(path))
    except (SafetensorError, OSError) as error:
        raise_unless_missing(error, path)
        raise UserError(
            f"option model.backbone_weights: {path} holds no readable safetensors ({error}); restore the "
            "file or name another."
        ) from None
    own: dict[str, Tensor] = net.state_dict()
    source = {name: _name_in(stored, name) for name in own}
    missing = [
        name for name, there in source.items() if there is None and not name.endswith("num_batches_tracked")
    ]
    found = {name: stored[there] for name, there in source.items() if there is not None}
    other = [name for name, value in found.items() if value.shape != own[name].shape]
    if missing or other:
        raise UserError(
            f"option model.backbone_weights: {path} lacks {counted(len(missing), 'tensor')} of the "
            "backbone and has "
            f"{len(other)} of another shape (first: {(missing + other)[0]!r}); expected "
            "the weights of this very model.backbone."
        )
    net.load_state_dict(found, strict=False)


def _name_in(stored: Collection[str], name: str) -> str | None:
    """Return the name of a tensor in a file of the whole model; None if the file does not have it.

    To return feature maps, timm renames modules (`layers.0` becomes `layers_0`) or wraps the model
    (`model.`).
    """
    first, dot, rest = name.partition(".")
    unflattened = ".".join(first.rsplit("_", 1)) + dot + rest
    return next((one for one in (name, unflattened, rest) if one in stored), None)
