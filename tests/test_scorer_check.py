"""What the comparison at loading says: the true reason of every refusal, and which models are scored whole."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers import PreTrainedTokenizerFast

from puma_hub import PersonalizedLM
from puma_hub.errors import (
    MismatchError,
    MissingDependencyError,
    PumaHubError,
    StorageError,
    TemplateError,
    UnsupportedModelError,
)
from tests.check_causal_lms import ROWS, expected_logits
from tests.conftest import make_model, make_tokenizer
from tests.tiny_models import make_tiny


# Hybrids, state spaces, mixtures of experts, per-layer embeddings, images, encoders that decode.
@pytest.mark.parametrize(
    ("name", "policy"),
    [
        ("RecurrentGemmaForCausalLM", "off"),
        ("Qwen3NextForCausalLM", "full"),
        ("Lfm2ForCausalLM", "full"),
        ("JambaForCausalLM", "off"),
        ("Mamba2ForCausalLM", "full"),
        ("Gemma3nForCausalLM", "full"),
        ("Gemma4ForCausalLM", "full"),
        ("Gemma3ForConditionalGeneration", "full"),
        ("GptOssForCausalLM", "full"),
        ("RobertaForCausalLM", "off"),
    ],
)
def test_kinds_of_models(name: str, policy: str, tokenizer: PreTrainedTokenizerFast) -> None:
    lm = PersonalizedLM(make_tiny(name), tokenizer)
    prompts = lm.embedding_rms * torch.randn(len(ROWS), 2, lm.hidden_size, generator=torch.Generator().manual_seed(1))
    prompts.requires_grad_()
    expected = expected_logits(make_tiny(name), lm, prompts)
    logits = lm.logits(prompts, ROWS)
    gradients = [torch.autograd.grad(values.square().sum(), prompts)[0] for values in (logits, expected)]
    assert lm.cache_report.policy == policy
    expected = expected.detach()
    assert expected.std(0).max() > 0.005
    assert (logits - expected).abs().max() < 1e-3 * max(1.0, float(expected.abs().max()))
    assert (gradients[0] - gradients[1]).abs().max() < 2e-3 * max(1.0, float(gradients[1].abs().max()))
    texts, soft = ["A <user>", "A longer text <user> is"], list(prompts[:2].detach())
    options = {"max_new_tokens": 3, "do_sample": False}
    assert lm.generate(texts, soft, **options) == [lm.generate(t, p, **options) for t, p in zip(texts, soft)]


class Overflowing(nn.Module):
    """An output layer that leaves the range of float16."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.weight = inner, inner.weight

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.inner(states) * 6e4 * 6e4


class PerBatch(nn.Module):
    """A layer that rounds in steps of the batch's mean size, as 8-bit layers do."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        step = states.abs().mean()
        return self.inner((states / step).round() * step)


def overflowing() -> Any:
    model = make_model("llama").half()
    model.lm_head = Overflowing(model.lm_head)
    return model


def per_batch() -> Any:
    model = make_model("llama")
    model.model.layers[0].mlp = PerBatch(model.model.layers[0].mlp)
    return model


def both_ways() -> Any:
    return make_model("gemma3", use_bidirectional_attention=True)


@pytest.mark.parametrize(
    ("make", "policy", "message"),
    [
        (both_ways, "auto", "is not purely causal: a token changes the logits of the one before"),
        (both_ways, "off", "is not purely causal: a token changes the logits of the one before"),
        (overflowing, "full", "1[0-9] of 15 answer logits .*not finite in float16; .*'bfloat16' or 'float32'"),
        (per_batch, "auto", "other rows than alone, as 8-bit layers do; load it without quantisation"),
        (lambda: make_tiny("DeepseekV4ForCausalLM"), "auto", "fails on inputs_embeds: AttributeError"),
        (lambda: make_tiny("MambaForCausalLM"), "full", "from a cached prefix.*; use prefix_cache='off'"),
        (lambda: make_tiny("MusicgenForCausalLM"), "auto", "no single matrix of input embeddings"),
    ],
)
def test_true_reasons(make: Callable[[], Any], policy: str, message: str, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        PersonalizedLM(make(), tokenizer, prefix_cache=policy)
    assert "\n" not in str(caught.value)


def test_a_models_own_error_is_told(tokenizer: PreTrainedTokenizerFast) -> None:
    model = make_model("llama")

    def fail(*_: Any) -> None:
        raise ValueError("mask must be (1, 1)\nmore of it")

    model.model.layers[1].register_forward_pre_hook(fail)
    with pytest.raises(UnsupportedModelError, match=r"fails on a short text: ValueError: mask must be \(1, 1\);"):
        PersonalizedLM(model, tokenizer)


def test_tokens_without_an_embedding(tokenizer: PreTrainedTokenizerFast) -> None:
    grown = make_tokenizer()
    grown.add_tokens([f"genre{i}" for i in range(100, 160)])
    lm = PersonalizedLM(make_model("llama"), grown)  # the tokens may never be used
    lm.logits(torch.zeros(1, 1, 32), [{"item_text": "Heat"}])
    text = "Heat genre157 genre158"
    for call in (
        lambda: lm.encode([{"item_text": text}]),
        lambda: lm.logits(torch.zeros(1, 1, 32), [{"item_text": text}]),
        lambda: lm.generate(f"{text} <user>", torch.zeros(1, 32), max_new_tokens=1),
    ):
        with pytest.raises(MismatchError, match=r"2 tokens .*the model has 400.*resize_token_embeddings\(4\d\d\)"):
            call()
    model = make_model("llama")
    model.resize_token_embeddings(len(grown))
    assert PersonalizedLM(model, grown).logits(torch.zeros(1, 1, 32), [{"item_text": text}]).isfinite().all()


@pytest.mark.parametrize("rope", ["longrope", "dynamic"])
def test_rows_end_where_positions_would_change_for_all(rope: str, tokenizer: PreTrainedTokenizerFast) -> None:
    kinds = {
        "longrope": {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "original_max_position_embeddings": 64},
        "dynamic": {"factor": 4.0, "original_max_position_embeddings": 64},
    }
    parameters = {"rope_type": rope, "rope_theta": 10_000.0, **kinds[rope]}
    family = "phi3" if rope == "longrope" else "llama"
    extra: dict[str, Any] = {"original_max_position_embeddings": 64} if rope == "longrope" else {}
    lm = PersonalizedLM(make_model(family, rope_parameters=parameters, **extra), tokenizer)
    prompt = torch.zeros(1, 1, 32)
    lm.logits(prompt, [{"item_text": "a" * 20}])
    with pytest.raises(TemplateError, match="positions with its prompt, the model has 64"):
        lm.logits(prompt, [{"item_text": "long " * 60}])
    with pytest.raises(TemplateError, match="the model has 64"):
        lm.generate("A <user>", prompt[0], max_new_tokens=70)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_no_code_of_a_repository_is_run_or_asked_about(
    file: str, saved_lm: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, marker = Path(saved_lm("llama")), tmp_path / "it-ran"
    code = (
        f"open({str(marker)!r}, 'w').close()\nfrom transformers import *\nclass Own(LlamaConfig): model_type = 'own'\n"
    )
    code += "class OwnLM(LlamaForCausalLM): config_class = Own\nclass OwnTok(PreTrainedTokenizerFast): pass\n"
    (folder / "own.py").write_text(code)
    content = json.loads((folder / file).read_text())
    if file == "config.json":
        content |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.OwnLM"}}
    else:
        content |= {"tokenizer_class": "OwnTok", "auto_map": {"AutoTokenizer": [None, "own.OwnTok"]}}
    (folder / file).write_text(json.dumps(content))
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 9))
    with pytest.raises(PumaHubError, match="runs no such code") as caught:
        PersonalizedLM.from_pretrained(str(folder))
    assert isinstance(caught.value, UnsupportedModelError) and not marker.exists()


def test_a_missing_package_is_named(saved_lm: Callable[..., str]) -> None:
    folder = saved_lm("llama")
    quantised = transformers.BitsAndBytesConfig(load_in_8bit=True)
    with pytest.raises(MissingDependencyError, match=r"pip install .*bitsandbytes"):
        PersonalizedLM.from_pretrained(folder, quantization_config=quantised)


def test_loading_options_are_handed_on(saved_lm: Callable[..., str], tmp_path: Path) -> None:
    folder = Path(saved_lm("llama"))
    (tmp_path / "repository").mkdir()
    folder.rename(tmp_path / "repository" / "inner")
    lm = PersonalizedLM.from_pretrained(
        str(tmp_path / "repository"),
        subfolder="inner",
        local_files_only=True,
        cache_dir=tmp_path / "cache",
        attn_implementation="eager",
        device_map="cpu",
        max_memory={"cpu": "1GB"},
    )
    assert lm.model.config._attn_implementation == "eager"
    with pytest.raises(StorageError):
        PersonalizedLM.from_pretrained(str(tmp_path / "repository"))


def test_loading_is_quick(tokenizer: PreTrainedTokenizerFast) -> None:
    model = make_model("llama")
    forwards = 0

    def count(*_: Any) -> None:
        nonlocal forwards
        forwards += 1

    model.model.norm.register_forward_pre_hook(count)
    PersonalizedLM(model, tokenizer)
    assert forwards <= 20
