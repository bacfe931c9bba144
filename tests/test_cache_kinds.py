"""What layers keep of a prefix: each kind gives the model's own logits and gradients, and kinds are registered."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from puma_hub import PersonalizedLM
from puma_hub.errors import ConfigurationError
from puma_hub.scorer.caches import HybridStates, KeyValues, cache_kinds, kinds, register_cache_kind
from tests.check_causal_lms import ROWS, expected_logits
from tests.conftest import make_model
from tests.tiny_models import make_tiny

# Gated delta rule, short convolutions, state spaces, both in one layer, latent attention, ALiBi, layers without states.
HYBRIDS = ["Qwen3Next", "Lfm2", "Mamba2", "FalconH1", "DeepseekV3", "Bloom", "NemotronH"]


@pytest.mark.parametrize("name", HYBRIDS)
def test_hybrid_states_are_exact(name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    name += "ForCausalLM"
    lm = PersonalizedLM(make_tiny(name), tokenizer, template="<item><user> rates it:")
    assert type(lm._through.way.kind) is HybridStates and lm.cache_report.policy == "full"
    prompts = lm.embedding_rms * torch.randn(len(ROWS), 2, lm.hidden_size, generator=torch.Generator().manual_seed(1))
    prompts.requires_grad_()
    expected = expected_logits(make_tiny(name), lm, prompts)
    encoded = lm.encode(ROWS, 2)
    assert () in encoded.prefixes  # no token before the slot
    for _ in range(2):  # computed, and from the cache: nothing is written to what is kept
        logits = lm.logits(prompts, encoded)
        gradients = [torch.autograd.grad(v.square().sum(), prompts, retain_graph=True)[0] for v in (logits, expected)]
        assert (logits - expected).abs().max() < 1e-4 * max(1.0, float(expected.detach().abs().max()))
        assert (gradients[0] - gradients[1]).abs().max() < 1e-3 * max(1.0, float(gradients[1].abs().max()))
    assert lm.cache_report.misses == len(set(encoded.prefixes)) - 1
    assert lm.cache_report.bytes_held <= lm.cache_report.bytes_needed


# None with a mixture of experts: the matrices of an expert have as many rows as tokens go there.
@pytest.mark.parametrize("name", ["Mamba2ForCausalLM", "Lfm2ForCausalLM", "FalconH1ForCausalLM"])
@pytest.mark.parametrize("dtype", [None, "int8"])
def test_hybrid_states_are_the_same_bits_under_every_policy(
    name: str, dtype: str | None, tokenizer: PreTrainedTokenizerFast
) -> None:
    rows = [{"item_text": "Toy Story " * (1 + i % 3) + str(i)} for i in range(30)]
    prompts = torch.randn(30, 1, 32, generator=torch.Generator().manual_seed(1))
    found = []
    for policy, budget in (("full", None), ("lru", 200_000), ("recompute", None)):
        lm = PersonalizedLM(make_tiny(name), tokenizer, prefix_cache=policy, cache_budget=budget, cache_dtype=dtype)
        encoded = lm.encode(rows)
        parts = [list(range(start, start + 10)) for start in (0, 10, 5, 20, 0)]
        found.append(torch.cat([lm.logits(prompts[part], encoded.take(part)) for part in parts]))
        assert lm.cache_report.bytes_held <= (10**9 if policy == "full" else budget or 0)
    assert all(torch.equal(found[0], other) for other in found[1:])
    exact = PersonalizedLM(make_tiny(name), tokenizer).logits(prompts[:10], rows[:10])
    assert (found[0][:10] - exact).abs().max() < (1e-4 if dtype is None else 0.1) * exact.std()


def test_bytes_of_hybrid_states_are_known_ahead(tokenizer: PreTrainedTokenizerFast) -> None:
    lm = PersonalizedLM(make_tiny("Qwen3NextForCausalLM"), tokenizer, prefix_cache="full")
    encoded = lm.encode([{"item_text": "Toy Story " * i} for i in range(1, 5)])
    lm.fill_cache(encoded)
    assert lm.cache_report.bytes_held == lm.cache_report.bytes_needed > 0


def test_a_model_whose_states_are_not_gone_on_from_is_scored_whole(tokenizer: PreTrainedTokenizerFast) -> None:
    lm = PersonalizedLM(make_tiny("MambaForCausalLM"), tokenizer)  # its scan begins anew at every forward
    assert lm._through.way.kind is None and lm.cache_report.policy == "off"


@pytest.mark.parametrize("template", ["<history><user> likes <item>:", "<user> likes <item>:"])
def test_templates_whose_prefix_may_be_empty(template: str, tokenizer: PreTrainedTokenizerFast) -> None:
    lm = PersonalizedLM(make_tiny("MambaForCausalLM"), tokenizer, template=template)
    rows = [{"item_text": "Toy", "history": ["Toy Story"]}, {"item_text": "Heat", "history": []}]
    prompts = lm.embedding_rms * torch.randn(2, 1, lm.hidden_size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = expected_logits(make_tiny("MambaForCausalLM"), lm, prompts, rows)
    assert (lm.logits(prompts, rows) - expected).abs().max() < 1e-4 * max(1.0, float(expected.abs().max()))


def test_kinds_are_registered_by_name(monkeypatch: pytest.MonkeyPatch, tokenizer: PreTrainedTokenizerFast) -> None:
    assert cache_kinds() == (KeyValues, HybridStates)
    with pytest.raises(ConfigurationError, match="'hybrid' is registered already"):
        register_cache_kind(HybridStates)

    class Half(KeyValues):
        """A kind of somebody else's."""

        name = "half"
        grouped = False

    monkeypatch.setattr(kinds, "_KINDS", {})
    register_cache_kind(Half)
    lm = PersonalizedLM(make_model("llama"), tokenizer)
    assert type(lm._through.way.kind) is Half
    prompts = torch.randn(len(ROWS), 1, 32)
    whole = PersonalizedLM(make_model("llama"), tokenizer, prefix_cache="off")
    assert (lm.logits(prompts, ROWS) - whole.logits(prompts, ROWS)).abs().max() < 1e-4
