"""Fit, teach, train, migrate and evaluate, between every two families in both directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import permutations

import datasets
import numpy as np
import pytest
import torch

from puma_hub import (
    AdapterTrainer,
    PersonalizedLM,
    PromptBank,
    PromptTrainer,
    PumaTrainingArguments,
    evaluate_bank,
    migrate,
    with_source_predictions,
)
from puma_hub.data import chronological_split
from puma_hub.tasks import PromptTemplate, RatingHead
from tests.conftest import NAMED_FAMILIES, make_interactions, make_model, make_tokenizer

QUIET = PumaTrainingArguments(disable_tqdm=True, seed=3, per_device_train_batch_size=16, validation_share=0.0)
SIZES = dict(zip(NAMED_FAMILIES, (32, 64, 32, 48, 64, 32)))


@cache
def lm_of(family: str) -> PersonalizedLM:
    model = make_model(family, NAMED_FAMILIES.index(family), hidden_size=SIZES[family])
    return PersonalizedLM(model, make_tokenizer(), model_id=f"tiny/{family}")


@cache
def rows() -> datasets.DatasetDict:
    return chronological_split(make_interactions(10, 10))


@cache
def fitted(family: str) -> PromptBank:
    return PromptTrainer(lm_of(family), rows()["train"], replace(QUIET, num_train_epochs=10)).train()


@torch.no_grad()
def plain_ratings(lm: PersonalizedLM, prompts: np.ndarray, head: RatingHead, texts: Sequence[str]) -> np.ndarray:
    """Ratings by the model's own forward pass over whole rows, one by one, without a cache."""
    embed, tokenizer, found = lm.model.get_input_embeddings(), make_tokenizer(), []
    said = [tokenizer(answer, add_special_tokens=False)["input_ids"][0] for answer in lm.task.answers]
    for prompt, text in zip(prompts, texts):
        parts = PromptTemplate.of("rating").render({"item_text": text})
        before, after = (
            embed(torch.tensor(tokenizer(part, add_special_tokens=False)["input_ids"], dtype=torch.long))
            for part in parts
        )
        whole = torch.cat([before, torch.from_numpy(prompt.copy()), after])[None]
        answers = lm.model(inputs_embeds=whole, use_cache=False).logits[0, -1, said]
        found.append(float(head(answers[None])))
    return np.array(found)


@pytest.mark.parametrize(("source", "target"), permutations(NAMED_FAMILIES, 2))
def test_every_pair_both_ways(source: str, target: str) -> None:
    bank, new = fitted(source), lm_of(target)
    taught = with_source_predictions(lm_of(source), bank, rows()["train"], noise=0.0)
    migrated = migrate(AdapterTrainer(new, bank, taught, replace(QUIET, num_train_epochs=1)).train(), bank)
    held_out = rows()["validation"]
    own = np.stack([migrated[user] for user in held_out["user_id"][:]])
    expected = plain_ratings(new, own, migrated.head, held_out["item_text"][:])
    report = evaluate_bank(new, migrated, held_out)
    error = np.sqrt(np.mean((expected - np.array(held_out["label"][:])) ** 2))
    assert report["metrics"]["rmse"] == pytest.approx(error, abs=1e-3)
    # Users' prompts differ, as those of the source do, and so does what the target says of an item.
    texts = ["Toy Story (1995)"] * len(bank)
    assert np.ptp(plain_ratings(new, migrated.prompts, migrated.head, texts)) > 0
    assert migrated.model == new.spec and migrated.user_ids == bank.user_ids
