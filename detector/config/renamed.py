"""Options of earlier versions: old name -> new name, so that old run folders and TOML files still open."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cckt.cache_builder.base.errors import UserError

RENAMED = {
    "loss.tau": "model.tau",
    "loss.loss_contrast": "terms.region_contrast.weight",
    "loss.contrast_from_epoch": "terms.region_contrast.first_epoch",
    "loss.negatives": "terms.region_contrast.negatives",
    "loss.teacher_bank": "terms.region_contrast.teacher_bank",
    "loss.loss_denoise": "denoise.weight",
    "loss.loss_one_to_many": "one_to_many.weight",
    "model.guidance": "guidance.enabled",
    "train.guidance_drop": "guidance.drop",
    "train.guidance_add": "guidance.add",
    "train.guidance_none": "guidance.none",
    "train.guidance_priors": "guidance.priors",
    "train.guidance_order": "guidance.order",
    "train.denoise_groups": "denoise.groups",
    "train.denoise_box_noise": "denoise.box_noise",
    "train.denoise_wrong_words": "denoise.wrong_words",
    "train.one_to_many": "one_to_many.repeats",
}
"""Old option -> the option that has its meaning now."""

REMOVED = {"model.class_head": "text"}
"""Option that no longer exists -> the only value that is still supported."""


def with_new_names(options: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return a nested mapping of options with old names replaced by new ones.

    A new name in the same mapping wins. Raises UserError, naming `where`, for the value of a removed option
    that is no longer supported.
    """
    new: dict[str, Any] = {}
    old: dict[str, Any] = {}
    for section, values in options.items():
        if not isinstance(values, Mapping):
            new[section] = values
            continue
        new.setdefault(section, {})
        for name, value in values.items():
            option = f"{section}.{name}"
            if option in REMOVED:
                if value != REMOVED[option]:
                    raise UserError(
                        f"{where}: option {option} is {value!r}, but this version supports only "
                        f"{REMOVED[option]!r}; use cckt 0.1.0 for this run, or train it again."
                    )
            elif option in RENAMED:
                old[RENAMED[option]] = value
            else:
                new[section][name] = value
    for option, value in old.items():
        *sections, leaf = option.split(".")
        here = new
        for part in sections:
            here = here.setdefault(part, {})
        here.setdefault(leaf, value)
    return new


def check_name(option: str, where: str) -> None:
    """Raise UserError if `option` is an old name; the sentence names the new one."""
    if option in RENAMED:
        raise UserError(f"{where}: option {option} is now {RENAMED[option]}; use that name.")
    if option in REMOVED:
        raise UserError(f"{where}: option {option} no longer exists; remove it.")
