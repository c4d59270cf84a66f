"""What is sent to vLLM and what is made of its answer, with a stand-in in its place."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.columns.mllm_priors import cache_mllm_priors
from cckt.cache_builder.mllm.answers import Answers, find_answers
from cckt.cache_builder.mllm.served import Engine
from cckt.cache_builder.store import open_column
from tests.cache_builder.mllm.mllm_models import outspoken, photo
from tests.cache_builder.samples import write_photos

ANSWERS = Answers(yes={3: "yes", 4: " Yes"}, no={7: "no"})


class _LLM:
    """The stand-in engine: it remembers what it was asked and answers from `said`."""

    made: dict[str, Any]
    asked: list[tuple[str, Any, Any]]
    said: list[dict[int, float]]

    def __init__(self, **options: Any) -> None:
        type(self).made, type(self).asked = options, []

    def chat(self, messages: Any, sampling_params: Any, *, use_tqdm: bool) -> Any:
        return self._answer("chat", messages, sampling_params)

    def generate(self, prompts: Any, sampling_params: Any, *, use_tqdm: bool) -> Any:
        return self._answer("generate", prompts, sampling_params)

    def _answer(self, verb: str, questions: Any, params: Any) -> Any:
        self.asked.append((verb, questions, params))
        tokens = [{t: SimpleNamespace(logprob=p) for t, p in said.items()} for said in self.said]
        return [SimpleNamespace(outputs=[SimpleNamespace(logprobs=[entry])]) for entry in tokens]


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> type[_LLM]:
    module = ModuleType("vllm")
    module.LLM = _LLM  # type: ignore[attr-defined]
    module.SamplingParams = lambda **options: SimpleNamespace(**options)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)
    _LLM.said = [
        {3: math.log(0.3), 4: math.log(0.3), 7: math.log(0.2), 9: math.log(0.1)},
        {7: math.log(0.9), 9: math.log(0.01)},
    ]
    return _LLM


def test_what_is_sent_and_read(vllm: type[_LLM]) -> None:
    engine = Engine("some/model", ANSWERS, dtype="bfloat16", tensor_parallel_size=2)
    assert vllm.made == {
        "model": "some/model",
        "dtype": "bfloat16",
        "enable_prefix_caching": True,
        "max_logprobs": 64,
        "limit_mm_per_prompt": {"image": 1},
        "tensor_parallel_size": 2,
    }
    picture = photo()
    scores = engine.score(picture, ["Is there a cat?", "Is there a dog?"], template=True)
    ((verb, messages, params),) = vllm.asked
    assert verb == "chat"
    assert messages[1] == [
        {
            "role": "user",
            "content": [
                {"type": "image_pil", "image_pil": picture},
                {"type": "text", "text": "Is there a dog?"},
            ],
        }
    ]
    assert vars(params) == {"temperature": 0.0, "max_tokens": 1, "logprobs": 64}
    np.testing.assert_allclose(scores.probability[0], 0.6 / 0.8, rtol=1e-5)
    np.testing.assert_allclose(scores.share, [0.8, 0.9], rtol=1e-5)
    np.testing.assert_allclose(scores.probability[1], 0.01 / 0.91, rtol=1e-4)  # yes is unlikelier than 9


def test_prompts_without_a_template(vllm: type[_LLM]) -> None:
    picture = photo()
    Engine("m", ANSWERS).score(picture, ["<image>\nCat?", "<image>\nDog?"], template=False)
    ((verb, prompts, _),) = vllm.asked
    assert verb == "generate"
    assert prompts[0] == {"prompt": "<image>\nCat?", "multi_modal_data": {"image": picture}}


def test_nothing_is_asked(vllm: type[_LLM]) -> None:
    assert Engine("m", ANSWERS).score(photo(), [], template=True).logit.shape == (0,)
    assert vllm.asked == []


def test_a_column_by_vllm(vllm: type[_LLM], tmp_path: Path) -> None:
    data = write_photos(tmp_path / "set", photos=2)
    model, processor = outspoken()
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    _LLM.said = [{token: -3.0 - 0.001 * token for token in range(432)}] * 4
    report = cache_mllm_priors(data, str(tmp_path / "model"), backend="vllm")
    assert report.made_chunks == 1
    assert vllm.made["dtype"] == "float32"
    assert len(vllm.asked) == 4  # two photos to measure the share, and again for the column
    verb, prompts, _ = vllm.asked[-1]
    assert (verb, len(prompts)) == ("generate", 4)
    assert prompts[1]["prompt"] == "<image>\nQuestion: Does bow (weapon) exist in the image? Answer:"
    recipe = open_column(data, "priors/mllm").manifest.spec.recipe
    assert recipe["backend"] == "vllm"
    assert recipe["model"]["architecture"] == ["LlavaForConditionalGeneration"]
    assert recipe["model"]["weight_digest"].startswith("sha256:")
    assert f"{tmp_path / 'model'} is served by vLLM, which shares equal prefixes" in report.notes
    values = open_column(data, "priors/mllm").all()
    answers = find_answers(processor.tokenizer, "m")
    yes, no = (sum(math.exp(-3.0 - 0.001 * t) for t in side) for side in (answers.yes, answers.no))
    np.testing.assert_allclose(values, yes / (yes + no), rtol=1e-4)
    with pytest.raises(UserError, match="--backend tgi is not known; choose one of transformers, vllm"):
        cache_mllm_priors(data, "m", backend="tgi")


def test_without_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match="needs the package vllm, which is not installed"):
        Engine("m", ANSWERS)
