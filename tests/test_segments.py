"""Texts with more than one soft slot: encoded and scored as a plain forward over their parts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from puma_hub import PersonalizedLM, PromptTemplate
from puma_hub.errors import TemplateError
from puma_hub.scorer.text import TextGenerator
from puma_hub.tasks.template import Part, SoftSlot
from tests.conftest import make_model
from tests.tiny_models import make_tiny

TEXT = "<item> is <item_prompt>; rated by <user> with <history>: "
ROWS: list[dict[str, Any]] = [
    {"item_text": "Toy", "history": ["Toy Story"]},
    {"item_text": "A rather long title about nothing at all (1999), Drama", "history": []},
    {"item_text": "Toy", "history": ["A", "Drama"]},
]


def build(name: str) -> PreTrainedModel:
    return make_tiny(name) if name.endswith("LM") else make_model(name)


def test_segments_of_a_template() -> None:
    segments = PromptTemplate(TEXT).segments(ROWS[0])
    assert segments[1] == SoftSlot("item_prompt") and segments[3] == SoftSlot("user")
    assert segments[0] == (Part("Toy", True), Part(" is ", False))
    assert PromptTemplate(TEXT).render(ROWS[0]) == ("Toy is ", "; rated by ", " with Toy Story: ")
    assert PromptTemplate("<user><item_prompt>").segments({}) == ((), SoftSlot("user"), (), SoftSlot("item_prompt"), ())


def test_the_slots_of_a_template() -> None:
    assert PromptTemplate(TEXT).soft_slots == ("item_prompt", "user")
    assert PromptTemplate("<item><user>").soft_slots == ("user",)
    assert PromptTemplate("<item><user>").segments(ROWS[0]) == ((Part("Toy", True),), SoftSlot("user"), ())
    with pytest.raises(TemplateError, match="unknown placeholder '<taste>'"):
        PromptTemplate("<item> <taste><user>")
    with pytest.raises(TemplateError, match="has no <user>"):
        PromptTemplate("<item><item_prompt>")


@pytest.mark.parametrize("text", [TEXT, "<user><item_prompt><item>:", "<item><user><item_prompt>"])
@pytest.mark.parametrize("policy", ["full", "recompute", "off"])
@pytest.mark.parametrize("name", ["llama", "gemma3", "Qwen3NextForCausalLM"])
def test_two_slots_score_as_a_plain_forward(
    name: str, policy: str, text: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    lm, model = PersonalizedLM(build(name), tokenizer, template=text, prefix_cache=policy), build(name)
    generator = torch.Generator().manual_seed(1)
    prompts = {
        slot: (lm.embedding_rms * torch.randn(3, length, lm.hidden_size, generator=generator)).requires_grad_()
        for slot, length in (("user", 2), ("item_prompt", 3))
    }
    embed: Any = model.get_input_embeddings()
    expected = []
    for number, row in enumerate(ROWS):
        parts = []
        for segment in lm.template.segments(row):
            if isinstance(segment, SoftSlot):
                parts.append(prompts[segment.name][number])
            else:
                ids = tokenizer("".join(part.text for part in segment), add_special_tokens=False)["input_ids"]
                parts.append(embed(torch.tensor(ids, dtype=torch.long)))
        expected.append(model(inputs_embeds=torch.cat(parts)[None], use_cache=False).logits[0, -1, lm.answer_ids])
    logits = lm._logits(prompts, lm.encode(ROWS, prompt_length=5))
    gradients = [
        torch.autograd.grad(values.square().sum(), list(prompts.values())) for values in (logits, torch.stack(expected))
    ]
    found, wanted = logits.detach(), torch.stack(expected).detach()
    assert wanted.std() > 0.01
    assert (found - wanted).abs().max() <= 1e-4 * max(1.0, float(wanted.abs().max()))
    for ours, theirs in zip(*gradients):
        assert (ours - theirs).abs().max() <= 2e-4 * max(1.0, float(theirs.abs().max()))


def test_what_a_text_with_a_slot_is_split_into(tokenizer: PreTrainedTokenizerFast) -> None:
    before, slot, after = TextGenerator(make_model("llama"), tokenizer).texts.of("Movie <user> is")
    assert slot == SoftSlot("user") and tokenizer.decode((*before, *after)) == "Movie  is"  # type: ignore[misc]
