"""Weights of public Deformable DETRs: equal outputs, what was taken, and the guard of the protocols."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection, TimmBackboneConfig

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.index import build_index, open_index
from cckt.detector.config.config import Config
from cckt.detector.evaluation.evaluation_set import check_start
from cckt.detector.runs.run_folder import Facts
from cckt.detector.runs.weights import save_weights
from cckt.detector.students.build import build_student
from cckt.detector.students.deformable_detr.model import DeformableDETR
from cckt.detector.training.public_names import library_of, with_our_names
from cckt.detector.training.start_weights import provenance_of, require_clean_start, start_from
from cckt.detector.training.train import train
from tests.detector.tiny import make_data, tiny_config

HIDDEN, HEADS, LEVELS, POINTS, FFN, QUERIES = 32, 4, 4, 3, 48, 7


@pytest.fixture(scope="module")
def reference() -> DeformableDetrForObjectDetection:
    """An untrained detector of transformers, with noise on every weight and statistic."""
    config = DeformableDetrConfig(
        backbone_config=TimmBackboneConfig(backbone="test_resnet", out_indices=[2, 3, 4]),
        d_model=HIDDEN,
        encoder_layers=1,
        decoder_layers=2,
        encoder_ffn_dim=FFN,
        decoder_ffn_dim=FFN,
        encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS,
        num_feature_levels=LEVELS,
        encoder_n_points=POINTS,
        decoder_n_points=POINTS,
        num_queries=QUERIES,
        with_box_refine=True,
        disable_custom_kernels=True,
    )
    torch.manual_seed(0)
    model = DeformableDetrForObjectDetection(config).eval()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                noise = torch.rand_like(value) if "running_var" in name else torch.randn_like(value)
                value.add_(noise * 0.1)
    return model


@pytest.fixture(scope="module")
def folder(reference: DeformableDetrForObjectDetection, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("public")
    reference.save_pretrained(path)
    return path


def own_config(*assignments: str) -> Config:
    return tiny_config(
        f"model.hidden={HIDDEN}",
        f"model.heads={HEADS}",
        f"model.points={POINTS}",
        f"model.ffn={FFN}",
        f"model.queries={QUERIES}",
        f"model.levels={LEVELS}",
        "model.strides=8,16,32",
        "model.norm=frozen",
        *assignments,
    )


def own_model() -> DeformableDETR:
    torch.manual_seed(1)
    model = build_student(own_config(), 16).eval()
    assert isinstance(model, DeformableDETR)
    return model


def as_detrex(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights of transformers under the names of detrex, written from its source code."""
    found: dict[str, Tensor] = {}
    layer = {
        "self_attn_layer_norm.": "norms.0.",
        "encoder_attn_layer_norm.": "norms.1.",
        "encoder_attn.": "attentions.1.",
        "self_attn.out_proj.": "attentions.0.attn.out_proj.",
        "self_attn.": "attentions.0.",
        "fc1.": "ffns.0.layers.0.0.",
        "fc2.": "ffns.0.layers.1.",
    }
    for name, value in stored.items():
        new = name.removeprefix("model.")
        if ".layers." in new and new.startswith(("encoder.", "decoder.")) and "bbox_embed" not in new:
            side, _, number, rest = new.split(".", 3)
            rest = rest.replace("final_layer_norm.", "norms.1." if side == "encoder" else "norms.2.")
            if rest.startswith(("self_attn.q_proj.", "self_attn.k_proj.", "self_attn.v_proj.")):
                continue
            for there, here in layer.items():
                if rest.startswith(there):
                    rest = here + rest.removeprefix(there)
                    break
            new = f"transformer.{side}.layers.{number}.{rest}"
        elif new.startswith("input_proj."):
            _, level, part, rest = new.split(".")
            kind = f"convs.{level}" if int(level) < 3 else f"extra_convs.{int(level) - 3}"
            new = f"neck.{kind}.{'conv' if part == '0' else 'norm'}.{rest}"
        elif new == "level_embed":
            new = "transformer.level_embeds"
        elif new.startswith("reference_points."):
            new = f"transformer.{new}"
        elif new == "query_position_embeddings.weight":
            new = "query_embedding.weight"
        elif new.startswith("decoder.bbox_embed."):
            new = f"transformer.{new}"
        found[new] = value
    for number in range(2):
        own = f"model.decoder.layers.{number}.self_attn"
        for kind in ("weight", "bias"):
            parts = [stored[f"{own}.{part}_proj.{kind}"] for part in "qkv"]
            found[f"transformer.decoder.layers.{number}.attentions.0.attn.in_proj_{kind}"] = torch.cat(parts)
    return found


@pytest.mark.parametrize("library", ["transformers", "detrex"])
def test_boxes_of_a_public_detector_are_kept(
    reference: DeformableDetrForObjectDetection, folder: Path, tmp_path: Path, library: str
) -> None:
    path = folder / "model.safetensors"
    if library == "detrex":
        from safetensors.torch import load_file

        path = tmp_path / "detrex.safetensors"
        save_weights(path, as_detrex(load_file(folder / "model.safetensors")))
    model = own_model()
    report = start_from(model, path)
    assert report.library == library
    assert report.other_shape == []
    ours = ("guidance.", "region_heads.", "class_heads.")
    assert [one for one in report.missing if not one.endswith("num_batches_tracked")] == [
        name for name in model.state_dict() if name.startswith(ours)
    ]
    assert all(name.startswith("class_embed.") for name in report.unused)
    assert f"(named as in {library})" in report.line()
    images = torch.randn(2, 3, 96, 128, generator=torch.Generator().manual_seed(2))
    text = torch.nn.functional.normalize(torch.randn(3, 16), dim=1)
    with torch.no_grad():
        expected = reference(pixel_values=images)
        encoded = model.encode(images, None)
        found = model.decode(encoded, text, None)
    torch.testing.assert_close(encoded.memory, expected.encoder_last_hidden_state, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.boxes[-1], expected.pred_boxes, atol=1e-4, rtol=1e-4)


def test_the_newer_names_of_transformers_are_read_too(reference: DeformableDetrForObjectDetection) -> None:
    """Within the library layers have an mlp and an o_proj; it writes files with the older names."""
    stored = reference.state_dict()
    assert any(".mlp.fc1." in name for name in stored)
    found, _ = with_our_names(stored, library_of(stored))
    own = own_model().state_dict()
    needed = {name for name in own if name.startswith(("transformer.", "pyramid.", "query_"))}
    assert needed <= set(found)
    assert all(found[name].shape == own[name].shape for name in needed)


def test_a_resnet_of_transformers_or_detectron2_has_the_names_of_timm() -> None:
    names = {
        "model.backbone.encoder.stages.1.layers.0.layer.2.convolution.weight": "layer2.0.conv3.weight",
        "model.backbone.encoder.stages.1.layers.0.layer.2.normalization.bias": "layer2.0.bn3.bias",
        "model.backbone.encoder.stages.3.layers.0.shortcut.convolution.bias": "layer4.0.downsample.0.bias",
        "model.backbone.encoder.stages.3.layers.0.shortcut.normalization.bias": "layer4.0.downsample.1.bias",
        "model.backbone.embedder.embedder.convolution.weight": "conv1.weight",
        "model.backbone.embedder.embedder.normalization.running_mean": "bn1.running_mean",
    }
    found, origin = with_our_names({name: torch.zeros(1) for name in names}, "transformers")
    assert origin == {f"backbone.net.{own}": [name] for name, own in names.items()}
    names = {
        "backbone.stem.conv1.weight": "conv1.weight",
        "backbone.stem.conv1.norm.running_var": "bn1.running_var",
        "backbone.res2.0.conv1.weight": "layer1.0.conv1.weight",
        "backbone.res5.2.conv3.norm.weight": "layer4.2.bn3.weight",
        "backbone.res3.0.shortcut.weight": "layer2.0.downsample.0.weight",
        "backbone.res3.0.shortcut.norm.bias": "layer2.0.downsample.1.bias",
    }
    found, origin = with_our_names({name: torch.zeros(1) for name in names}, "detrex")
    assert origin == {f"backbone.net.{own}": [name] for name, own in names.items()}
    assert len(found) == len(names)


def test_a_file_of_no_library_keeps_its_names() -> None:
    assert library_of({"backbone.net.conv1.weight": torch.zeros(1)}) == ""


def test_public_weights_are_refused_under_a_protocol_unless_stated(folder: Path, tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    file, config = folder / "model.safetensors", own_config()
    with pytest.raises(UserError, match=r"may have seen novel classes .* state --saw-novel no"):
        train(config, data, None, tmp_path / "a", start=file, max_steps=1)
    with pytest.raises(UserError, match=r"saw novel classes in its training \(--saw-novel yes\)"):
        train(config, data, None, tmp_path / "a", start=file, saw_novel="yes", max_steps=1)
    with pytest.raises(UserError, match=r"--saw-novel perhaps: expected yes, no or unknown"):
        train(config, data, None, tmp_path / "a", start=file, saw_novel="perhaps", max_steps=1)
    assert not (tmp_path / "a" / "facts.json").exists()
    train(config, data, None, tmp_path / "a", start=file, saw_novel="no", max_steps=1)
    (maker,) = Facts.load(tmp_path / "a").makers
    assert (maker.maker, maker.name, maker.saw_novel) == ("detector", "model.safetensors", "no")
    assert maker.weights.startswith("sha256:")
    train(config, data, None, tmp_path / "a", resume=True, max_steps=2)
    assert Facts.load(tmp_path / "a").makers == [maker]  # a resumed run keeps it
    assert provenance_of(tmp_path / "a")[1] == maker  # and hands it on
    assert provenance_of(tmp_path / "a" / "model.safetensors")[0].maker == "run"


def test_public_weights_are_welcome_for_own_words(folder: Path, tmp_path: Path) -> None:
    """Own words have no novel concepts; a run from weights that saw any is then refused by the protocols."""
    data = make_data(tmp_path / "data")
    (tmp_path / "own.json").write_text(json.dumps({"base": [1, 2, 3, 4], "other": [5, 6]}))
    files = (data / "annotations.json", data / "photos", tmp_path / "own")
    build_index(*files, split=tmp_path / "own.json", keep="base")
    found = provenance_of(folder / "model.safetensors")
    require_clean_start(found, open_index(tmp_path / "own"), "photos-small")
    facts = Facts(16, 4, ["a"], [1], "sha256:0", {}, {}, started_from=[one.to_json() for one in found])
    index = open_index(data)
    check_start(index, facts, "custom")
    for protocol in ("ov-coco", "ov-lvis"):
        with pytest.raises(UserError, match=rf"--protocol {protocol}: the run started from the weights of"):
            check_start(index, facts, protocol)


def test_a_run_that_was_trained_on_novel_concepts_is_no_start(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    facts = Facts(16, 6, [f"thing {c}" for c in range(1, 7)], [1, 2, 3, 4, 5, 6], "sha256:0", {}, {})
    other = tmp_path / "other"
    other.mkdir()
    facts.save(other)
    save_weights(other / "model.safetensors", {"x": torch.zeros(1)})
    with pytest.raises(
        UserError, match=r"run other was trained on boxes of 2 novel concepts \(thing 5, thing 6\)"
    ):
        require_clean_start(provenance_of(other), open_index(data), "tiny")
