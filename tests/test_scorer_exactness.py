"""Scoring through caches gives the logits and gradients of a plain transformers forward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from puma_hub import ClickTask, PersonalizedLM, PromptTemplate
from tests.conftest import FAMILIES, make_model

ROWS: list[dict[str, Any]] = [
    {"item_text": "Toy", "history": ["Toy Story"]},
    {"item_text": "A rather long title about nothing at all (1999), Drama", "history": []},
    {"item_text": "Toy Story (1995)", "history": ["A", "Drama"]},
]


def plain_logits(
    family: str, lm: PersonalizedLM, prompts: torch.Tensor, rows: list[dict[str, Any]] = ROWS
) -> torch.Tensor:
    """One unpadded forward a row through an untouched copy of the model."""
    model = make_model(family)
    embed = model.get_input_embeddings()
    results = []
    for row, prompt in zip(rows, prompts):
        before, after = lm.template.render(row)
        ids = [lm.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (before, after)]
        parts = [embed(torch.tensor(part, dtype=torch.long)) for part in ids]
        whole = torch.cat([parts[0], prompt, parts[1]])[None]
        results.append(model(inputs_embeds=whole, use_cache=False).logits[0, -1, lm.answer_ids])
    return torch.stack(results)


@pytest.mark.parametrize("template", ["rating", "paper/mind", "<user> rates <item>:"])
@pytest.mark.parametrize("policy", ["full", "lru", "recompute", "off"])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_gradients(make_lm: Callable[..., PersonalizedLM], family: str, policy: str, template: str) -> None:
    lm = make_lm(family, prefix_cache=policy, template=template)
    prompts = torch.randn(3, 2, lm.hidden_size, generator=torch.Generator().manual_seed(1)).requires_grad_()
    expected = plain_logits(family, lm, prompts)
    (expected_gradient,) = torch.autograd.grad(expected.square().sum(), prompts)
    logits = lm.logits(prompts, ROWS)
    (gradient,) = torch.autograd.grad(logits.square().sum(), prompts)
    assert expected.std() > 0.01  # the check would pass on constant logits
    assert (logits - expected).abs().max() <= 1e-4
    assert (gradient - expected_gradient).abs().max() <= 1e-4 * max(1.0, float(expected_gradient.abs().max()))


@pytest.mark.parametrize("policy", ["full", "recompute", "off"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_of_one_token_that_ends_the_text(
    make_lm: Callable[..., PersonalizedLM], family: str, policy: str
) -> None:
    lm = make_lm(family, prefix_cache=policy, template="<item> by<user>")
    prompts = torch.randn(3, 1, lm.hidden_size, generator=torch.Generator().manual_seed(1))
    for rows in ([ROWS[1]], [ROWS[2]] * 3, ROWS):  # one token is attended from, with and without a mask
        expected = plain_logits(family, lm, prompts[: len(rows)], rows)
        assert (lm.logits(prompts[: len(rows)], rows) - expected).abs().max() <= 1e-4


@pytest.mark.parametrize("policy", ["full", "lru", "recompute", "off"])
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_with_no_token_before_the_slot(make_lm: Callable[..., PersonalizedLM], family: str, policy: str) -> None:
    lm = make_lm(family, prefix_cache=policy, template="<item><user> rates it:")
    nothing = {"item_text": ""}
    for rows in ([nothing], [*ROWS[:2], nothing], [nothing, ROWS[0]]):  # the first makes a group of no tokens
        encoded = lm.encode(rows)
        assert () in encoded.prefixes
        lm.fill_cache(encoded)
        prompts = torch.randn(len(rows), 1, lm.hidden_size, generator=torch.Generator().manual_seed(1))
        assert (lm.logits(prompts, encoded) - plain_logits(family, lm, prompts, rows)).abs().max() <= 1e-4


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "phi3", "gemma3"])
def test_the_prefix_is_attended_to_apart(make_lm: Callable[..., PersonalizedLM], family: str) -> None:
    assert make_lm(
        family
    )._through.way.apart  # exact either way, so nothing else would show that this short cut is lost


def test_post_processing_is_the_models_own(make_lm: Callable[..., PersonalizedLM]) -> None:
    capped = make_lm("gemma2").logits(torch.randn(3, 1, 32), ROWS)
    assert capped.abs().max() < 2.0  # final_logit_softcapping of the tiny config


def test_frozen_model_gets_no_gradient(make_lm: Callable[..., PersonalizedLM]) -> None:
    lm = make_lm("llama")
    before = {name: parameter.clone() for name, parameter in lm.model.named_parameters()}
    prompts = torch.randn(3, 1, lm.hidden_size, requires_grad=True)
    lm.logits(prompts, ROWS).sum().backward()
    assert prompts.grad is not None and prompts.grad.abs().sum() > 0
    for name, parameter in lm.model.named_parameters():
        assert parameter.grad is None and parameter.requires_grad  # the caller's own affair
        assert torch.equal(parameter, before[name])


def test_repeated_rows_and_calls_are_the_same(make_lm: Callable[..., PersonalizedLM]) -> None:
    lm = make_lm("gemma3", prefix_cache="full")
    encoded = lm.encode(ROWS)
    prompts = torch.randn(1, 1, lm.hidden_size).expand(3, -1, -1)
    first = lm.logits(prompts, encoded)
    assert torch.equal(first, lm.logits(prompts, encoded))
    assert torch.allclose(lm.logits(prompts[:2], encoded.take([1, 1])), first[[1, 1]], atol=1e-5)


def test_lru_stays_inside_its_budget_and_is_exact(make_lm: Callable[..., PersonalizedLM]) -> None:
    rows = [{"item_text": "Toy Story " * (1 + i % 5) + str(i)} for i in range(120)]
    full, small = make_lm("llama", prefix_cache="full"), make_lm("llama", prefix_cache="lru", cache_budget=400_000)
    prompts = torch.randn(120, 1, 32)
    expected = full.logits(prompts, rows)
    encoded = small.encode(rows)
    for _ in range(2):
        assert (small.logits(prompts, encoded) - expected).abs().max() <= 1e-4
    assert small.cache_report.bytes_held <= 400_000 < small.cache_report.bytes_needed
    assert small.cache_report.misses > len(set(encoded.prefixes))


@pytest.mark.parametrize(("budget", "policy"), [(10**9, "full"), (300_000, "lru"), (10, "recompute")])
def test_automatic_policy(make_lm: Callable[..., PersonalizedLM], budget: int, policy: str) -> None:
    lm = make_lm("llama", cache_budget=budget)
    lm.encode([{"item_text": f"Toy Story {i}"} for i in range(100)])
    assert lm.cache_report.policy == policy


def test_full_cache_computes_each_prefix_once(make_lm: Callable[..., PersonalizedLM]) -> None:
    lm = make_lm("llama", prefix_cache="full")
    encoded = lm.encode(ROWS * 5)
    lm.fill_cache(encoded)
    misses = lm.cache_report.misses
    lm.logits(torch.randn(15, 1, 32), encoded)
    assert misses == len(set(encoded.prefixes)) == lm.cache_report.misses


def test_click_task_scores(make_lm: Callable[..., PersonalizedLM]) -> None:
    lm = make_lm("llama", template="click", task=ClickTask())
    logits = lm.logits(torch.randn(3, 1, 32), ROWS)
    assert logits.shape == (3, 2)
    loss = lm.task.loss(logits, torch.tensor([1.0, 0.0, 1.0]), None)
    p = torch.sigmoid(logits[:, 0])
    expected = -torch.stack([p[0].log(), (1 - p[1]).log(), p[2].log()]).mean()
    assert torch.allclose(loss, expected, atol=1e-5)


def test_generate_equals_the_models_own(make_lm: Callable[..., PersonalizedLM]) -> None:
    lm = make_lm("llama")
    prompt = torch.randn(2, 32)
    text = lm.generate("Movie: <user> rates", prompt, max_new_tokens=4, do_sample=False)
    model = make_model("llama")
    embed = model.get_input_embeddings()
    ids = [lm.tokenizer(part, add_special_tokens=False)["input_ids"] for part in ("Movie: ", " rates")]
    state = torch.cat([embed(torch.tensor(ids[0])), prompt, embed(torch.tensor(ids[1]))])[None]
    tokens = []
    for _ in range(4):
        tokens.append(int(model(inputs_embeds=state).logits[0, -1].argmax()))
        if tokens[-1] == 1:
            break
        state = torch.cat([state, embed(torch.tensor([[tokens[-1]]]))], 1)
    assert text == lm.tokenizer.decode(tokens, skip_special_tokens=True)


def test_template_of_accepts_presets_and_texts() -> None:
    assert PromptTemplate.of("rating") == PromptTemplate.of(PromptTemplate.of("rating").text)
    assert PromptTemplate("a <user> b <item>").render({"item_text": "<user> <x>"}) == ("a ", " b <user> <x>")
