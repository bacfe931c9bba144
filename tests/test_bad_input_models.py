"""Mistakes in templates, tasks and language models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from puma_hub import (
    PersonalizedLM,
    PromptTemplate,
    PromptTrainer,
    RatingTask,
)
from puma_hub import errors as e
from puma_hub.tasks import PRESETS
from tests.bad_input import (
    SIZE,
    Case,
    require_clear_error,
)
from tests.conftest import make_model, make_tokenizer

CASES: dict[str, Case] = {
    "unknown placeholder": (lambda p: PromptTemplate("<user> <film>"), e.TemplateError, "unknown placeholder '<film>'"),
    "two placeholders": (lambda p: PromptTemplate("<user> and <user>"), e.TemplateError, "occurs 2 times"),
    "no placeholder": (lambda p: PromptTemplate("rate <item>"), e.TemplateError, "has no <user>"),
    "unknown preset": (lambda p: PromptTemplate.of("netflix"), e.ConfigurationError, ", ".join(PRESETS)),
    "a template shows a history that is not there": (
        lambda p: PromptTrainer(
            PersonalizedLM(make_model("llama"), make_tokenizer(), template="<history> <item> <user>"), p.rows
        ),
        e.TemplateError,
        "no column 'history'",
    ),
    "text too long": (
        lambda p: p.lm.logits(torch.zeros(1, 1, SIZE), [{"item_text": "long " * 400}]),
        e.TemplateError,
        "shorten item_text",
    ),
    "values out of order": (lambda p: RatingTask(values=(5, 1)), e.ConfigurationError, "rising numbers"),
    "answers share a token": (
        lambda p: PersonalizedLM(make_model("llama"), make_tokenizer(), task=RatingTask(values=range(100, 300))),
        e.AnswerTokenError,
        "cannot tell the answers",
    ),
    "no language model there": (
        lambda p: PersonalizedLM.from_pretrained(str(p.folder)),
        e.StorageError,
        "holds no model",
    ),
    "unknown cache policy": (
        lambda p: PersonalizedLM(make_model("llama"), make_tokenizer(), prefix_cache="some"),
        e.ConfigurationError,
        "choose one of auto, full",
    ),
    "prompts of another size": (
        lambda p: p.lm.logits(torch.zeros(1, 1, 16), [{"item_text": "a"}]),
        e.MismatchError,
        "migrate prompts",
    ),
    "more prompts than rows": (
        lambda p: p.lm.logits(torch.zeros(2, 1, SIZE), [{"item_text": "a"}]),
        e.BankError,
        "2 prompts for 1 rows",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_clear_error_and_nothing_left(case: str, tmp_path: Path) -> None:
    require_clear_error(CASES[case], tmp_path)
