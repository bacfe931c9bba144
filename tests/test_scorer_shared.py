"""A caller's model stays as it was, and works where accelerate or others have changed its forward."""

from __future__ import annotations

import copy
import functools
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast, pipeline

from puma_hub import ClickTask, PersonalizedLM
from puma_hub.errors import ConfigurationError, UnsupportedModelError
from tests.conftest import make_bank, make_model
from tests.test_scorer_exactness import ROWS, plain_logits

POLICIES = ("full", "off")


def state_of(model: PreTrainedModel) -> dict[str, Any]:
    """Everything that a caller could find changed."""
    return {
        "config": model.config.to_dict(),
        "attention": model.config._attn_implementation,
        "generation": model.generation_config.to_dict(),
        "modes": [module.training for module in model.modules()],
        "grads": [(p.requires_grad, p.grad, p.data_ptr(), p.device) for p in model.parameters()],
        "buffers": [(b.data_ptr(), b.clone().tolist()) for b in model.buffers()],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks), "forward" in vars(m)) for m in model.modules()],
        "modules": [id(module) for module in model.modules()],
    }


def test_a_callers_model_stays_as_it_was(tokenizer: PreTrainedTokenizerFast) -> None:
    model = make_model("gemma3").train()
    model.lm_head.eval()
    before = copy.deepcopy(state_of(model))
    bank = make_bank(family="gemma3")
    rows = [{"user_id": "user-1", "item_text": "Heat"}]
    lm = PersonalizedLM(model, tokenizer)
    lm.logits(torch.randn(3, 1, 32, requires_grad=True), ROWS).sum().backward()
    lm.generate("Movie <user> is", torch.randn(1, 32), max_new_tokens=2, do_sample=False)
    pipeline("personalized-scoring", model=model, tokenizer=tokenizer, bank=bank)(rows)
    write = pipeline("personalized-text-generation", model=model, tokenizer=tokenizer, bank=bank)
    write("A <user>", user_id="user-1", max_new_tokens=2)
    assert state_of(model) == before
    assert (
        lm.logits(torch.zeros(3, 1, 32), ROWS) - plain_logits("gemma3", lm, torch.zeros(3, 1, 32))
    ).abs().max() < 1e-4


def through_partial(model: PreTrainedModel) -> None:
    model.forward = functools.partial(type(model).forward, model)


def through_method(model: PreTrainedModel) -> None:
    model.forward = types.MethodType(type(model).forward, model)


def through_closure(model: PreTrainedModel) -> None:
    inner = model.forward

    def forward(*arguments: Any, **options: Any) -> Any:
        return inner(*arguments, **options)

    model.forward = forward


def through_head(model: PreTrainedModel) -> None:
    inner = model.lm_head.forward
    model.lm_head.forward = lambda states: 2.0 * inner(states) + 1.0


def offloaded(model: PreTrainedModel) -> None:
    accelerate.cpu_offload(model, execution_device="cpu")


def dispatched(model: PreTrainedModel) -> None:
    accelerate.dispatch_model(model, {"": "cpu"}, force_hooks=True)


def hooked(model: PreTrainedModel) -> None:
    model.lm_head.register_forward_hook(lambda module, given, logits: logits * 0.5)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    "change", [through_partial, through_method, through_closure, through_head, offloaded, dispatched, hooked]
)
def test_a_changed_forward(
    change: Callable[[PreTrainedModel], None], policy: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = make_model("qwen2")
    change(model)
    lm = PersonalizedLM(model, tokenizer, template="click", task=ClickTask(), prefix_cache=policy)
    prompts = torch.randn(3, 2, 32, generator=torch.Generator().manual_seed(0), requires_grad=True)
    expected = plain_logits("qwen2", lm, prompts)
    if change is through_head:
        expected = 2.0 * expected + 1.0
    if change is hooked:
        expected = 0.5 * expected
    logits = lm.logits(prompts, ROWS)
    gradients = [torch.autograd.grad(values.square().sum(), prompts)[0] for values in (logits, expected)]
    assert (logits - expected).abs().max() < 1e-4
    assert (gradients[0] - gradients[1]).abs().max() < 1e-3
    assert lm.spec.fingerprint == PersonalizedLM(make_model("qwen2"), tokenizer).spec.fingerprint
    if change in (offloaded, dispatched):
        assert lm.generate("A <user>", prompts[0], max_new_tokens=2, do_sample=False) == PersonalizedLM(
            make_model("qwen2"), tokenizer
        ).generate("A <user>", prompts[0], max_new_tokens=2, do_sample=False)
        pipe = pipeline("personalized-scoring", model=model, tokenizer=tokenizer, bank=make_bank(family="qwen2"))
        assert 0 < pipe({"user_id": "user-1", "item_text": "Heat"})["score"] < 6


def of_all_tokens(change: str, model: PreTrainedModel) -> None:
    """Let the logits become log-probabilities: what they are depends on all tokens'."""

    def normed(output: Any) -> Any:
        output.logits = output.logits.log_softmax(-1)
        return output

    if change == "closure":
        inner = model.forward
        model.forward = lambda *given, **named: normed(inner(*given, **named))
    elif change == "hook":
        model.register_forward_hook(lambda module, given, output: normed(output))
    else:
        old = type(model)
        model.__class__ = type(
            "Mine", (old,), {"forward": lambda self, *g, **named: normed(old.forward(self, *g, **named))}
        )


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("change", ["closure", "hook", "class"])
def test_a_forward_that_needs_the_logits_of_all_tokens(
    change: str, policy: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = make_model("qwen2")
    of_all_tokens(change, model)
    lm = PersonalizedLM(model, tokenizer, prefix_cache=policy)
    prompts = torch.randn(3, 2, 32, generator=torch.Generator().manual_seed(0))
    for row, prompt, found in zip(ROWS, prompts, lm.logits(prompts, ROWS)):
        before, after = (tokenizer(text)["input_ids"] for text in lm.template.render(row))
        first, last = (model.get_input_embeddings()(torch.tensor(ids)) for ids in (before, after))
        with torch.no_grad():
            expected = model(inputs_embeds=torch.cat([first, prompt, last])[None]).logits[0, -1, lm.answer_ids]
        assert (found - expected).abs().max() < 1e-4


def test_offloaded_to_disk(saved_lm: Callable[..., str], tmp_path: Path) -> None:
    folder = saved_lm("llama")
    places = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.norm": "cpu", "lm_head": "disk"}
    places |= {f"model.layers.{i}": "disk" for i in range(3)}
    lm = PersonalizedLM.from_pretrained(folder, device_map=places, offload_folder=tmp_path / "weights")
    prompts = torch.randn(3, 1, 32)
    assert (lm.logits(prompts, ROWS) - plain_logits("llama", lm, prompts)).abs().max() < 1e-4
    assert lm.model.lm_head.weight.is_meta
    with pytest.raises(ConfigurationError, match="not both"):
        PersonalizedLM.from_pretrained(folder, device_map=places, device="cpu")


def test_compiled(tokenizer: PreTrainedTokenizerFast) -> None:
    lm: Any = PersonalizedLM(torch.compile(make_model("llama"), backend="eager"), tokenizer)  # type: ignore[arg-type]
    prompts = torch.randn(3, 1, 32)
    assert (lm.logits(prompts, ROWS) - plain_logits("llama", lm, prompts)).abs().max() < 1e-4


class PeftModel(torch.nn.Module):
    """What peft wraps a model in."""

    def merge_and_unload(self) -> None: ...


def test_wrappers(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(
        UnsupportedModelError, match=r"PeftModel wraps a model; give the result of its merge_and_unload\(\)"
    ):
        PersonalizedLM(PeftModel(), tokenizer)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedModelError, match="DataParallel is not a model of transformers"):
        PersonalizedLM(torch.nn.DataParallel(make_model("llama")), tokenizer)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedModelError, match="merge_and_unload"):
        pipeline("personalized-scoring", model=PeftModel(), tokenizer=tokenizer, bank=make_bank())


@pytest.mark.parametrize("change", [lambda model: None, offloaded])
def test_two_tasks_and_several_threads_share_a_model(
    change: Callable[[PreTrainedModel], None], tokenizer: PreTrainedTokenizerFast
) -> None:
    model = make_model("llama")
    change(model)
    scorers = [
        PersonalizedLM(model, tokenizer, prefix_cache="lru", cache_budget=20_000),
        PersonalizedLM(model, tokenizer, template="click", task=ClickTask(), prefix_cache="off"),
        PersonalizedLM(model, tokenizer, template="paper/mind", task=ClickTask()),
    ]
    rows = [{"item_text": "Toy Story " * (i % 5) + str(i), "history": ["A"]} for i in range(40)]
    prompts = torch.randn(40, 1, 32, generator=torch.Generator().manual_seed(0))
    expected = [lm.logits(prompts, rows) for lm in scorers]
    faults: list[Any] = []

    def score(number: int) -> None:
        try:
            for start in range(0, 40, 8):
                part = slice(start, start + 8)
                logits = scorers[number].logits(prompts[part], rows[part])
                if not torch.allclose(logits, expected[number][part], atol=1e-4):
                    faults.append((number, start))
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=score, args=(i % 3,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
