"""Rows, scorers and a plain forward pass for templates with a slot of users and one of items."""

from __future__ import annotations

from typing import Any

import datasets
import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from puma_hub import PersonalizedLM
from puma_hub.data import chronological_split
from puma_hub.tasks.template import SoftSlot
from tests.conftest import make_model, make_tokenizer

USERS, ITEMS, EACH = 32, 10, 10


def make_rows(seed: int = 0) -> datasets.DatasetDict:
    """Ratings of items that differ though their texts are the same, by users who differ; every fifth is held out."""
    generator = np.random.default_rng(seed)
    taste, quality = generator.normal(0, 0.6, USERS), generator.normal(0, 1.2, ITEMS)
    rows = []
    for user in range(USERS):
        for time, item in enumerate(generator.permutation(ITEMS)[:EACH]):
            label = float(np.clip(round(3 + taste[user] + quality[item] + generator.normal(0, 0.3)), 1, 5))
            rows.append((f"user-{user:02d}", f"item-{item}", "Toy Story", label, time))
    names = ("user_id", "item_id", "item_text", "label", "timestamp")
    return chronological_split(datasets.Dataset.from_dict(dict(zip(names, map(list, zip(*rows))))))


def two_slots(family: str, seed: int = 0, **options: object) -> PersonalizedLM:
    name = f"tiny/{family}-{seed}"
    return PersonalizedLM(
        make_model(family, seed), make_tokenizer(), model_id=name, **{"template": "rating-items", **options}
    )  # type: ignore[arg-type]


def plain(lm: PersonalizedLM, tokenizer: PreTrainedTokenizerFast, row: dict[str, Any], **prompts: torch.Tensor) -> Any:
    """Answer logits by the model's own forward over the embeddings of texts and prompts."""
    model, parts = lm.model, []
    embed: Any = model.get_input_embeddings()
    for segment in lm.template.segments(row):
        if isinstance(segment, SoftSlot):
            parts.append(prompts[segment.name])
        else:
            ids = tokenizer("".join(part.text for part in segment), add_special_tokens=False)["input_ids"]
            parts.append(embed(torch.tensor(ids, dtype=torch.long)))
    return model(inputs_embeds=torch.cat(parts)[None], use_cache=False).logits[0, -1, lm.answer_ids]
