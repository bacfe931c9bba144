"""One training loop for prompts and adapters, on Accelerate.

Not ``transformers.Trainer``: its checkpoints are pickles (``optimizer.pt``, ``training_args.bin``, ``rng_state.pth``)
written one after the other, so a kill between two of them leaves a checkpoint that cannot be resumed. Here the
whole state is one safetensors file that is renamed into place, and everything random follows from the seed and
the step, so a resumed run equals an uninterrupted one.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import nn
from tqdm.auto import tqdm
from transformers import get_scheduler

from puma_hub.errors import ConfigurationError
from puma_hub.scorer.finite import not_finite, rows_not_finite
from puma_hub.storage import write_json
from puma_hub.training.args import PumaTrainingArguments
from puma_hub.training.report import require_own_report
from puma_hub.training.state import RunState, load_state, save_state

REPORT_FILE = "report.json"
_LOWER = "use a lower learning rate"
Progress = Callable[[int, int], None]


class TrainingModule(Protocol):
    """What the loop needs of the module that trains; calling it with row numbers gives the loss.

    ``dtype`` is the LLM's, ``logits`` what it said in the last step of this process.
    """

    dtype: torch.dtype
    logits: torch.Tensor | None

    def parameter_groups(self) -> list[dict[str, Any]]: ...
    def clipped_parameters(self) -> list[nn.Parameter]: ...
    def validate(self) -> float: ...


@dataclass(frozen=True)
class RowCounts:
    """Rows a training pass and a validation pass go over.

    ``others`` take their places in the order of a training pass, with numbers past those of the training rows.
    """

    training: int
    validation: int
    others: int = 0


def _show(bar: Any, done: int, total: int) -> None:
    bar.total = total
    bar.update(done - bar.n)


class Loop:
    """Runs the epochs of one module and keeps its best weights.

    Args:
        module: an ``nn.Module`` that follows :class:`TrainingModule`.
        rows: how many rows there are to train and to validate on.
        args: filled arguments.
        identity: a hash of what decides the result.
        prepare: called once before the first step, for what is computed ahead (the prefix cache); it reports how much
            is done, and of how much.
        label: the name on the progress bar.
        begin: called once before the first step of the first epoch, to bring the module where training starts; it
            reports likewise. What it leads to is a candidate for the best weights, as epoch 0.
    """

    def __init__(
        self,
        module: Any,
        rows: RowCounts,
        args: PumaTrainingArguments,
        identity: str,
        prepare: Callable[[Progress], None],
        label: str,
        begin: Callable[[Progress], None] | None = None,
    ) -> None:
        self.module = module
        self.rows = rows
        self.args = args
        self.prepare = prepare
        self.label = label
        self.begin = begin
        assert args.num_train_epochs is not None and args.per_device_train_batch_size  # filled by the trainer
        self.epochs = args.num_train_epochs
        # Several processes on CPU have to say so; one process may train on any device after any other.
        processes = int(os.environ.get("WORLD_SIZE", 1))
        cpu = next(module.parameters()).device.type == "cpu" and (processes > 1 or not torch.cuda.is_available())
        self.accelerator = Accelerator(cpu=cpu, step_scheduler_with_optimizer=False)
        self.batch = args.per_device_train_batch_size * self.accelerator.num_processes
        self.identity = f"{identity}-{self.batch}"  # other numbers of processes make other steps
        self.steps = math.ceil((rows.training + rows.others) / self.batch)
        self.optimizer = torch.optim.AdamW(module.parameter_groups(), weight_decay=0.0)
        try:
            total = max(1, self.epochs * self.steps)
            self.scheduler = get_scheduler(args.lr_scheduler_type, self.optimizer, 0, total)
        except (ValueError, TypeError) as error:
            raise ConfigurationError(f"lr_scheduler_type {args.lr_scheduler_type!r} cannot be used: {error}") from error
        if not hasattr(self.scheduler, "lr_lambdas"):
            raise ConfigurationError(
                f"lr_scheduler_type {args.lr_scheduler_type!r} depends on more than the step, so a run could not be "
                "resumed exactly; use one such as cosine, linear or constant"
            )
        self.state = RunState()
        self.best: dict[str, torch.Tensor] = {}
        self._saved_at = time.monotonic()

    def run(self) -> RunState:
        """Train from the last checkpoint, if there is one, to the end; load the best weights."""
        self._resume()
        if not self.state.finished:
            with self.timed("prefix_cache"), self._bar("prefix cache", "prefix") as bar:
                self.prepare(partial(_show, bar))
            if self.begin is not None and not self.state.begun:
                with self.timed("start"), self._bar("start", "row") as bar:
                    self.begin(partial(_show, bar))
                self.state.begun = True
                self._judge(0)
                self._save()
            # The module stays where its LLM is.
            model, optimizer = self.accelerator.prepare(self.module, self.optimizer, device_placement=[False, False])
            with self._bar(self.label, "step", total=self.epochs * self.steps, initial=self.state.step) as bar:
                while self.state.epoch < self.epochs:
                    self._epoch(model, optimizer, bar)
            self.state.finished = True
            self._save()
        self.module.load_state_dict(self.best)
        return self.state

    def _bar(self, label: str, unit: str, **numbers: int) -> Any:
        hidden = self.args.disable_tqdm or not self.accelerator.is_main_process
        return tqdm(desc=label, unit=unit, disable=hidden, **numbers)

    def write_report(self, report: dict[str, Any]) -> None:
        """Write ``report`` beside the checkpoint, from one process."""
        if self.args.output_dir is not None and self.accelerator.is_main_process:
            write_json(f"{self.args.output_dir}/{REPORT_FILE}", report)

    def _epoch(self, model: Any, optimizer: Any, bar: Any) -> None:
        state = self.state
        order = self._order(state.epoch)
        while state.step < (state.epoch + 1) * self.steps:
            rows = self._batch(order, state.step - state.epoch * self.steps)
            with self.timed("training"):
                torch.manual_seed(self.args.seed * 1_000_003 + state.step)  # dropout
                loss = model(rows)
                # The mean over all processes, which is the same for all: they go on, or stop, together.
                mean_loss = float(self.accelerator.reduce(loss.detach(), reduction="mean"))
                if not math.isfinite(mean_loss):
                    raise self._diverged(mean_loss)
                self.accelerator.backward(loss)
                self._require_gradients()
                if clipped := self.module.clipped_parameters():
                    self.accelerator.clip_grad_norm_(clipped, self.args.max_grad_norm)
                optimizer.step()
                self.scheduler.step()
                optimizer.zero_grad()
            state.step += 1
            state.rows["training"] += int((rows < self.rows.training).sum()) * self.accelerator.num_processes
            state.epoch_loss += mean_loss / self.steps
            bar.update()
            if time.monotonic() - self._saved_at >= self.args.checkpoint_seconds:
                self._save()
        metric = self._judge(state.epoch + 1)
        state.metrics.append(metric)
        state.losses.append(state.epoch_loss)
        state.epoch, state.epoch_loss = state.epoch + 1, 0.0
        bar.set_postfix(loss=round(state.losses[-1], 4), validation=metric and round(metric, 4))
        self._save()

    def _judge(self, epoch: int) -> float | None:
        """Validate, and keep the weights where they are the best so far or there is nothing to choose by."""
        state = self.state
        with self.timed("validation"):
            if not all(tensor.isfinite().all() for tensor in self.module.state_dict().values()):
                raise ConfigurationError(f"what trains is NaN or infinite after epoch {epoch}; {_LOWER}")
            metric = self.module.validate() if self.rows.validation else None
            if metric is not None and not math.isfinite(metric):
                raise ConfigurationError(f"the validation loss is {metric} after epoch {epoch}; {_LOWER}")
        state.rows["validation"] += self.rows.validation
        if metric is None or state.best_metric is None or metric < state.best_metric:
            state.best_epoch, state.best_metric = epoch, metric
            self.best = {name: tensor.detach().cpu().clone() for name, tensor in self.module.state_dict().items()}
        return metric

    def _diverged(self, loss: float) -> Exception:
        """Why the loss is not finite; all processes call it, and all get the same."""
        logits = self.module.logits
        counts = rows_not_finite(logits) if logits is not None else torch.zeros(2, dtype=torch.int64)
        bad, rows = self.accelerator.reduce(counts.to(self.accelerator.device)).tolist()
        at = f"at step {self.state.step + 1}"
        if bad and all(parameter.isfinite().all() for parameter in self.module.parameters()):
            return not_finite(f"{at} the answers of {bad} of {rows} rows are", self.module.dtype)
        return ConfigurationError(f"the loss is {loss} {at}; {_LOWER}")

    def _require_gradients(self) -> None:
        """Refuse gradients that are not finite; they have been summed over all processes."""
        gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
        if not torch.stack([gradient.isfinite().all() for gradient in gradients]).all():
            bad = sum(int((~gradient.isfinite()).sum()) for gradient in gradients)
            numbers = sum(gradient.numel() for gradient in gradients)
            at = f"at step {self.state.step + 1}"
            raise not_finite(f"{at} {bad} of {numbers} numbers of the gradient are", self.module.dtype)

    def _order(self, epoch: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(self.args.seed * 7_919 + epoch)
        return torch.randperm(self.rows.training + self.rows.others, generator=generator)

    def _batch(self, order: torch.Tensor, step: int) -> torch.Tensor:
        """This process's rows of a step; the last step of several processes wraps round to equal parts."""
        rows = order[step * self.batch : (step + 1) * self.batch]
        processes = self.accelerator.num_processes
        if processes == 1:
            return rows
        short = -len(rows) % processes
        rows = torch.cat([rows, order[:short]]) if short else rows
        return rows[self.accelerator.process_index :: processes]

    def _resume(self) -> None:
        if self.args.output_dir is None:
            return
        require_own_report(Path(self.args.output_dir, REPORT_FILE))
        restored = load_state(self.args.output_dir, self.identity, self.module, self.optimizer)
        if restored is not None:
            self.state, self.best = restored
            # The rates follow from the step alone; stepping the scheduler through would warn about its order.
            self.scheduler.last_epoch = self.state.step
            for group, rate in zip(self.optimizer.param_groups, self._rates()):
                group["lr"] = rate

    def _rates(self) -> list[float]:
        scheduler: Any = self.scheduler
        return [base * scale(self.state.step) for base, scale in zip(scheduler.base_lrs, scheduler.lr_lambdas)]

    def _save(self) -> None:
        self._saved_at = time.monotonic()
        if self.args.output_dir is not None and self.accelerator.is_main_process:
            save_state(self.args.output_dir, self.identity, self.state, self.module, self.optimizer, self.best)

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add the seconds of what is done inside to ``part`` of the state's."""
        start = time.monotonic()
        yield
        self.state.seconds[part] += time.monotonic() - start
