"""ONNX graphs in other forms: named axes, without GridSample, in fp16 and int8; each against torch."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from cckt.cache_builder.base.errors import UserError
from cckt.detector.config.config import changed
from cckt.detector.export.graph import _require_options
from cckt.detector.export.onnx_graph import operators, run_onnx
from cckt.detector.export.precision import calibration_images
from tests.detector.evaluation.evaluation_world import make_run, small_config
from tests.detector.export.test_export import MISSING, by_torch, graph

pytestmark = pytest.mark.skipif(
    bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (pip install 'cckt[export]')"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.manual_seed(0)
    return make_run(tmp_path_factory.mktemp("precision") / "run", small_config())


def images(count=3, size=(96, 64)):
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (*size[::-1], 3), dtype=np.uint8)) for _ in range(count)]


@pytest.fixture(scope="module")
def gathered(run, tmp_path_factory):
    return graph(run, tmp_path_factory.mktemp("gather") / "d.onnx", gather=True, present=["kite"])


def test_the_gather_form_has_no_grid_sample_and_equals_torch(run, gathered, tmp_path):
    used = operators(gathered.path.read_bytes())
    assert "GridSample" not in used
    assert "Gather" in used
    generator = torch.Generator().manual_seed(1)
    for number, *size in ((3, 64, 96), (1, 101, 67), (2, 128, 128)):
        photos = torch.rand((number, 3, *size), generator=generator)
        for mine, expected in zip(run_onnx(gathered.path, photos), by_torch(run, photos, [1]), strict=True):
            torch.testing.assert_close(mine, expected, atol=1e-3, rtol=0)
    assert json.loads((gathered.path.parent / "d.onnx.json").read_text())["report"]["gather"] is True


def test_the_free_axes_have_names(gathered):
    import onnx

    model = onnx.load(gathered.path)

    def axes(value):
        return [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]

    assert axes(model.graph.input[0]) == ["batch", 3, "height", "width"]
    boxes, scores = map(axes, model.graph.output)
    assert (boxes[0], boxes[2]) == ("batch", 4)
    assert (scores[0], scores[2]) == ("batch", 3)
    onnx.checker.check_model(model)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_lower_precision_is_close_to_torch_and_says_how_close(run, tmp_path, precision):
    options = {"photos": images()} if precision == "int8" else {}
    report = graph(run, tmp_path / "d.onnx", size=(64, 96), precision=precision, **options)
    photos = torch.rand((2, 3, 64, 96), generator=torch.Generator().manual_seed(3))
    found, expected = run_onnx(report.path, photos), by_torch(run, photos, [])
    for mine, other in zip(found, expected, strict=True):
        assert mine.dtype == torch.float32
        assert float((mine - other).abs().mean()) < 0.05
    assert 0 < report.mean_scores_difference <= report.scores_difference < 0.2
    assert report.mean_boxes_difference <= report.boxes_difference
    card = json.loads((tmp_path / "d.onnx.json").read_text())
    assert card["left_to_you"]["precision"].startswith(precision)
    import onnx

    kinds = {tensor.data_type for tensor in onnx.load(report.path).graph.initializer}
    wanted = onnx.TensorProto.FLOAT16 if precision == "fp16" else onnx.TensorProto.INT8
    assert wanted in kinds
    assert ("QuantizeLinear" in operators(report.path.read_bytes())) == (precision == "int8")


def test_calibration_photos_have_the_size_of_the_graph(run):
    config = small_config()
    assert calibration_images([], config, None, 1) == []
    (one,) = calibration_images(images(1), config, (64, 96), 1)
    assert one.shape == (1, 3, 64, 96)
    assert float(one.min()) >= 0
    assert float(one.max()) <= 1
    (free,) = calibration_images(images(1), config, None, 32)
    assert [side % 32 for side in free.shape[2:]] == [0, 0]


def test_options_that_do_not_go_together_are_refused(run, tmp_path):
    def refused(match, run=run, **options):
        with pytest.raises(UserError, match=match):
            graph(run, tmp_path / "d.onnx", **options)
        assert not (tmp_path / "d.onnx").exists()

    refused("--precision int4 is not known; expected fp32, fp16 or int8", precision="int4")
    refused("--precision fp16 is for --format onnx; remove it", precision="fp16", format="torch")
    refused("--precision int8 needs photos", precision="int8")
    refused("--time-limit 0: expected", minutes=0)
    other = changed(small_config(), "model", student="faster_rcnn")
    with pytest.raises(UserError, match="--gather replaces the sampling of deformable attention"):
        _require_options(other, "onnx", "fp32", True, [])
