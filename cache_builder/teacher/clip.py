"""Teachers by name: load a frozen CLIP through open_clip. Only this module imports open_clip.

Names are those of open_clip:

* ``MODEL/PRETRAINED``: an architecture and published weights, "ViT-L-14/laion2b_s32b_b82k"; PRETRAINED may
  be a weights file.
* ``MODEL/random:SEED``: untrained, for full-size trials without weights; exactly
  ``open_clip.create_model(MODEL)`` after ``torch.manual_seed(SEED)``.
* ``hf-hub:OWNER/REPOSITORY``: a repository of the Hugging Face hub with open_clip_config.json.
* ``local-dir:PATH``: a folder with open_clip_config.json and open_clip_model.safetensors.
* ``shapeworld``: the small teacher that is installed with the synthetic data set.

Preprocessing, context length and tokenizer are open_clip's for that model. The activation is the one that
the weights were trained with: QuickGELU for OpenAI's, also under the plain names ("ViT-B-32/openai"). Weights
are read as safetensors or by ``torch.load(weights_only=True)``. No code of a folder or repository is
executed; see `foreign_code`.
"""

from __future__ import annotations

import difflib
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
from huggingface_hub import constants as hub

from cckt.cache_builder.base.constants import PRECISION
from cckt.cache_builder.base.device import pick_device
from cckt.cache_builder.base.disk_faults import UNANSWERED, raise_unless_missing
from cckt.cache_builder.base.errors import UserError, listed
from cckt.cache_builder.base.hub import first_line, no_prompts, no_waiting_offline, quiet
from cckt.cache_builder.base.untrusted.foreign_models import refuse_absurd_depth
from cckt.cache_builder.base.untrusted.regular_files import read_regular, require_regular
from cckt.cache_builder.base.untrusted.text import natural, parse_json
from cckt.cache_builder.teacher.encoder import PRECISIONS
from cckt.cache_builder.teacher.encoder import Teacher as Teacher
from cckt.cache_builder.teacher.foreign_code import (
    TRUST,
    refuse_code_of_config,
    refuse_code_of_folder,
    text_tower_folder,
)
from cckt.cache_builder.teacher.preprocess import Preprocess

CONFIG = "open_clip_config.json"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors")


def load_teacher(name: str, *, device: str = "auto", precision: str = PRECISION) -> Teacher:
    """Load the teacher called `name` (see the top of this file), frozen.

    device: "auto" is cuda, then mps, then cpu. precision: of matrix products, by autocast; weights and
    embeddings stay float32.

    Raises UserError for an unknown name (with the nearest ones), weights that cannot be downloaded, a folder
    that does not hold a teacher or holds code, a missing device, or an unknown precision.
    """
    where = pick_device(device)
    if precision not in PRECISIONS:
        raise UserError(f"--precision {precision} is not known; choose one of {', '.join(PRECISIONS)}.")
    if name == "shapeworld":
        source, model, transform = _from_folder(name, _shapeworld_folder())
    elif name.startswith("local-dir:"):
        source, model, transform = _from_folder(name, Path(name.removeprefix("local-dir:")))
    elif name.startswith("hf-hub:"):
        source, model, transform = _published(name, name, None)
    else:
        source, model, transform = _from_registry(name)
    config = json.loads(json.dumps(open_clip.get_model_config(source)))
    if quick_gelu_missing(*name.partition("/")[::2]):
        config["quick_gelu"] = True
    recipe = json.loads(json.dumps(open_clip.get_model_preprocess_cfg(model)))
    # Only a tokenizer of transformers takes the option; open_clip passes it on over the configuration's.
    options = {TRUST: False} if config.get("text_cfg", {}).get("hf_tokenizer_name") else {}

    def load_tokenizer() -> Any:
        return open_clip.get_tokenizer(source, **options)

    return Teacher(name, model, Preprocess(transform, recipe), config, load_tokenizer, where, precision)


def imagenet_templates() -> tuple[str, ...]:
    """Return the 80 templates of OpenAI's ImageNet ensemble, from open_clip, with `{}` for the name."""
    return tuple(fill("{}") for fill in open_clip.OPENAI_IMAGENET_TEMPLATES)


def is_published(architecture: str, weights: str) -> bool:
    """Whether open_clip lists weights for an architecture."""
    return bool(open_clip.is_pretrained_cfg(architecture, weights))


def quick_gelu_missing(architecture: str, weights: str) -> bool:
    """Whether published weights were trained with QuickGELU and the architecture has another activation.

    open_clip only warns then, and computes other embeddings. False for names that its registry does not have.
    """
    if not is_published(architecture, weights):
        return False
    trained = bool(open_clip.get_pretrained_cfg(architecture, weights).get("quick_gelu"))
    return trained and not (open_clip.get_model_config(architecture) or {}).get("quick_gelu")


_Loaded = tuple[str, torch.nn.Module, Any]


def _from_registry(name: str) -> _Loaded:
    architecture, slash, weights = name.partition("/")
    if architecture not in open_clip.list_models() or not slash or not weights:
        known = [f"{model}/{tag}" for model, tag in open_clip.list_pretrained()]
        raise UserError(
            f"teacher {name!r} is not known to open_clip; {_nearest(name, known)}; "
            "or give MODEL/random:SEED, local-dir:PATH or shapeworld."
        )
    if weights.startswith("random:"):
        return _untrained(name, architecture, weights.removeprefix("random:"))
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if not is_published(architecture, weights) and not Path(weights).is_file():
        choices = _nearest(f"{architecture}/{weights}", [f"{architecture}/{tag}" for tag in tags])
        raise UserError(
            f"teacher {name!r}: open_clip has no weights {weights!r} for {architecture}; {choices}; or give "
            f"{architecture}/random:SEED."
        )
    return _published(name, architecture, weights)


def _untrained(name: str, architecture: str, seed: str) -> _Loaded:
    number = natural(seed)
    if number is None:
        raise UserError(
            f"teacher {name!r}: {seed!r} is not a seed; give a whole number, as in {architecture}/random:0."
        )
    with quiet(), no_prompts(), no_waiting_offline(), torch.random.fork_rng():
        torch.manual_seed(number)
        try:
            model, _, transform = open_clip.create_model_and_transforms(architecture)
        except Exception as fault:
            raise UserError(
                f"teacher {name!r} could not be built ({first_line(fault)}); "
                "its text tower may need files from the Hugging Face hub: run once with a network, or "
                "choose another architecture."
            ) from fault
    return architecture, model, transform


def _published(name: str, architecture: str, weights: str | None) -> _Loaded:
    try:
        with quiet(), no_prompts(), no_waiting_offline():
            if weights is None:
                config = open_clip.get_model_config(architecture)
                refuse_code_of_config(name, config, f"{CONFIG} of {name}")
                _refuse_absurd_depth(name, config)
            model, transform = open_clip.create_model_from_pretrained(
                architecture,
                weights,
                weights_only=True,
                force_quick_gelu=quick_gelu_missing(architecture, weights or ""),
            )
    except UserError:
        raise
    except Exception as fault:
        raise UserError(
            f"the weights of teacher {name} could not be fetched or read ({first_line(fault)}); "
            f"run once with a network so that they are kept in {hub.HF_HUB_CACHE}, or give a folder that "
            "holds them as local-dir:PATH."
        ) from fault
    return architecture, model, transform


def _from_folder(name: str, folder: Path) -> _Loaded:
    if not folder.is_dir():
        raise UserError(
            f"teacher {name}: {folder} is not a folder; give one that holds {CONFIG} and {WEIGHTS[0]}."
        )
    if not (folder / CONFIG).is_file() or not any((folder / file).is_file() for file in WEIGHTS):
        found = listed(sorted(path.name for path in folder.iterdir()), 4) or "nothing"
        raise UserError(
            f"teacher {name}: {folder} holds {found}, not both {CONFIG} and {WEIGHTS[0]}; "
            "open_clip.push_to_hf_hub.save_for_hf(..., safe_serialization=True) writes both."
        )
    source = f"local-dir:{folder}"
    try:
        with quiet(), no_prompts(), no_waiting_offline():
            for file in folder.iterdir():  # open_clip reads some of them
                require_regular(file)
            config = parse_json(read_regular(folder / CONFIG))
            refuse_code_of_config(name, config, folder / CONFIG)
            refuse_code_of_folder(name, folder)
            _refuse_absurd_depth(name, config)
            model, transform = open_clip.create_model_from_pretrained(source)
    except UserError:
        raise
    except Exception as fault:
        if isinstance(fault, OSError) and fault.errno in UNANSWERED:
            raise_unless_missing(fault, folder)
        raise UserError(
            f"teacher {name}: {folder} could not be loaded ({first_line(fault)}); "
            f"its {CONFIG} must describe the model whose weights are in the same folder."
        ) from fault
    return source, model, transform


def _refuse_absurd_depth(name: str, config: Any) -> None:
    """Raise UserError if a teacher, or the text tower in a folder that it names, has too many layers."""
    refuse_absurd_depth(f"teacher {name}", config)
    tower = text_tower_folder(config)
    if tower is not None and (tower / "config.json").is_file():
        refuse_absurd_depth(f"teacher {name}", parse_json(read_regular(tower / "config.json")))


def _shapeworld_folder() -> Path:
    # cache_builder may read shapeworld's files but not import its code.
    spec = importlib.util.find_spec("cckt.shapeworld")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(place) / "teacher"
        if (folder / CONFIG).is_file():
            return folder
    raise UserError(
        "teacher shapeworld: its weights are not installed with this package; reinstall cckt, or name "
        "another teacher."
    )


def _nearest(name: str, known: Sequence[str]) -> str:
    lowered = {item.lower(): item for item in known}
    close = difflib.get_close_matches(name.lower(), list(lowered), n=3, cutoff=0.3)
    if not close:
        return "open_clip.list_pretrained() names them all"
    return "the nearest are " + ", ".join(lowered[item] for item in close)
