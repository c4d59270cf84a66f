"""Configurations with absurd numbers of layers."""

from __future__ import annotations

from typing import Any

import pytest

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.untrusted.foreign_models import MOST_LAYERS, refuse_absurd_depth


@pytest.mark.parametrize(
    "config",
    [
        {},
        None,
        [3],
        {"layers": MOST_LAYERS},
        {"vision_cfg": {"layers": [3, 4, 23, 3], "width": 10**30}},
        {"vocab_size": 250_000, "max_position_embeddings": 10**7, "layer_norm_eps": 1e-5},
        {"mlp_layers": [4096, 4096], "feature_layers": [3000], "layers": [float("nan"), 2]},
        {"layers": "many", "depths": [], "block_size": 10**9, "out_layers": -1},
    ],
)
def test_configurations_of_models_pass(config: Any) -> None:
    refuse_absurd_depth("teacher x", config)


@pytest.mark.parametrize("key", ["layers", "depths", "n_blocks"])
@pytest.mark.parametrize("value", [[2, 10**6], [float("nan"), 10**9], [[10**9]]])
def test_lists_of_layers_are_looked_through(key: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"has {key} = "):
        refuse_absurd_depth("teacher x", {"a": {key: value}})


@pytest.mark.parametrize(
    "key", ["layers", "num_hidden_layers", "encoder_layers", "n_layer", "depth", "num_local_experts"]
)
@pytest.mark.parametrize("value", [MOST_LAYERS + 1, 1e300, 10**400])
def test_more_layers_than_any_model_has_are_refused_at_any_level(key: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"teacher x: its configuration has {key} = .*at most 2000 layers"):
        refuse_absurd_depth("teacher x", {"a": [{"b": {key: value}}]})
