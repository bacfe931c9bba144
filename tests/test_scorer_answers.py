"""Which tokens the answers are, and how values are spelled that numerals do not tell apart."""

from __future__ import annotations

import argparse
import json
import string
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, pipeline

from puma_hub import ClickTask, PersonalizedLM, PromptBank, PromptTemplate, PumaAdapter, PumaConfig, RatingTask
from puma_hub.adapter.card import adapter_card
from puma_hub.bank.card import bank_card
from puma_hub.cli.common import rating_values
from puma_hub.cli.main import main
from puma_hub.errors import AnswerTokenError, ConfigurationError
from puma_hub.scorer.answer_tokens import Answers, find_answers
from puma_hub.scorer.tokens import TextTokenizer
from tests.conftest import make_bank, make_interactions, make_model, make_tokenizer

HALVES = tuple(i / 2 for i in range(1, 11))


def answers_of(tokenizer: PreTrainedTokenizerFast, text: str, answers: list[str]) -> Answers:
    return find_answers(tokenizer, TextTokenizer(tokenizer), PromptTemplate(text), answers)


@pytest.mark.parametrize("kind", ["byte-level", "sentencepiece"])
@pytest.mark.parametrize("context", ["Answer:", "rate ", "by user"])
def test_numerals_are_found_in_their_context(kind: str, context: str) -> None:
    tokenizer = make_tokenizer(kind)
    found = answers_of(tokenizer, f"<item><user>{context}", ["1", "2", "3"])
    head = tokenizer(context)["input_ids"]
    for text, number in zip(found.texts, found.ids):
        whole = tokenizer(context + text)["input_ids"]
        assert whole[: len(head)] == head and whole[len(head)] == number
    assert [text.strip() for text in found.texts] == ["1", "2", "3"]


@pytest.mark.parametrize("kind", ["byte-level", "sentencepiece"])
@pytest.mark.parametrize("template", ["rating", "<item> <user>", "<item> by <user>:"])
@pytest.mark.parametrize("values", [HALVES, tuple(range(11)), tuple(range(1, 11)), tuple(range(-10, 11)), (10, 11, 12)])
def test_letters_stand_for_values_that_begin_alike(kind: str, template: str, values: tuple[float, ...]) -> None:
    tokenizer = make_tokenizer(kind)
    if kind == "sentencepiece":
        tokenizer.add_tokens([*string.ascii_uppercase])  # its own vocabulary has few letters
    task = RatingTask(values)
    found = find_answers(tokenizer, TextTokenizer(tokenizer), PromptTemplate.of(template), task.answers)
    letters = [text.strip() for text in found.texts]
    rule = [*string.ascii_uppercase, *string.ascii_lowercase]
    assert letters == rule[: len(values)]
    assert len(set(found.ids)) == len(set(letters)) == len(values)
    assert [tokenizer.decode([number]).strip() for number in found.ids] == [text.strip() for text in found.texts]
    assert found == find_answers(tokenizer, TextTokenizer(tokenizer), PromptTemplate.of(template), task.answers)


def test_a_hundred_values(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(AnswerTokenError, match=r"are .*'Ġ', .*nor are there enough letters.*fewer values"):
        answers_of(tokenizer, "<item><user>:", [str(i) for i in range(1, 101)])
    more = make_tokenizer()
    pairs = [first + second for first in "ABC" for second in string.ascii_uppercase if first + second != "AC"]
    more.add_tokens([*string.ascii_letters, *pairs])
    found = answers_of(more, "<item><user> ", [str(i) for i in range(1, 101)])
    rule = [*string.ascii_uppercase, *string.ascii_lowercase, *pairs][:100]
    assert [text.strip() for text in found.texts] == rule and len(set(found.ids)) == 100


def test_words_have_no_letters(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(AnswerTokenError, match="Use answers that start differently"):
        answers_of(tokenizer, "<item><user>:", ["Yes", "Yesterday"])
    words = Tokenizer(models.WordLevel({"<unk>": 0, "Answer:": 1}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    unknown = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")
    for answers in (["Yes", "No"], ["1", "2"], ["1", "10"]):
        with pytest.raises(AnswerTokenError):
            answers_of(unknown, "<item><user>Answer:", answers)


def test_presets_that_ask_for_other_values(make_lm: Callable[..., PersonalizedLM]) -> None:
    with pytest.raises(ConfigurationError, match=r"from 1 to 5, the task's answers are 0.5, 1, 1.5, ..., 5"):
        make_lm(template="paper/amazon", task=RatingTask(HALVES))
    assert make_lm(template="paper/yelp").answer_texts == ("1", "2", "3", "4", "5")


def test_scores_are_of_the_values(make_lm: Callable[..., PersonalizedLM]) -> None:
    lm = make_lm(task=RatingTask(HALVES))
    assert lm.answer_texts == tuple("ABCDEFGHIJ") and len(lm.answer_ids) == 10
    prompts = torch.randn(1, 1, 32)
    rows = [{"item_text": "Toy Story"}]
    pipe = pipeline("personalized-scoring", model=lm, bank=make_bank(family="llama", task=lm.task))
    (result,) = pipe([{**rows[0], "prompt": prompts[0]}])
    assert list(result["distribution"]) == ["0.5", "1", "1.5", "2", "2.5", "3", "3.5", "4", "4.5", "5"]
    expected = lm.logits(prompts, rows).softmax(-1)[0]
    assert result["score"] == pytest.approx(float(expected @ torch.tensor(HALVES)), abs=1e-5)
    assert make_lm(task=ClickTask(), template="click").answer_texts == (" Yes", " No")


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1,2,5", (1, 2, 5)),
        ("0.5:5:0.5", HALVES),
        ("0:10", tuple(range(11))),
        ("-10:10", tuple(range(-10, 11))),
        ("0:1:0.1", tuple(i / 10 for i in range(11))),
    ],
)
def test_values_of_the_command_line(text: str, values: tuple[float, ...]) -> None:
    assert RatingTask(rating_values(text)) == RatingTask(values)


@pytest.mark.parametrize("text", ["", "a", "1,", "1:", "5:1", "1:2:0", "0:1:0.3", "1:1e9", "1:2:3:4", "nan:5", "1:inf"])
def test_bad_values_of_the_command_line(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"increasing numbers with commas, or first:last"):
        rating_values(text)


def test_half_stars_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_model("llama").save_pretrained(tmp_path / "llama")
    make_tokenizer().save_pretrained(tmp_path / "llama")
    rows = make_interactions(users=4, rows=10)
    texts = [*rows["item_text"][:-1], "long " * 300]
    rows = rows.remove_columns("item_text").add_column("item_text", texts)
    labels = np.array([label - 0.5 for label in rows["label"]], dtype=np.float32)
    rows.remove_columns("label").add_column("label", labels).to_parquet(tmp_path / "rows.parquet")
    common = ["--model", str(tmp_path / "llama"), "--interactions", str(tmp_path / "rows.parquet")]
    fit = ["fit", *common, "--out", str(tmp_path / "source"), "--epochs", "1", "--json", str(tmp_path / "fit.json")]
    assert main(fit) != 0 and "--values" in capsys.readouterr().err
    assert main([*fit, "--values", "1:9"]) != 0 and "outside the task's values" in capsys.readouterr().err
    evaluate = ["evaluate", *common, "--bank", str(tmp_path / "source/bank"), "--json", str(tmp_path / "report.json")]
    halves = ["--values", "0.5:5:0.5"]
    assert main([*fit, *halves]) == 0
    report = json.loads((tmp_path / "fit.json").read_text())
    assert report["answer_texts"] == list("ABCDEFGHIJ") and report["truncated_rows"] == 0
    assert main([*evaluate, *halves]) != 0
    assert (
        "1 of 8 rows (numbers 7, counted from 0) need up to" in (err := capsys.readouterr().err)
        and "--truncate-items" in err
    )
    assert main([*evaluate, *halves, "--truncate-items"]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["truncated_rows"] == 1 and 0 < report["metrics"]["rmse"] < 5
    assert main([*evaluate]) != 0 and main([*evaluate, *halves, "--task", "click"]) != 0
    bank = PromptBank.from_pretrained(tmp_path / "source/bank")
    assert bank.head is not None and bank.head.answers == 10 and bank.provenance.task == RatingTask(HALVES)
    assert "rating: 0.5 as A, 1 as B" in str(bank_card(bank, "alice/bank", None, False))
    adapter = PumaAdapter(
        PumaConfig(
            [bank.model], bank.model, task=bank.provenance.task, answer_texts=bank.provenance.details["answer_texts"]
        )
    )
    adapter.save_pretrained(tmp_path / "adapter")
    assert PumaAdapter.from_pretrained(tmp_path / "adapter").config.answer_texts == list("ABCDEFGHIJ")
    assert "0.5 as A" in str(adapter_card(adapter, "alice/adapter"))


def test_an_error_names_few_of_many_answers() -> None:
    with pytest.raises(AnswerTokenError, match=r"the answers 1, 2, 3, \.\.\., 900 apart"):
        answers_of(make_tokenizer(), "<item><user>:", [str(i) for i in range(1, 901)])


def test_a_scale_that_begins_below_zero(capsys: pytest.CaptureFixture[str]) -> None:
    for values in (["--values", "-5:5"], ["--values=-5:5"], ["--values", "-1.5,0,.5"]):
        assert main(["fit", "--model", "nowhere/at/all", "--interactions", "none.csv", "--out", "b", *values]) == 1
        assert "expected one argument" not in capsys.readouterr().err
