"""Rows of templates with two soft slots, of which one is filled: against a plain forward pass."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from puma_hub import PersonalizedLM, PromptBank
from puma_hub.bank.filling import filled_slot
from puma_hub.errors import BankError, ConfigurationError, MismatchError
from puma_hub.scorer import FilledSlot
from puma_hub.scorer.batches import predict_rows
from puma_hub.tasks.template import ITEM, USER
from tests.conftest import NAMED_FAMILIES
from tests.two_slots import make_rows, plain, two_slots


@pytest.mark.parametrize("family", NAMED_FAMILIES)
def test_rows_are_scored_as_by_a_plain_forward_whichever_slot_is_open(
    family: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    lm, rows = two_slots(family), make_rows()["train"].select(range(6))
    generator = np.random.default_rng(0)

    def bank(owners: str, length: int, names: list[str]) -> PromptBank:
        prompts = lm.embedding_rms * generator.normal(size=(len(names), length, lm.hidden_size))
        return PromptBank.from_arrays(names, prompts, lm.spec, owners=owners)

    items = bank("items", 2, sorted(set(rows["item_id"][:]))[1:])  # one has none, and gets the mean
    users = bank("users", 1, sorted(set(rows["user_id"][:])))

    def own(bank: PromptBank, name: str) -> torch.Tensor:
        return torch.from_numpy((bank[name] if name in bank else bank.prompts.mean(0)).copy())

    of_users = torch.stack([own(users, name) for name in rows["user_id"][:]])
    of_items = torch.stack([own(items, name) for name in rows["item_id"][:]])
    parts = zip(rows, of_users, of_items)
    expected = torch.stack([plain(lm, tokenizer, row, user=u, item_prompt=i) for row, u, i in parts]).detach()
    given_items = lm.logits(of_users, lm.encode(rows, 1, filled_slot(items, rows)))
    given_users = lm.logits(of_items, lm.encode(rows, 2, filled_slot(users, rows)))
    for found in (given_items, given_users):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    word = lm.word_prompt(1, ITEM)
    alone = torch.stack([plain(lm, tokenizer, row, user=u, item_prompt=word) for row, u in zip(rows, of_users)])
    found = lm.logits(of_users, rows)
    torch.testing.assert_close(found, alone.detach(), rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert (found - given_items).abs().max() > 1e-3


def test_equal_rows_with_other_prompts_in_the_filled_slot_are_scored_apart() -> None:
    lm = two_slots("llama")
    prompts = lm.embedding_rms * torch.randn(2, 1, 32, generator=torch.Generator().manual_seed(0))
    rows = lm.encode([{"item_text": "Toy"}] * 3, 1, FilledSlot(ITEM, prompts, np.array([0, 1, 0])))
    logits = predict_rows(lm, rows, lm.word_prompt(1)[None], torch.zeros(3, dtype=torch.long), 8)
    assert torch.equal(logits[0], logits[2]) and not torch.allclose(logits[0], logits[1])
    assert torch.equal(rows.take([1, 2]).filled.rows(), prompts[[1, 0]])


def test_a_slot_that_cannot_be_filled_is_refused(make_lm: Callable[..., PersonalizedLM]) -> None:
    prompts, row = torch.zeros(1, 1, 32), [{"item_text": "Toy"}]
    for template, slot in (("rating", ITEM), ("rating", USER)):
        with pytest.raises(ConfigurationError, match=f"<{slot}> cannot be filled"):
            make_lm(template=template).encode(row, 1, FilledSlot(slot, prompts, np.zeros(1, np.int64)))
    lm = two_slots("llama")
    with pytest.raises(BankError, match="filled for 2 rows, there are 1"):
        lm.encode(row, 1, FilledSlot(ITEM, prompts, np.zeros(2, np.int64)))
    with pytest.raises(MismatchError, match=r"\(rows, length, 32\)"):
        lm.encode(row, 1, FilledSlot(ITEM, torch.zeros(1, 1, 16), np.zeros(1, np.int64)))


def test_a_template_with_one_slot_has_nothing_filled(make_lm: Callable[..., PersonalizedLM]) -> None:
    rows = make_lm().encode([{"item_text": "Toy"}])
    assert rows.filled is None and rows.filled_length == 0
