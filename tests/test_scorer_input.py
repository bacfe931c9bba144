"""Templates, tasks, answer tokens and the models that are refused."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import PreTrainedTokenizerFast

from puma_hub import ClickTask, PersonalizedLM, PromptTemplate, RatingTask
from puma_hub.errors import (
    BankError,
    ConfigurationError,
    InteractionsError,
    MismatchError,
    StorageError,
    TemplateError,
    UnsupportedModelError,
)
from puma_hub.tasks import RatingHead, task_from_dict
from tests.conftest import make_model

ROWS = [{"item_text": "Toy Story"}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rate <item>", "has no <user>"),
        ("<user> and <user> rate <item>", "2 times"),
        ("<item> <item> <user>", "2 times"),
        ("<user> rates <movie>", "unknown placeholder '<movie>'"),
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


def test_texts_too_long_are_counted_and_named(make_lm: Callable[..., PersonalizedLM]) -> None:
    lm, long = make_lm(), {"item_text": "long " * 300}
    with pytest.raises(TemplateError, match=r"the row needs 3\d\d .* the model has 256; .*truncate_items=True"):
        lm.logits(torch.zeros(1, 1, 32), [long])
    rows = [*ROWS * 3, long, *ROWS, long, *[long] * 5]
    with pytest.raises(
        TemplateError, match=r"7 of 11 rows \(numbers 3, 5, 6, 7, 8, \.\.\., counted from 0\) need up to 3\d\d"
    ):
        lm.encode(rows)


@pytest.mark.parametrize("template", ["rating", "Rated by <user>: <item>\nRating:"])
def test_items_are_cut_to_fit(make_lm: Callable[..., PersonalizedLM], template: str) -> None:
    lm = make_lm(template=template, truncate_items=True)
    text = "".join(f"word{i} " for i in range(200))
    encoded = lm.encode([{"item_text": text}, *ROWS, {"item_text": text}, {"item_text": text * 5}], prompt_length=3)
    assert encoded.truncated == 3 and encoded.cut.tolist() == [True, False, True, True]
    assert encoded.take([1, 3]).truncated == 1
    assert encoded.prefixes[0] is encoded.prefixes[2] and encoded.prefixes[0] == encoded.prefixes[3]
    start, _, end = encoded.segments[0]
    width = len(start) + len(end)
    assert 250 <= width <= 256 - 3
    shown = lm.tokenizer.decode(start + end)
    before, after = (lm.template.text.split("<item>")[i].replace("<user>", "") for i in (0, 1))
    assert shown.startswith(before) and shown.endswith(after)  # the template's own words are whole
    assert text.startswith(shown[len(before) : len(shown) - len(after)])
    with pytest.raises(TemplateError, match="even without its item's text; shorten the template or the history"):
        make_lm(template=lm.template.text + " why" * 300, truncate_items=True).encode(ROWS)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"item_text": b"a"}, "is bytes"),
        ({"item_text": "\ud83d"}, "halves of UTF-16 pairs"),
        ("a", "a row must be a mapping of columns to values, got str"),
        ({}, "no item_text"),
        ({"item_text": None}, "no item_text"),
        ({"item_text": float("nan")}, "no item_text"),
        ({"item_text": "a", "history": "Toy Story"}, "must be a list of titles, .*got str"),
        ({"item_text": "a", "history": 7}, "must be a list of titles, .*got int"),
    ],
)
def test_odd_rows(make_lm: Callable[..., PersonalizedLM], row: dict[str, object], message: str) -> None:
    with pytest.raises(InteractionsError, match=message):
        make_lm().encode([row])


def test_rows_of_little_text(make_lm: Callable[..., PersonalizedLM]) -> None:
    lm = make_lm(template="<item><history><user>")
    rows = [{"item_text": ""}, {"item_text": "  "}, {"item_text": "a", "history": np.array(["b", None, "c"])}]
    encoded = lm.encode(rows)
    assert encoded.prefixes[0] == () and lm.tokenizer.decode(encoded.prefixes[2]) == "ab; c"
    assert lm.logits(torch.randn(3, 1, 32), encoded).isfinite().all()
    assert len(lm.encode([])) == 0


@pytest.mark.parametrize("budget", [-1, "1GB", 1.5, True])
def test_bad_cache_budgets(make_lm: Callable[..., PersonalizedLM], budget: object) -> None:
    with pytest.raises(ConfigurationError, match="whole number of bytes"):
        make_lm(cache_budget=budget)


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


def test_folders_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"holds no model .config"):
        PersonalizedLM.from_pretrained(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(StorageError, match=r"cannot load a causal LM .* check the name"):
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


BAD_TASKS: list[dict[str, object]] = [
    {"values": (1,)},
    {"values": (2, 1)},
    {"values": (1, 1)},
    {"values": (0.3, 0.1 + 0.2)},
    {"values": (1, float("nan"))},
    {"values": (1, float("inf"))},
    {"values": (False, True)},
    {"values": "12345"},
    {"values": ("1", "2")},
    {"values": 5},
    {"values": None},
    {"mse_weight": 1.5},
    {"mse_weight": float("nan")},
    {"mse_weight": "0.5"},
]


@pytest.mark.parametrize("options", BAD_TASKS)
def test_bad_rating_tasks(options: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        RatingTask(**options)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError):
        task_from_dict({"name": "rating", **options})


def test_equal_scales_are_one() -> None:
    for values in ((1.0, 2.0), np.array([1, 2]), np.array([1, 2], dtype=np.float32), [1, 2.0], range(1, 3)):
        task = RatingTask(values)  # type: ignore[arg-type]
        assert task == RatingTask((1, 2)) and hash(task) == hash(RatingTask((1, 2)))
        assert json.dumps(task.to_dict()) == json.dumps(RatingTask((1, 2)).to_dict())
    task = RatingTask((0.1, 0.1 + 0.2, np.float64(0.5), 1e6 + 1, 1e6 + 2), np.float32(0.5))  # type: ignore[arg-type]
    assert task.answers == ("0.1", "0.3", "0.5", "1000001", "1000002")
    assert task_from_dict(json.loads(json.dumps(task.to_dict()))) == task
    assert task_from_dict({**task.to_dict(), "unit": 3}) == task  # newer versions may say more


def test_labels_of_float32() -> None:
    tenths = RatingTask(tuple(i / 10 for i in range(1, 101)))
    labels = np.arange(1, 101, dtype=np.float32) / np.float32(10)
    tenths.check_labels(labels)
    loss = tenths.loss(torch.eye(100) * 50, torch.from_numpy(labels), None)
    assert loss < 1e-4  # every label finds its own answer
    tenths.check_labels([4.499999955])
    for bad in (4.55, 4.501, float("nan"), 0.0, 10.1, float("inf")):
        with pytest.raises(InteractionsError, match=r"1 of 2 labels .* \(0.1, 0.2, 0.3, ..., 10\)"):
            tenths.check_labels([0.5, bad])


def test_a_long_scale_keeps_the_weights_of_the_loss() -> None:
    logits, steps = torch.randn(6, 5), torch.tensor([1.0, 5.0, 3.0, 2.0, 4.0, 4.0])
    task, twenty = RatingTask(), RatingTask((20, 40, 60, 80, 100))

    def head(unit: float) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda given: given.sum(-1) * unit

    ours, theirs = (t.loss(logits, steps * u, head(u)) for t, u in ((task, 1.0), (twenty, 20.0)))  # type: ignore[arg-type]
    assert torch.allclose(ours, theirs, rtol=1e-5)


@pytest.mark.parametrize("device", ["banana", "cuda:99", "xpu"])
def test_a_device_that_is_not_here(saved_lm: Callable[..., str], device: str) -> None:
    with pytest.raises(ConfigurationError, match=f"the device '{device}' cannot be used here"):
        PersonalizedLM.from_pretrained(saved_lm(), device=device)


@pytest.mark.parametrize(
    ("prompts", "told"),
    [
        (np.zeros((1, 1, 32), np.float32), "got ndarray; give torch.as_tensor"),
        (torch.ones(1, 1, 32, dtype=torch.long), "got torch.int64"),
        (torch.zeros(1, 32), r"got \(1, 32\); give one prompt"),
        (torch.zeros(1, 1, 31), r"got \(1, 1, 31\); migrate"),
    ],
)
def test_prompts_of_another_kind(make_lm: Callable[..., PersonalizedLM], prompts: Any, told: str) -> None:
    with pytest.raises(MismatchError, match=told):
        make_lm().logits(prompts, [{"item_text": "Toy"}])


@pytest.mark.parametrize("rows", [None, "Heat", {"item_text": "Heat"}])
def test_what_is_no_list_of_rows(make_lm: Callable[..., PersonalizedLM], rows: object) -> None:
    with pytest.raises(InteractionsError, match="rows must be a list of rows or a dataset"):
        make_lm().encode(rows)  # type: ignore[arg-type]
