"""The files of one user's prompt as a PEFT adapter, and ``puma_hub.json`` beside them: where the prompt stands."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from puma_hub._version import __version__, too_new
from puma_hub.errors import CheckpointError, PumaHubError, shown
from puma_hub.identity import ModelSpec
from puma_hub.limits import MAX_FORMAT, require_text, require_whole
from puma_hub.storage.layout import Layout
from puma_hub.tasks import PromptTemplate, Task, as_task

CONFIG_FILE, WEIGHTS_FILE, PICKLE_FILE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
FACTS_FILE = "puma_hub.json"
README_FILE = "README.md"
PROMPT_TUNING, P_TUNING, TRAINABLE_TOKENS = "PROMPT_TUNING", "P_TUNING", "TRAINABLE_TOKENS"
PROMPT_KEY, ROWS_KEY = "prompt_embeddings", "trainable_tokens_delta"
FORMAT_VERSION = 1
LAYOUT = Layout(
    "a prompt as a PEFT adapter",
    (FACTS_FILE,),
    (CONFIG_FILE, WEIGHTS_FILE, README_FILE),
    keys=("peft_type", "slot_ids", "embedding_scale"),
)
_LARGEST_ID = 2**31


@dataclass(frozen=True)
class PeftExport:
    """A user's prompt as a PEFT adapter, and how the text around it is written. It names no user.

    The input of the model is ``leading_ids``, the tokens of the text before the prompt, ``slot_ids``, and the tokens of
    the text behind it.

    Attributes:
        path: the folder.
        peft_type: ``PROMPT_TUNING``, where PEFT puts the prompt in front, or ``TRAINABLE_TOKENS``, where it replaces
            the embeddings of ``slot_ids``.
        slot_ids: the token ids that stand where the prompt is; none for ``PROMPT_TUNING``.
        slot_tokens: their names; empty where the tokenizer has no names for them.
        leading_ids: the tokens that begin every text, such as ``<bos>``.
        model: the LLM.
        prompt_length: the number of vectors.
        template: the template's text, with ``<user>`` where the prompt is.
        task: the task of the prompts, if it is known.
        answer_ids: the token ids of the task's answers, in order.
        answer_texts: the texts that begin with these tokens.
        embedding_scale: what the model's embedding layer multiplies its rows by; the stored rows are divided by it.
        example_text: the template with a made-up row.
        example_ids: the token ids for it.
    """

    path: Path = field(compare=False)
    peft_type: str
    slot_ids: tuple[int, ...]
    slot_tokens: tuple[str, ...]
    leading_ids: tuple[int, ...]
    model: ModelSpec
    prompt_length: int
    template: str
    task: Task | None
    answer_ids: tuple[int, ...]
    answer_texts: tuple[str, ...]
    embedding_scale: float
    example_text: str
    example_ids: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """Everything but the path, as plain data."""
        values = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "path"}
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        task = None if self.task is None else self.task.to_dict()
        versions = {"format_version": FORMAT_VERSION, "puma_hub_version": __version__}
        return {**versions, **plain, "model": self.model.to_dict(), "task": task}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], path: Path, where: str) -> PeftExport:
        """Rebuild from :meth:`to_dict`; unknown keys are left out. ``where`` names the adapter in messages.

        Raises:
            CheckpointError: a field is missing, or has a value that it may not have; or the format is newer.
        """
        try:
            version = require_whole(data.get("format_version"), "format_version", MAX_FORMAT)
            if version > FORMAT_VERSION:
                written_by = data.get("puma_hub_version")
                raise CheckpointError(too_new(f"{FACTS_FILE} of {where}", version, FORMAT_VERSION, written_by))
            known = {one.name: data[one.name] for one in fields(cls) if one.name != "path"}
            for name in ("slot_ids", "leading_ids", "answer_ids", "example_ids"):
                known[name] = tuple(require_whole(part, name, _LARGEST_ID, least=0) for part in known[name])
            for name in ("slot_tokens", "answer_texts"):
                known[name] = tuple(map(str, known[name]))
            known["model"] = ModelSpec.of(known["model"])
            known["template"] = PromptTemplate(known["template"]).text
            known["task"] = None if known["task"] is None else as_task(known["task"])
            require_text(known["peft_type"], "peft_type")
            known["embedding_scale"] = scale = float(known["embedding_scale"])
            if not math.isfinite(scale) or scale == 0:
                raise ValueError(f"embedding_scale {scale}")
        except CheckpointError:
            raise
        except (PumaHubError, KeyError, TypeError, ValueError, AttributeError) as error:
            reason = str(error) if isinstance(error, PumaHubError) else shown(error)
            raise CheckpointError(
                f"{FACTS_FILE} of {where} is malformed: {reason}; export the prompt again with PromptBank.to_peft"
            ) from error
        return cls(path=path, **known)
