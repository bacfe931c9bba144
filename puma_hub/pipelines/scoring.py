"""``pipeline("personalized-scoring")``: predicts answers for rows of users and items."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch

from puma_hub.errors import ConfigurationError, InteractionsError, MismatchError
from puma_hub.pipelines.batch_pipeline import refuse_unknown
from puma_hub.pipelines.personal import PersonalizedPipeline, checked_unknown_users
from puma_hub.scorer import PersonalizedLM
from puma_hub.scorer.finite import require_finite
from puma_hub.tasks import PromptTemplate, RatingHead, Task, default_task

_RENDERED = ("item_text", "history")
_NOTHING = SimpleNamespace(task=None, scored_task=None, template=None, details={})


class PersonalizedScoringPipeline(PersonalizedPipeline):
    """Scores rows ``{"user_id": ..., "item_text": ...}``.

    A row may have ``prompt`` (``(l, d)``) in place of ``user_id``. It needs ``history`` if the template shows it.

    A result is ``{"score": float, "distribution": {answer: probability}}``. The score is the task's prediction: the
    rating of the rating head, or the probability of a click. The distribution is the softmax over the task's answers.
    With ``unknown_users="mean"``, ``cold_start`` says whether the mean prompt was used.

    Args:
        model, bank, adapter: see :class:`PersonalizedPipeline`.
        template: a template, the name of a preset, or a text with the placeholder ``<user>``. By default the bank's,
            the adapter's or the task's, in this order.
        scored_task: a task such as :class:`~puma_hub.RatingTask`. By default the bank's or the adapter's. (``task`` is
            the name of the pipeline.)
        head: a rating head. By default the bank's or the adapter's.
        unknown_users: ``error``, or ``mean`` to use the bank's mean prompt for users who are not in the bank.

    Raises:
        MismatchError: bank, adapter, LLM, task and head do not belong together.
        ConfigurationError: an argument cannot be used.
        StorageError, CheckpointError, HubError: something cannot be loaded.
    """

    usual_batch_size = 64

    def __init__(
        self,
        model: Any,
        *args: Any,
        template: PromptTemplate | str | None = None,
        scored_task: Task | None = None,
        head: RatingHead | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(model, *args, **kwargs)
        bank: Any = self.bank.provenance if self.bank is not None else _NOTHING
        adapter: Any = self.adapter.config if self.adapter is not None else _NOTHING
        if self.lm is None:
            task: Task = _first(scored_task, bank.task, adapter.scored_task) or default_task()
            before = (part.provenance.template for part in self.source_banks)
            template = _first(template, bank.template, adapter.template, *before)
            self.lm = PersonalizedLM(self.model, self.tokenizer, template=template, task=task, **self._names)
        elif scored_task not in (None, self.lm.task) or not _same_template(template, self.lm.template):
            raise ConfigurationError(
                "a PersonalizedLM has its own template and task; give them to it, not to the pipeline"
            )
        if bank.task not in (None, self.lm.task):
            raise MismatchError(
                f"the bank's prompts were made for {bank.task}, the pipeline scores {self.lm.task}; give both the same "
                "task"
            )
        self.lm.require_spelling(bank.details.get("answer_texts"))
        self.head = self._fitting_head(head)

    def _fitting_head(self, head: RatingHead | None) -> RatingHead | None:
        """The given head, the bank's or the adapter's, on the pipeline's device."""
        assert self.lm is not None
        owners = [owner.head for owner in (self.bank, self.adapter) if owner is not None]
        found: Any = _first(head, *owners)
        if found is None or not self.lm.task.has_head:
            return None
        if found.answers != len(self.lm.task.answers):
            raise MismatchError(
                f"the rating head is for {found.answers} answers, the task has {len(self.lm.task.answers)}; give the "
                "head of this task"
            )
        own: RatingHead = copy.deepcopy(found).to(self.device).eval()
        return own

    def is_single(self, inputs: Any) -> bool:
        return isinstance(inputs, Mapping)

    def _sanitize_parameters(
        self, unknown_users: str | None = None, **options: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        refuse_unknown("personalized-scoring", options)
        return {} if unknown_users is None else {"unknown_users": checked_unknown_users(unknown_users)}, {}, {}

    def preprocess(self, row: Any, unknown_users: str = "error") -> dict[str, Any]:
        """The row with its prompt ``(l, d)``, and with ``cold_start`` if the mean prompt is allowed."""
        if not isinstance(row, Mapping) or not isinstance(row.get("item_text"), str):
            found = ", ".join(map(str, row)) if isinstance(row, Mapping) else type(row).__name__
            raise InteractionsError(f"a row needs item_text, a string, and user_id or prompt; found {found}")
        assert self.lm is not None
        prompt, is_mean = self.prompts.find(row, unknown_users)
        allowed = {"cold_start": is_mean} if unknown_users == "mean" else {}
        shown = {key: row[key] for key in _RENDERED if key in row}
        return {"row": shown, "prompt": prompt, "offset": self.lm.task.offset_of(row), **allowed}

    def _forward(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Add answer logits ``(answers,)`` and score to each row from :meth:`preprocess`.

        Raises:
            NotFiniteError: the LLM's answers to some rows are NaN or infinite.
        """
        lm: Any = self.lm
        by_length: dict[int, list[int]] = {}
        for number, item in enumerate(inputs):
            by_length.setdefault(len(item["prompt"]), []).append(number)
        for places in by_length.values():
            batch = [inputs[place] for place in places]
            logits = lm.logits(torch.stack([item["prompt"] for item in batch]), [item["row"] for item in batch])
            require_finite(logits, "answers", lm.dtype)
            scores = lm.task.predict(logits, self.head) + torch.tensor([item["offset"] for item in batch]).to(logits)
            for place, *results in zip(places, logits, scores):
                inputs[place] |= dict(zip(("logits", "score"), results))
        return inputs

    def postprocess(self, output: dict[str, Any]) -> dict[str, Any]:
        assert self.lm is not None
        probabilities = output["logits"].softmax(-1).tolist()
        result = {"score": float(output["score"]), "distribution": dict(zip(self.lm.task.answers, probabilities))}
        return result | {key: output[key] for key in ("cold_start",) if key in output}


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _same_template(given: PromptTemplate | str | None, own: PromptTemplate) -> bool:
    return given is None or PromptTemplate.of(given) == own
