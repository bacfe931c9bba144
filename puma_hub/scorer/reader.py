"""An LLM with a template and a task, as far as rows are read: tokens and input embeddings, but no forward pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from puma_hub.errors import ConfigurationError, UnsupportedModelError
from puma_hub.identity import ModelSpec
from puma_hub.scorer.answer_tokens import Answers, find_answers
from puma_hub.scorer.encoding import EncodedRows, RowEncoder
from puma_hub.scorer.inputs import ModelInputs
from puma_hub.scorer.lm import PersonalizedLM
from puma_hub.scorer.models import cache_argument, max_positions
from puma_hub.tasks import PromptTemplate, Task


class RowReader:
    """Reads rows for programs other than :class:`~puma_hub.PersonalizedLM`, which take input embeddings.

    Args:
        model: of which the input embeddings are loaded.
        tokenizer: the model's tokenizer.
        spec: the model's identity.
        template: with ``<user>`` as its only soft slot.
        task: whose answers the model chooses from.
        truncate_items: shorten the end of an item's text if its row does not fit the model.

    Raises:
        ConfigurationError: the template has two soft slots.
        UnsupportedModelError: the model is not decoder-only, or has more than one embedding of a token.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        spec: ModelSpec,
        template: PromptTemplate,
        task: Task,
        truncate_items: bool = False,
    ) -> None:
        cache_argument(model)
        self.model, self.tokenizer, self.spec = model, tokenizer, spec
        self.template, self.task = template, task
        self.inputs = ModelInputs(model)
        if self.inputs.has_layers:
            raise UnsupportedModelError(
                f"{type(model).__name__} has an embedding of each token for every layer, which only PersonalizedLM "
                "gives for a soft prompt; score its prompts with it"
            )
        if len(template.soft_slots) > 1:
            raise ConfigurationError(
                f"the template {template.text!r} has two soft slots, and here one prompt stands in a text; use prompts "
                "of a template with <user> alone"
            )
        self.encoder = RowEncoder(tokenizer, template, max_positions(model), truncate_items)

    @classmethod
    def of_scorer(cls, lm: PersonalizedLM) -> RowReader:
        """The reader of a scorer's LLM, template and task. Raises the same errors as the class."""
        return cls(lm.model, lm.tokenizer, lm.spec, lm.template, lm.task)

    @cached_property
    def answers(self) -> Answers:
        """The tokens of the task's answers.

        Raises:
            AnswerTokenError: the tokenizer cannot tell them apart.
            MismatchError: the model has no embedding of one.
        """
        found = find_answers(self.tokenizer, self.encoder.text, self.template, self.task.answers)
        self.inputs.require_known([found.ids])
        return found

    def require_spelling(self, texts: Sequence[str] | None) -> None:
        """See :meth:`puma_hub.scorer.answer_tokens.Answers.require_spelling`."""
        if texts is not None:
            self.answers.require_spelling(texts)

    def encode(self, rows: Iterable[Mapping[str, Any]], prompt_length: int) -> EncodedRows:
        """The rows as token ids and slots.

        Raises:
            InteractionsError: a row lacks what the template shows.
            TemplateError: a row does not fit the model with its prompt.
            MismatchError: the model has no embedding of a token.
        """
        encoded = self.encoder.encode(rows, prompt_length)
        self.inputs.require_known(encoded.texts())
        return encoded
