"""The inputs of an LLM for users and rows: token ids, and embeddings with the user's prompt at its place."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from puma_hub.bank.fit import require_scorer
from puma_hub.errors import ConfigurationError, MismatchError
from puma_hub.identity import ModelSpec
from puma_hub.scorer import PersonalizedLM
from puma_hub.scorer.embeddings_only import load_embeddings_only
from puma_hub.scorer.encoding import Segments
from puma_hub.scorer.reader import RowReader
from puma_hub.scorer.slot_texts import SLOT, SlotTexts
from puma_hub.serving.prompts import Prompts, open_prompts
from puma_hub.tasks import PromptTemplate, RatingHead, Task, default_task
from puma_hub.tasks.template import USER


class PromptInputs:
    """The inputs of an LLM of which only the input embeddings are loaded.

    Arguments and errors are those of :class:`~puma_hub.serving.PromptRequests`.
    """

    def __init__(
        self,
        bank: Prompts | str | os.PathLike[str],
        model: str | PersonalizedLM,
        template: PromptTemplate | str | None = None,
        *,
        task: Task | None = None,
        head: RatingHead | None = None,
        dtype: str | torch.dtype = "auto",
        revision: str | None = None,
        token: str | bool | None = None,
        truncate_items: bool = False,
    ) -> None:
        self.bank = open_prompts(bank, token)
        known = self.bank.provenance
        if isinstance(model, PersonalizedLM):
            other = template is not None and PromptTemplate.of(template) != model.template
            if task not in (None, model.task) or other:
                raise ConfigurationError("a PersonalizedLM has its own template and task; give them to it")
            self.reader = RowReader.of_scorer(model)
        else:
            task = task or known.task or default_task()
            template = PromptTemplate.of(template or known.template or task.template)
            loaded, tokenizer = load_embeddings_only(str(model), dtype=dtype, revision=revision, token=token)
            spec = ModelSpec.from_model(loaded, str(model), revision)
            self.reader = RowReader(loaded, tokenizer, spec, template, task, truncate_items)
        require_scorer(self.bank, self.reader, "requests")
        self.texts = SlotTexts(self.reader.tokenizer, self.reader.inputs)
        self.answers = self.reader.answers
        self.head = self._fitting(head if head is not None else self.bank.head)

    def _fitting(self, head: RatingHead | None) -> RatingHead | None:
        if head is None or not self.reader.task.has_head:
            return None
        if head.answers != len(self.answer_ids):
            raise MismatchError(
                f"the rating head is for {head.answers} answers, the task has {len(self.answer_ids)}; give the head of "
                "this task"
            )
        own: RatingHead = copy.deepcopy(head).cpu().float().eval()
        return own

    # What requests are made of

    @property
    def answer_ids(self) -> list[int]:
        """The token id of each answer, in the task's order."""
        return self.answers.ids

    def segments(self, row: Mapping[str, Any]) -> Segments:
        """The row's token ids, and the slot of the prompt among them.

        Raises:
            InteractionsError: the row lacks what the template shows.
            TemplateError: it does not fit the model with its prompt.
            MismatchError: the model has no embedding of a token.
        """
        return self.reader.encode([row], self.bank.shape[0]).segments[0]

    def segments_of_text(self, text: str | Sequence[Mapping[str, Any]]) -> Segments:
        """As :meth:`segments`, of a text with ``<user>``, or of a chat; without ``<user>`` the prompt is in front.

        Raises:
            TemplateError: see :class:`~puma_hub.scorer.slot_texts.SlotTexts`.
        """
        if isinstance(text, str):
            return self.texts.of(text if SLOT in text else SLOT + text)
        return self.texts.of_chat(text)

    def embeds(self, user_id: str, segments: Segments) -> torch.Tensor:
        """The input embeddings of a text with the user's prompt, ``(tokens, d)`` in the model's dtype, on the CPU.

        Raises:
            UnknownUserError: the bank has no such user.
        """
        with torch.no_grad():
            inputs = self.reader.inputs.of([segments], {USER: self.prompt(user_id)[None]})
        return inputs["inputs_embeds"][0].cpu()

    def prompt(self, user_id: str) -> torch.Tensor:
        """The user's prompt, float32 ``(l, d)``. Raises the bank's errors."""
        return torch.from_numpy(np.array(self.bank[user_id]))
