"""A scorer is moved and cast as any model is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from puma_hub import PersonalizedLM
from puma_hub.errors import ConfigurationError
from tests.conftest import make_model
from tests.test_scorer_exactness import ROWS, plain_logits


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_cast_and_back(make_lm: Callable[..., PersonalizedLM], family: str) -> None:
    lm = make_lm(family, prefix_cache="full")
    prompts = torch.randn(3, 1, 32)
    encoded = lm.encode(ROWS)
    before = lm.logits(prompts, encoded)
    rms, text = lm.embedding_rms, lm.generate("A <user>", prompts[0], max_new_tokens=2, do_sample=False)
    assert lm.to(torch.float64) is lm and lm.dtype == torch.float64 and lm.model.dtype == torch.float64
    assert lm.cache_report.bytes_held == 0  # what was kept was float32's
    exact = make_model(family).double()
    for row, prompt, logits in zip(ROWS, prompts, lm.logits(prompts, encoded)):
        parts = [lm.tokenizer(part, add_special_tokens=False)["input_ids"] for part in lm.template.render(row)]
        first, last = (exact.get_input_embeddings()(torch.tensor(ids, dtype=torch.long)) for ids in parts)
        whole = torch.cat([first, prompt.double(), last])[None]
        assert (logits - exact(inputs_embeds=whole).logits[0, -1, lm.answer_ids]).abs().max() < 1e-6
    assert lm.embedding_rms == pytest.approx(rms)
    assert lm.generate("A <user>", prompts[0], max_new_tokens=2, do_sample=False) == text
    assert torch.equal(lm.to(dtype=torch.float32).logits(prompts, encoded), before)


def test_nothing_happens_where_nothing_changes(make_lm: Callable[..., PersonalizedLM]) -> None:
    lm = make_lm(prefix_cache="full")
    encoded = lm.encode(ROWS)
    lm.fill_cache(encoded)
    held = lm.cache_report.bytes_held
    assert lm.to("cpu").to(torch.float32).to(device="cpu", dtype=torch.float32).cache_report.bytes_held == held > 0
    assert lm.device == torch.device("cpu")


def test_scorers_beside_one_that_is_cast_stay_exact(tokenizer: PreTrainedTokenizerFast) -> None:
    model = make_model("qwen2")
    moved, stays = PersonalizedLM(model, tokenizer), PersonalizedLM(model, tokenizer)
    moved.to(torch.bfloat16)
    prompts = torch.randn(3, 1, 32)
    assert (stays.logits(prompts, ROWS) - plain_logits("qwen2", stays, prompts)).abs().max() < 1e-4


@pytest.mark.parametrize("place", ["cuda:99", "banana", torch.int32])
def test_places_that_are_none(make_lm: Callable[..., PersonalizedLM], place: Any) -> None:
    lm = make_lm()
    with pytest.raises(ConfigurationError, match="cannot be moved: "):
        lm.to(place)
    prompts = torch.randn(3, 1, 32)
    assert (lm.logits(prompts, ROWS) - plain_logits("llama", lm, prompts)).abs().max() < 1e-4


def test_a_model_that_accelerate_placed_stays(
    tokenizer: PreTrainedTokenizerFast, saved_lm: Callable[..., str], tmp_path: Path
) -> None:
    model = make_model("llama")
    accelerate.cpu_offload(model, execution_device="cpu")
    with pytest.raises(ConfigurationError, match="accelerate has placed this model"):
        PersonalizedLM(model, tokenizer).to(torch.bfloat16)


# Moving by dtype and being refused are tested above without one; only the device itself needs hardware.
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_to_a_gpu_and_back(make_lm: Callable[..., PersonalizedLM], family: str) -> None:
    lm = make_lm(family, prefix_cache="full")
    prompts = torch.randn(3, 1, 32)
    encoded = lm.encode(ROWS)
    expected = lm.logits(prompts, encoded)
    logits = lm.to("cuda").logits(prompts, encoded)
    assert logits.device.type == lm.device.type == "cuda" and (logits.cpu() - expected).abs().max() < 1e-3
    assert torch.equal(lm.to("cpu").logits(prompts, encoded), expected)


def test_unknown_loading_options(saved_lm: Callable[..., str]) -> None:
    with pytest.raises(ConfigurationError, match="unknown option load_in_9bit; options of loading are revision, token"):
        PersonalizedLM.from_pretrained(saved_lm(), load_in_9bit=True)
