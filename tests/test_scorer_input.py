"""Templates, tasks, answer tokens and the models that are refused."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from puma_hub import ClickTask, PersonalizedLM, PromptTemplate, RatingTask
from puma_hub.errors import (
    AnswerTokenError,
    BankError,
    ConfigurationError,
    InteractionsError,
    MismatchError,
    StorageError,
    TemplateError,
    UnsupportedModelError,
)
from puma_hub.scorer import RatingHead
from puma_hub.scorer.answers import find_answer_ids
from tests.conftest import make_model, make_tokenizer

ROWS = [{"item_text": "Toy Story"}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rate <item>", "no <user> slot"),
        ("<user> and <user> rate <item>", "2 times"),
        ("<item> <item> <user>", "2 times"),
        ("<user> rates <movie>", "unknown slot <movie>"),
    ],
)
def test_bad_templates(text: str, message: str) -> None:
    with pytest.raises(TemplateError, match=message):
        PromptTemplate(text)


def test_unknown_preset() -> None:
    with pytest.raises(ConfigurationError, match="presets are rating"):
        PromptTemplate.of("ratings")


def test_history_is_cut_to_the_papers_five_the_newest() -> None:
    before, _ = PromptTemplate("<history> <user>").render({"history": list("abcdefg")})
    assert before == "c; d; e; f; g "


def test_text_too_long(make_lm: Callable[..., PersonalizedLM]) -> None:
    with pytest.raises(TemplateError, match="the model has 256"):
        make_lm().logits(torch.zeros(1, 1, 32), [{"item_text": "long " * 300}])


def test_wrong_prompts(make_lm: Callable[..., PersonalizedLM]) -> None:
    lm = make_lm()
    with pytest.raises(MismatchError, match="length, 32"):
        lm.logits(torch.zeros(1, 1, 31), ROWS)
    with pytest.raises(MismatchError):
        lm.logits(torch.zeros(1, 32), ROWS)
    with pytest.raises(BankError, match="2 prompts for 1 rows"):
        lm.logits(torch.zeros(2, 1, 32), ROWS)
    with pytest.raises(BankError):
        lm.logits(torch.zeros(0, 1, 32), [])
    with pytest.raises(TemplateError, match="exactly once"):
        lm.generate("no slot", torch.zeros(1, 32))


def test_unknown_cache_policy(make_lm: Callable[..., PersonalizedLM]) -> None:
    with pytest.raises(ConfigurationError, match="unknown prefix_cache"):
        make_lm(prefix_cache="some")


@pytest.mark.parametrize("kind", ["byte-level", "sentencepiece"])
@pytest.mark.parametrize("context", ["Answer:", "rate ", "by user"])
def test_answers_are_found_in_their_context(kind: str, context: str) -> None:
    tokenizer = make_tokenizer(kind)
    ids = find_answer_ids(tokenizer, context, ["1", "2", "3"])
    head = tokenizer(context)["input_ids"]
    for answer, found in zip(["1", "2", "3"], ids):
        spellings = [tokenizer(context + space + answer)["input_ids"] for space in ("", " ")]
        assert any(whole[: len(head)] == head and whole[len(head)] == found for whole in spellings)


def test_answers_with_one_first_token_are_an_error(make_lm: Callable[..., PersonalizedLM]) -> None:
    with pytest.raises(AnswerTokenError, match="cannot tell the answers"):
        make_lm(task=RatingTask(values=(10, 11, 12)))
    words = Tokenizer(models.WordLevel({"<unk>": 0, "Answer:": 1}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    with pytest.raises(AnswerTokenError):
        find_answer_ids(PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>"), "Answer:", ["Yes", "No"])


def test_refused_models(tokenizer: PreTrainedTokenizerFast) -> None:
    t5 = transformers.T5ForConditionalGeneration(
        transformers.T5Config(vocab_size=400, d_model=32, d_ff=32, num_layers=1)
    )
    with pytest.raises(UnsupportedModelError, match="encoder-decoder"):
        PersonalizedLM(t5, tokenizer)
    both_ways = make_model("gemma3", use_bidirectional_attention=True)
    with pytest.raises(UnsupportedModelError, match="not purely causal"):
        PersonalizedLM(both_ways, tokenizer)


class OldLlama(transformers.LlamaForCausalLM):
    """The cache argument's name before transformers 5.24."""

    def forward(  # type: ignore[override]
        self,
        input_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: transformers.Cache | None = None,
        **options: object,
    ) -> object:
        name = "cache" if "cache" in inspect.signature(super().forward).parameters else "past_key_values"
        return super().forward(
            input_ids=input_ids,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            **{name: past_key_values},
            **options,
        )


def test_both_names_of_the_cache(tokenizer: PreTrainedTokenizerFast) -> None:
    new = make_model("llama")
    old = OldLlama(new.config).eval()
    old.load_state_dict(new.state_dict())
    rows = [{"item_text": "Heat (1995)"}, {"item_text": "Toy Story"}]
    prompts = torch.randn(2, 1, 32)
    logits = [PersonalizedLM(model, tokenizer, prefix_cache="full").logits(prompts, rows) for model in (old, new)]
    assert torch.allclose(*logits, atol=1e-5)


def test_missing_model_folder(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot load a causal LM"):
        PersonalizedLM.from_pretrained(str(tmp_path))


def test_from_pretrained(saved_lm: Callable[..., str]) -> None:
    folder = saved_lm("qwen3")
    lm = PersonalizedLM.from_pretrained(folder, template="rating", dtype="bfloat16")
    assert lm.dtype == torch.bfloat16
    prompts = torch.randn(1, 1, 32)
    exact = PersonalizedLM.from_pretrained(folder, dtype="float32").logits(prompts, ROWS)
    logits = lm.logits(prompts, ROWS)
    assert logits.dtype == torch.float32
    assert (logits - exact).abs().max() < 0.1 * exact.abs().max()


def test_rating_loss_by_hand(head: RatingHead) -> None:
    logits, labels = torch.randn(6, 5), torch.tensor([1.0, 5.0, 3.0, 2.0, 4.0, 4.0])
    log_p = logits - logits.exp().sum(-1, keepdim=True).log()
    cross_entropy = -log_p[torch.arange(6), labels.long() - 1].mean()
    squared = ((head(logits) - labels) ** 2).mean()
    expected = 0.8 * squared + 0.2 * cross_entropy
    assert torch.allclose(RatingTask().loss(logits, labels, head), expected, atol=1e-6)
    assert torch.equal(RatingTask().predict(logits, head), head(logits))
    expectation = torch.stack([(row.softmax(-1) * torch.arange(1, 6)).sum() for row in logits])
    assert torch.allclose(RatingTask().predict(logits, None), expectation)


def test_head_has_the_papers_sizes(head: RatingHead) -> None:
    assert [tuple(p.shape) for p in head.parameters()] == [(32, 5), (32,), (12, 32), (12,), (1, 12), (1,)]


@pytest.mark.parametrize(("task", "labels"), [(RatingTask(), [1, 6]), (RatingTask(), [2.5]), (ClickTask(), [0, 2])])
def test_labels_outside_the_task(task: RatingTask, labels: list[float]) -> None:
    with pytest.raises(InteractionsError, match="outside the task's values"):
        task.check_labels(np.array(labels))


@pytest.mark.parametrize("options", [{"values": (1,)}, {"values": (2, 1)}, {"values": (1, 1)}, {"mse_weight": 1.5}])
def test_bad_rating_tasks(options: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        RatingTask(**options)  # type: ignore[arg-type]
