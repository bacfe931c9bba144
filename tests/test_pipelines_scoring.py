"""personalized-scoring: scores and distributions against plain forwards, every kind of input, every error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast, pipeline

from puma_hub import ClickTask, ModelSpec, PersonalizedLM, PromptBank, PromptTemplate, PumaAdapter, RatingTask
from puma_hub.errors import (
    BankError,
    ConfigurationError,
    InteractionsError,
    MismatchError,
    StorageError,
    TemplateError,
    UnknownUserError,
    UnsupportedModelError,
)
from puma_hub.tasks import RatingHead
from tests.conftest import make_bank, make_interactions, make_model
from tests.test_adapter import make_adapter

TASK = "personalized-scoring"
ROWS = [
    {"user_id": "user-1", "item_text": "Toy Story (1995)"},
    {"user_id": "user-0", "item_text": "A rather long title about nothing at all (1999), Drama"},
    {"user_id": "user-1", "item_text": "Heat"},
]


def by_hand(
    family: str,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[Any],
    answers: Sequence[str],
    head: RatingHead | None,
    rows: Sequence[dict[str, Any]] = ROWS,
    template: str = "rating",
) -> list[dict[str, Any]]:
    """One unpadded forward a row through an untouched model, softmax over the tokens after the text."""
    model = make_model(family)
    embed = model.get_input_embeddings()
    results = []
    for row, prompt in zip(rows, prompts):
        before, after = PromptTemplate.of(template).render(row)
        ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (before, after)]
        parts = [embed(torch.tensor(part, dtype=torch.long)) for part in ids]
        whole = torch.cat([parts[0], torch.tensor(np.array(prompt)), parts[1]])[None]
        said = [tokenizer(answer, add_special_tokens=False)["input_ids"][0] for answer in answers]
        with torch.no_grad():
            logits = model(inputs_embeds=whole, use_cache=False).logits[0, -1, said]
            chances = logits.softmax(-1)
            expected = (chances * torch.arange(1, len(said) + 1)).sum()
            score = head(logits[None])[0] if head is not None else expected
        results.append({"score": float(score), "distribution": dict(zip(answers, chances.tolist()))})
    return results


def close(first: Sequence[dict[str, Any]], second: Sequence[dict[str, Any]], tolerance: float = 1e-4) -> bool:
    return len(first) == len(second) and all(
        one.keys() == two.keys()
        and one["score"] == pytest.approx(two["score"], abs=tolerance)
        and one["distribution"] == pytest.approx(two["distribution"], abs=tolerance)
        for one, two in zip(first, second)
    )


def three_head() -> RatingHead:
    torch.manual_seed(3)
    return RatingHead(3).start_at(2.0)


def spec_of(lm: Any) -> ModelSpec:
    return ModelSpec.from_model(lm if not isinstance(lm, PersonalizedLM) else lm.model)


@pytest.mark.parametrize("family", ["llama", "gemma3", "stablelm"])
def test_scores_of_a_folder_and_a_bank_in_a_folder(
    saved_lm: Callable[..., str], tokenizer: PreTrainedTokenizerFast, tmp_path: Path, family: str
) -> None:
    """Template, task and head are the bank's."""
    text = "Film <item>\nRating by <user>:"
    bank = make_bank(family=family, length=2, template=text, task=RatingTask(values=(1, 2, 3)))
    bank = PromptBank(bank.dataset, bank.provenance, three_head())
    bank.save_pretrained(tmp_path / "bank")
    pipe = pipeline(TASK, model=saved_lm(family), bank=str(tmp_path / "bank"), device="cpu")
    prompts = [bank[str(row["user_id"])] for row in ROWS]
    expected = by_hand(family, tokenizer, prompts, ["1", "2", "3"], bank.head, template=text)
    assert np.std([result["score"] for result in expected]) > 1e-3
    for batch_size in (None, 1, 2):
        assert close(pipe(ROWS, batch_size=batch_size), expected)
    assert close([pipe(ROWS[0])], expected[:1])
    assert all(isinstance(result["score"], float) for result in pipe(ROWS))


def test_every_kind_of_input(make_lm: Callable[..., PersonalizedLM]) -> None:
    bank = make_bank(family="llama")
    pipe = pipeline(TASK, model=make_lm(), bank=bank)
    expected = pipe(ROWS)
    assert pipe([]) == [] and pipe(()) == [] and pipe(datasets.Dataset.from_list(ROWS).select([])) == []
    assert pipe(tuple(ROWS)) == expected and pipe(datasets.Dataset.from_list(ROWS)) == expected
    streamed = pipe((row for row in ROWS), batch_size=2)
    assert not isinstance(streamed, list) and close(list(streamed), expected, 1e-5)
    assert close(list(pipe(datasets.Dataset.from_list(ROWS).to_iterable_dataset())), expected, 1e-5)
    rows = make_interactions()  # with more columns than are needed
    assert len(pipe(rows)) == len(rows) and close(pipe(rows)[:2], [pipe(rows[0]), pipe(rows[1])], 1e-5)
    prompts = [bank[row["user_id"]] for row in ROWS]
    for give in (np.array, torch.tensor, lambda p: p.tolist(), lambda p: p.reshape(-1)):
        by_prompt = [{"prompt": give(p), "item_text": row["item_text"]} for p, row in zip(prompts, ROWS)]
        assert close(pipe(by_prompt), expected, 1e-5)
    by_prompt = [{"prompt": p, "item_text": row["item_text"]} for p, row in zip(prompts, ROWS)]
    without_bank = pipeline(TASK, model=pipe.lm)
    assert close(without_bank(by_prompt), expected, 1e-5)
    longer = {"prompt": np.ones((2, 32)), "item_text": "Heat"}  # each with its own length
    mixed = without_bank([by_prompt[0], longer, by_prompt[1]])
    assert close(mixed, [*without_bank(by_prompt[:1]), without_bank(longer), *without_bank(by_prompt[1:2])], 1e-5)


def test_click_scores_and_history(make_lm: Callable[..., PersonalizedLM], tokenizer: PreTrainedTokenizerFast) -> None:
    rows = [{**row, "history": ["Drama", "Toy"]} for row in ROWS]
    bank = make_bank(family="qwen2", task=ClickTask(), template="paper/mind")
    pipe = pipeline(TASK, model=make_model("qwen2"), tokenizer=tokenizer, bank=bank)
    assert pipe.lm.task == ClickTask() and pipe.head is None
    prompts = [bank[row["user_id"]] for row in ROWS]
    results = pipe(rows)
    logits = pipe.lm.logits(torch.tensor(np.stack(prompts)), rows)
    for result, row in zip(results, logits.softmax(-1)):
        assert list(result["distribution"]) == ["Yes", "No"]
        assert list(result["distribution"].values()) == pytest.approx(row.tolist(), abs=1e-5)
    assert [result["score"] for result in results] == pytest.approx(logits[:, 0].sigmoid().tolist(), abs=1e-5)
    # The history is read. (Not on a family whose sliding window is shorter than what follows the history.)
    assert abs(results[0]["score"] - pipe(ROWS)[0]["score"]) > 1e-4
    assert pipeline(TASK, model=make_lm("qwen2", task=ClickTask()), bank=bank).lm.task == ClickTask()
    unrecorded = pipeline(
        TASK, model=make_model("llama"), tokenizer=tokenizer, bank=make_bank(family="llama"), scored_task=ClickTask()
    )
    assert unrecorded.lm.template == PromptTemplate.of("click")


# A bank of another LLM


def source_and_target() -> tuple[ModelSpec, ModelSpec, PromptBank]:
    source, target = ModelSpec.from_model(make_model("llama"), "a"), ModelSpec.from_model(make_model("gemma3"), "b")
    return source, target, PromptBank.from_arrays(make_bank().user_ids, np.array(make_bank().prompts), source)


@pytest.mark.parametrize("way", ["object", "folder"])
def test_the_adapter_in_between_migrates_the_bank(
    tokenizer: PreTrainedTokenizerFast, saved_lm: Callable[..., str], tmp_path: Path, way: str
) -> None:
    """Template, task and head are the adapter's."""
    source, target, bank = source_and_target()
    text = "Film <item>\nRating by <user>:"
    adapter = make_adapter(sources=[source], target=target, template=text)
    adapter.save_pretrained(tmp_path / "adapter")
    given: Any = adapter if way == "object" else str(tmp_path / "adapter")
    folder = saved_lm("gemma3")
    pipe = pipeline(TASK, model=folder, bank=bank, adapter=given)
    migrated = adapter.migrate(bank)
    assert (pipe.bank.prompts == migrated.prompts).all() and pipe.lm.template.text == text
    prompts = [migrated[str(row["user_id"])] for row in ROWS]
    assert close(pipe(ROWS), by_hand("gemma3", tokenizer, prompts, list("12345"), adapter.head, template=text))
    ready = pipeline(TASK, model=folder, bank=migrated, adapter=given)  # nothing to migrate any more
    assert (ready.bank.prompts == migrated.prompts).all() and ready(ROWS) == pipe(ROWS)
    by_prompt = [{"prompt": prompt, "item_text": row["item_text"]} for prompt, row in zip(prompts, ROWS)]
    assert close(pipeline(TASK, model=folder, adapter=given)(by_prompt), pipe(ROWS), 1e-5)  # head and template alone
    other = pipeline(TASK, model=folder, bank=bank, adapter=given, template="rating", head=RatingHead(5).start_at(1.0))
    assert other.lm.template == PromptTemplate.of("rating") and not close(other(ROWS), pipe(ROWS))


def test_parts_that_do_not_belong_together(tokenizer: PreTrainedTokenizerFast) -> None:
    source, target, bank = source_and_target()
    model: Any = make_model("gemma3")
    parts = {"model": model, "tokenizer": tokenizer}
    with pytest.raises(MismatchError, match=r"give adapter=, .* a -> "):
        pipeline(TASK, **parts, bank=bank)
    with pytest.raises(MismatchError, match="the adapter's target"):
        pipeline(TASK, **parts, bank=bank, adapter=make_adapter(sources=[source], target=source))
    with pytest.raises(MismatchError, match="bank 1 of 1"):
        pipeline(TASK, **parts, bank=bank, adapter=make_adapter(sources=[ModelSpec("c", 16)], target=target))
    with pytest.raises(MismatchError, match="2 banks were given without an adapter"):
        pipeline(TASK, **parts, bank=[bank, bank])
    both = make_adapter(sources=[source, source], target=target)
    joined = pipeline(TASK, **parts, bank=[bank, bank], adapter=both)
    assert (joined.bank.prompts == both.migrate([bank, bank]).prompts).all()
    with pytest.raises(MismatchError, match="give both the same task"):
        pipeline(TASK, **parts, bank=make_bank(family="gemma3", task=ClickTask()), scored_task=RatingTask())
    with pytest.raises(MismatchError, match="is for 3 answers, the task has 5"):
        pipeline(TASK, **parts, bank=make_bank(family="gemma3"), head=three_head())


# Users without a prompt


def test_unknown_users(make_lm: Callable[..., PersonalizedLM]) -> None:
    bank = make_bank(family="llama")
    pipe = pipeline(TASK, model=make_lm(), bank=bank)
    rows = [ROWS[0], {"user_id": "nobody-7", "item_text": "Heat"}]
    with pytest.raises(UnknownUserError, match=r"input 1: the user is not .* unknown_users='mean'") as e:
        pipe(rows)
    with pytest.raises(UnknownUserError, match=r"^the user is not") as single:
        pipe(rows[1])
    assert "nobody" not in str(e.value) + str(single.value)
    known, unknown = pipe(rows, unknown_users="mean")
    assert (known["cold_start"], unknown["cold_start"]) == (False, True)
    mean = pipe({"prompt": bank.prompts.mean(axis=0, dtype=np.float64), "item_text": "Heat"})
    assert "cold_start" not in mean and unknown["distribution"] == pytest.approx(mean["distribution"], abs=1e-6)
    assert pipeline(TASK, model=pipe.lm, bank=bank, unknown_users="mean")(rows[1])["cold_start"]
    with pytest.raises(BankError, match="no mean prompt"):
        pipeline(TASK, model=pipe.lm, bank=bank.remove(bank.user_ids))(rows[1], unknown_users="mean")


BAD: list[tuple[Any, type[Exception], str]] = [
    ({"user_id": "user-1"}, InteractionsError, "needs item_text.*found user_id"),
    ({"user_id": "user-1", "item_text": None}, InteractionsError, "needs item_text"),
    ({"item_text": "Heat"}, InteractionsError, "found neither"),
    ({"user_id": "user-1", "prompt": np.zeros((1, 32)), "item_text": "Heat"}, InteractionsError, "found both"),
    ({"user_id": 1, "item_text": "Heat"}, InteractionsError, "must be a string, got int"),
    ({"prompt": np.zeros((1, 31)), "item_text": "Heat"}, MismatchError, r"must be \(1, 32\) here, got \(1, 31\)"),
    ({"prompt": np.zeros((2, 32)), "item_text": "Heat"}, MismatchError, r"must be \(1, 32\) here, got \(2, 32\)"),
    ({"prompt": np.full((1, 32), np.inf), "item_text": "Heat"}, BankError, "NaN or infinite"),
    ({"prompt": "user-1", "item_text": "Heat"}, BankError, "array of numbers, got str"),
    ({"user_id": "user-1", "item_text": "long " * 300}, TemplateError, "the model has 256"),
    (["Heat"], InteractionsError, "input 0: .* found str"),
    ({"train": [], "validation": []}, InteractionsError, "found train, validation"),
]


@pytest.mark.parametrize(("row", "error", "message"), BAD)
def test_bad_rows(make_lm: Callable[..., PersonalizedLM], row: Any, error: type[Exception], message: str) -> None:
    pipe = pipeline(TASK, model=make_lm(), bank=make_bank(family="llama"))
    with pytest.raises(error, match=message) as caught:
        pipe(row)
    assert "user-1" not in str(caught.value)
    with pytest.raises(ConfigurationError, match="got str"):
        pipe("user-1")


def test_bad_arguments(make_lm: Callable[..., PersonalizedLM], saved_lm: Callable[..., str], tmp_path: Path) -> None:
    lm, bank = make_lm(), make_bank(family="llama")
    for options, error, message in (
        ({"unknown_users": "average"}, ConfigurationError, "one of error, mean, got 'average'"),
        ({"template": "click"}, ConfigurationError, "has its own template and task"),
        ({"scored_task": ClickTask()}, ConfigurationError, "has its own template and task"),
        ({"device": "meta"}, ConfigurationError, "is on cpu, not on meta"),
        ({"dtype": "float16"}, ConfigurationError, "given in torch.float32"),
        ({"bank": 7}, ConfigurationError, "bank= takes .* got int"),
        ({"bank": str(tmp_path / "none")}, StorageError, "no prompt bank"),
        ({"adapter": bank}, ConfigurationError, "adapter= takes .* got PromptBank"),
        ({"unknown_user": "mean"}, ConfigurationError, "no argument unknown_user"),
    ):
        with pytest.raises(error, match=message):
            pipeline(TASK, **{"model": lm, "bank": bank, **options})
    with pytest.raises(ConfigurationError, match="without a tokenizer"):
        pipeline(TASK, model=lm.model, bank=bank)
    with pytest.raises(UnsupportedModelError, match="RatingHead is not a model"):
        pipeline(TASK, model=RatingHead(), bank=bank)
    with pytest.raises(ConfigurationError, match="no bank to look up a user in"):
        pipeline(TASK, model=lm)(ROWS)
    with pytest.raises(ConfigurationError, match="but its parts can"):
        pipeline(TASK, model=lm).save_pretrained(tmp_path)
    folder = Path(saved_lm("llama"))
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(StorageError, match="cannot load a causal LM"):
        pipeline(TASK, model=str(folder), bank=bank)


def test_an_lm_is_taken_as_it_is(make_lm: Callable[..., PersonalizedLM], saved_lm: Callable[..., str]) -> None:
    lm = make_lm(prefix_cache="off", template="paper/amazon")
    pipe = pipeline(TASK, model=lm, bank=make_bank(family="llama"), device=-1, template="paper/amazon")
    assert pipe.lm is lm and pipe.model is lm.model
    half = pipeline(TASK, model=saved_lm("llama"), bank=make_bank(family="llama"), dtype=torch.bfloat16)
    assert half.dtype == half.lm.dtype == torch.bfloat16 and half.lm.spec == half.spec
    whole = pipeline(TASK, model=saved_lm("llama"), bank=make_bank(family="llama"), dtype="float32")
    assert close(half(ROWS), whole(ROWS), 0.3) and isinstance(pipe.adapter, (PumaAdapter, type(None)))


def test_errors_of_a_batch_name_the_input(make_lm: Callable[..., PersonalizedLM]) -> None:
    pipe = pipeline(TASK, model=make_lm(), bank=make_bank(family="llama"))
    rows = [ROWS[i % 3] for i in range(9)]
    rows[7] = {"user_id": "user-0", "item_text": "long " * 300}
    for batch_size in (1, 4, 64):
        for inputs in (rows, (row for row in rows)):
            with pytest.raises(TemplateError, match=r"^input 7: the row needs 3\d\d positions"):
                list(pipe(inputs, batch_size=batch_size))


def test_a_bank_with_other_texts_for_the_answers(make_lm: Callable[..., PersonalizedLM]) -> None:
    bank = make_bank(family="llama", task=RatingTask(), details={"answer_texts": list("ABCDE")})
    with pytest.raises(MismatchError, match=r"other texts for the answers \('A' where this scorer has '1'\)"):
        pipeline(TASK, model=make_lm(), bank=bank)
