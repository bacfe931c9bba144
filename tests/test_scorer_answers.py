"""Which tokens the answers are, and how values are spelled that numerals do not tell apart."""

from __future__ import annotations

import string
from collections.abc import Callable

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, pipeline

from puma_hub import ClickTask, PersonalizedLM, PromptTemplate, RatingTask
from puma_hub.errors import AnswerTokenError, ConfigurationError
from puma_hub.scorer.answers import Answers, find_answers
from puma_hub.scorer.tokens import TextTokenizer
from tests.conftest import make_bank, make_tokenizer

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
    with pytest.raises(AnswerTokenError, match=r"are .*'Ġ', .*nor are there as many letters.*fewer values"):
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
    pipe = pipeline("personalized-scoring", model=lm, bank=make_bank(task=lm.task))
    (result,) = pipe([{**rows[0], "prompt": prompts[0]}])
    assert list(result["distribution"]) == ["0.5", "1", "1.5", "2", "2.5", "3", "3.5", "4", "4.5", "5"]
    expected = lm.logits(prompts, rows).softmax(-1)[0]
    assert result["score"] == pytest.approx(float(expected @ torch.tensor(HALVES)), abs=1e-5)
    assert make_lm(task=ClickTask(), template="click").answer_texts == (" Yes", " No")
