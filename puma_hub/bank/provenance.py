"""Where a bank's prompts come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from puma_hub._version import __version__, too_new
from puma_hub.bank.lineage import PARENTS, checked_parents
from puma_hub.bank.statistics import BankStatistics
from puma_hub.data.held_out import TrainedRows
from puma_hub.errors import BankError, ConfigurationError, shown
from puma_hub.identity import ModelSpec
from puma_hub.limits import MAX_FORMAT, MAX_PROMPT_LENGTH, require_plain, require_text, require_whole
from puma_hub.tasks import PromptTemplate, RatingHead, Task, as_task, default_task
from puma_hub.tasks.owners import USERS, owners_of

MEAN_ANSWERS = "mean_answers"
"""A key of the details: the mean answer logits of the LLM with the bank's prompts."""
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Provenance:
    """The model, template and task of a bank, how it was made, and the banks it was made from.

    Attributes:
        made_by: ``"given"``, ``"trained"`` or ``"migrated"``.
        details: facts about how the bank was made, without user data.
        history: the earlier steps, oldest first. Each is a dict with its own ``made_by``.
        parents: the numbers of the steps in ``history`` that this bank was made from, counted from 0; one for each
            source of the adapter, in its order. Steps name their own parents likewise.
        statistics: statistics of all prompts of the training, even if the bank holds only some of them.
        trained_rows: a sample of hashes of the interactions that the prompts were trained on, if known.
        owners: whose prompts these are, ``users`` or ``items``; for items the user ids are the ids of items.
    """

    model: ModelSpec
    prompt_length: int
    template: str | None = None
    task: Task | None = None
    made_by: str = "given"
    details: Mapping[str, Any] = field(default_factory=dict)
    history: tuple[Mapping[str, Any], ...] = ()
    statistics: BankStatistics | None = None
    trained_rows: TrainedRows | None = None
    parents: tuple[int, ...] = ()
    owners: str = USERS.name

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, "model", ModelSpec.of(self.model))
        require_whole(self.prompt_length, "prompt_length", MAX_PROMPT_LENGTH)
        require_text(self.made_by, "made_by")
        owners_of(self.owners)
        if not isinstance(self.details, Mapping):
            raise ConfigurationError(f"the details of a bank must be a mapping, got {shown(self.details)}")
        require_plain(self.details, "the details of a bank")
        steps = self.history
        if not isinstance(steps, (list, tuple)) or not all(isinstance(step, Mapping) for step in steps):
            raise ConfigurationError(f"the history of a bank must be a list of mappings, got {shown(steps)}")
        require_plain(steps, "the history of a bank")
        set_(self, "history", tuple(steps))
        for number, step in enumerate(steps):
            checked_parents(step.get(PARENTS, ()), number)
        set_(self, "parents", checked_parents(self.parents, len(steps)))
        if self.template is not None:
            set_(self, "template", PromptTemplate.of(self.template).text)
        if isinstance(self.trained_rows, Mapping):
            set_(self, "trained_rows", TrainedRows.from_dict(self.trained_rows))
        elif self.trained_rows is not None and not isinstance(self.trained_rows, TrainedRows):
            raise BankError(f"the training rows of a bank must be a mapping, got {shown(self.trained_rows)}")
        if self.task is not None:
            set_(self, "task", as_task(self.task))
        if isinstance(self.statistics, Mapping):
            set_(self, "statistics", BankStatistics.from_dict(self.statistics))
        elif self.statistics is not None and not isinstance(self.statistics, BankStatistics):
            raise BankError(f"the statistics of a bank must be a mapping, got {shown(self.statistics)}")
        if self.statistics is not None and self.statistics.mean.shape != (self.prompt_length, self.model.hidden_size):
            raise BankError(
                f"the statistics are of prompts of shape {self.statistics.mean.shape}, the bank's prompts have shape "
                f"{(self.prompt_length, self.model.hidden_size)}; give the statistics of this bank's training"
            )

    def to_dict(self) -> dict[str, Any]:
        return {
            "format_version": FORMAT_VERSION,
            "puma_hub_version": __version__,
            "model": self.model.to_dict(),
            "prompt_length": self.prompt_length,
            "template": self.template,
            "task": self.task.to_dict() if self.task else None,
            "made_by": self.made_by,
            "details": dict(self.details),
            "history": [dict(step) for step in self.history],
            "parents": list(self.parents),
            "statistics": self.statistics.to_dict() if self.statistics else None,
            "trained_rows": self.trained_rows.to_dict() if self.trained_rows else None,
            "owners": self.owners,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Provenance:
        """Rebuild from the output of :meth:`to_dict`. Unknown keys are ignored.

        Raises:
            BankError: a required key is missing, or the format is newer than this version of puma_hub.
            PumaHubError: a field has a value that it may not have.
        """
        version = require_whole(data.get("format_version", 1), "format_version", MAX_FORMAT)
        if version > FORMAT_VERSION:
            raise BankError(too_new("this bank", version, FORMAT_VERSION, data.get("puma_hub_version")))
        missing = [key for key in ("model", "prompt_length") if key not in data]
        if missing:
            raise BankError(f"the bank's provenance lacks {', '.join(missing)}; make the bank again")
        known = {f.name for f in fields(cls)}
        return cls(**{key: value for key, value in data.items() if key in known})

    def as_step(self) -> dict[str, Any]:
        """This bank as a step in the history of the next one; ``base_id`` tells trainings on one LLM apart."""
        base_id = self.statistics.base_id if self.statistics else None
        step = {**self.to_dict(), "base_id": base_id}
        return {key: step[key] for key in ("made_by", "model", "owners", "details", "base_id", "parents") if step[key]}

    @property
    def lineage(self) -> tuple[Mapping[str, Any], ...]:
        """The history, and this bank as its last step."""
        return (*self.history, self.as_step())

    def require_head(self, head: RatingHead | None) -> None:
        """Check that a rating head has as many answers as the task.

        Raises:
            BankError: the numbers differ.
        """
        if head is not None and head.answers != self.answers:
            raise BankError(
                f"the head is for {head.answers} answers, the bank's task has {self.answers}; give the bank the task "
                "that the head was trained for"
            )

    @property
    def answers(self) -> int:
        return len((self.task or default_task()).answers)
