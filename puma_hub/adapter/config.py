"""The configuration of an adapter: its LLMs, its architecture, its task and template."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any

import torch
from transformers import PretrainedConfig

from puma_hub._version import __version__, too_new
from puma_hub.adapter.checkpoint import clear_errors
from puma_hub.adapter.trained_on import TrainedOn
from puma_hub.errors import ConfigurationError, shown
from puma_hub.identity import ModelSpec
from puma_hub.limits import MAX_FORMAT, MAX_HIDDEN_SIZE, MAX_PROMPT_LENGTH, MAX_SOURCES, require_whole
from puma_hub.tasks import Task, as_task, default_task, task_from_dict
from puma_hub.tasks.owners import USERS, owners_of
from puma_hub.tasks.template import PromptTemplate

ARCHITECTURES = ("seed", "paper", "linear")
FORMAT_VERSION = 1
_PAPER_HIDDEN_SIZE = 4096
# The fields of every transformers config that mean something for an adapter.
_COMMON = ("architectures", "dtype", "name_or_path", "transformers_version")
_DTYPES = ("None", "float32", "bfloat16", "float16", "float64")


class PumaConfig(PretrainedConfig):
    """Configuration of a :class:`~puma_hub.PumaAdapter`.

    Args:
        sources: the LLMs that the prompts come from: one, or several (aggregation) in the order of concatenation.
        target: the LLM that the prompts go to.
        prompt_length: ``l``, the soft tokens of a prompt.
        architecture: ``seed``, ``paper`` or ``linear``.
        hidden_size: width inside the network; ``2 * d_target`` for ``seed``, 4096 for ``paper`` by default.
        dropout: dropout probability while training (paper: 0.1).
        task: the task it was trained with, as a dict or a task.
        template: the template text it was trained with.
        rating_head: whether the adapter holds a trained rating head; true for tasks that have one.
        answer_texts: how the target LLM spells the task's answers, in their order.
        trained_on: statistics of the source banks it was trained on; None before training.
        owners: whose prompts it migrates, ``users`` or ``items``.

    Unknown fields are left out.

    Raises:
        ConfigurationError: a field has a value that cannot be used.
    """

    model_type = "puma_adapter"

    def __init__(
        self,
        /,  # a file may have a field called so
        sources: Sequence[ModelSpec | Mapping[str, Any]] = (),
        target: ModelSpec | Mapping[str, Any] | None = None,
        prompt_length: int = 1,
        architecture: str = "seed",
        hidden_size: int | None = None,
        dropout: float = 0.1,
        task: Task | Mapping[str, Any] | None = None,
        template: PromptTemplate | str | None = None,
        rating_head: bool | None = None,
        answer_texts: Sequence[str] | None = None,
        trained_on: TrainedOn | Mapping[str, Any] | None = None,
        owners: str = USERS.name,
        format_version: int = FORMAT_VERSION,
        puma_hub_version: str | None = None,
        **kwargs: Any,
    ) -> None:
        version = require_whole(format_version, "format_version", MAX_FORMAT)
        if version > FORMAT_VERSION:
            raise ConfigurationError(too_new("this adapter", version, FORMAT_VERSION, puma_hub_version))
        if architecture not in ARCHITECTURES:
            known = ", ".join(ARCHITECTURES)
            raise ConfigurationError(f"unknown architecture {shown(architecture)}; choose one of {known}")
        if isinstance(dropout, bool) or not isinstance(dropout, (int, float)) or not 0.0 <= dropout < 1.0:
            raise ConfigurationError(f"dropout must lie in [0, 1), got {shown(dropout)}")
        self.sources = _specs(sources)
        self.target = ModelSpec.of(target) if target is not None else None
        self.prompt_length = require_whole(prompt_length, "prompt_length", MAX_PROMPT_LENGTH)
        self.architecture = architecture
        self.dropout = float(dropout)
        if hidden_size is None and self.target is not None:
            hidden_size = _PAPER_HIDDEN_SIZE if architecture == "paper" else 2 * self.target.hidden_size
        if hidden_size is not None:
            require_whole(hidden_size, "hidden_size", 2 * MAX_HIDDEN_SIZE)
        self.hidden_size = hidden_size
        parsed = default_task() if task is None else as_task(task)
        self.task = parsed.to_dict()
        self.template = PromptTemplate.of(template).text if template is not None else None
        self.answer_texts = None if answer_texts is None else [str(text) for text in answer_texts]
        self.trained_on = TrainedOn.of(trained_on)
        self.owners = owners_of(owners).name
        self.rating_head = parsed.has_head if rating_head is None else bool(rating_head)
        self.format_version = FORMAT_VERSION
        dtype = kwargs.get("dtype")
        if not isinstance(dtype, (str, torch.dtype, NoneType)) or str(dtype).removeprefix("torch.") not in _DTYPES:
            raise ConfigurationError(f"dtype must be one of {', '.join(_DTYPES[1:])}, got {shown(dtype)}")
        try:
            super().__init__(**{name: value for name, value in kwargs.items() if name in _COMMON})
        except Exception as error:  # whatever transformers' checks raise
            reason = shown(str(error))
            raise ConfigurationError(f"a field of the config has a value that cannot be used: {reason}") from error

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> Any:
        """As in transformers.

        Raises:
            CheckpointError: the file is missing or malformed.
            ConfigurationError: a field has a value that cannot be used.
            HubError: the repository or revision cannot be read.
        """
        with clear_errors(pretrained_model_name_or_path):
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)

    @property
    def source_size(self) -> int:
        """Sum of the hidden sizes of all sources."""
        return sum(spec.hidden_size for spec in self.sources)

    @property
    def scored_task(self) -> Task:
        return task_from_dict(self.task)

    def require_pair(self) -> ModelSpec:
        """Return the target, once sources and target are known.

        Raises:
            ConfigurationError: one of them is missing.
        """
        if not self.sources or self.target is None:
            raise ConfigurationError(
                "an adapter needs sources=[...] and target=..., each with model_id and hidden_size"
            )
        return self.target

    def to_dict(self) -> dict[str, Any]:
        data = super().to_dict()
        data["puma_hub_version"] = __version__  # of what writes this format
        data["sources"] = [ModelSpec.of(spec).to_dict() for spec in self.sources]
        data["trained_on"] = trained.to_dict() if (trained := TrainedOn.of(self.trained_on)) else None
        data["target"] = self.target.to_dict() if self.target is not None else None
        return data


def _specs(sources: Any) -> list[ModelSpec]:
    if not isinstance(sources, Sequence) or isinstance(sources, str):
        raise ConfigurationError("sources must be a list of model specs, also when there is one")
    if len(sources) > MAX_SOURCES:
        raise ConfigurationError(f"an adapter has at most {MAX_SOURCES} sources, got {len(sources)}")
    specs = [ModelSpec.of(spec) for spec in sources]
    together = sum(spec.hidden_size for spec in specs)
    if together > MAX_HIDDEN_SIZE:
        raise ConfigurationError(
            f"the hidden sizes of all sources together are {together}, at most {MAX_HIDDEN_SIZE} can be joined"
        )
    return specs
