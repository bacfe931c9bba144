"""The base class of both trainers: callbacks, evaluation and the training loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from transformers import DefaultFlowCallback, TrainerCallback
from transformers.trainer_callback import CallbackHandler

from puma_hub.errors import ConfigurationError
from puma_hub.scorer import PersonalizedLM
from puma_hub.training.args import PumaTrainingArguments
from puma_hub.training.encoded_rows import EncodedInteractions
from puma_hub.training.loop import Loop, RowCounts
from puma_hub.training.module import TrainedModule
from puma_hub.training.progress import Progress, ProgressCallback
from puma_hub.training.trackers import TrackerCallback

Callback = TrainerCallback | type[TrainerCallback]
Resume = str | Path | bool | None


class BaseTrainer:
    """Handles callbacks, evaluation and the training loop.

    Attributes:
        report: the report of the last ``train()``.
    """

    kind = "training"

    def __init__(self, lm: PersonalizedLM, args: PumaTrainingArguments, callbacks: Sequence[Callback] | None) -> None:
        self.lm, self.args = lm, args
        own: list[Callback] = [DefaultFlowCallback()]
        if not args.disable_tqdm:
            own.append(ProgressCallback(self.kind))
        if args.trackers:
            own.append(TrackerCallback(args, self.kind))
        self.callback_handler = CallbackHandler([*own, *(callbacks or ())], None, lm.tokenizer, None, None)
        self.report: dict[str, Any] = {}
        self._trained: TrainedModule | None = None

    def add_callback(self, callback: Callback) -> None:
        """Add a callback of transformers; a class is instantiated."""
        self.callback_handler.add_callback(callback)

    def remove_callback(self, callback: Callback) -> None:
        """Remove a callback, or the first one of a class, for example ``ProgressCallback``."""
        self.callback_handler.remove_callback(callback)

    def evaluate(self) -> dict[str, float]:
        """``eval_loss`` and the task's metrics on the validation rows.

        Before ``train()`` the initial weights are evaluated, afterwards the trained ones.

        Raises:
            ConfigurationError: there are no validation rows.
        """
        module = self._trained if self._trained is not None else self._module()
        if not len(module.validation_rows):
            raise ConfigurationError(
                f"there are no validation rows (validation_share={self.args.validation_share}); give a larger share, "
                "or evaluate rows of your own with puma_hub.evaluate_bank"
            )
        return module.evaluate()

    def _module(self) -> TrainedModule:
        """A new module with the initial weights."""
        raise NotImplementedError

    def _loop(
        self,
        module: TrainedModule,
        rows: RowCounts,
        identity: str,
        encoded: EncodedInteractions,
        resume: Resume,
        begin: Callable[[Progress], None] | None = None,
    ) -> Loop:
        self._trained = None
        prepare = partial(self.lm.fill_cache, encoded.rows)
        return Loop(module, rows, self.args, identity, self.callback_handler, prepare, begin, resume)
