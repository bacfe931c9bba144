"""One training loop for prompts and adapters, on Accelerate.

Why not ``transformers.Trainer``? Its checkpoints are pickles (``optimizer.pt``, ``training_args.bin``,
``rng_state.pth``), written one after the other. A process killed in between leaves a checkpoint that cannot be resumed.
Here the whole state is one safetensors file that is renamed into place. Everything random follows from the seed and the
step, so a resumed run equals an uninterrupted one.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers.trainer_callback import CallbackHandler

from puma_hub.errors import CheckpointError, ConfigurationError
from puma_hub.scorer.finite import not_finite, rows_not_finite
from puma_hub.scorer.together import scoring_together
from puma_hub.storage import write_json
from puma_hub.training.args import PumaTrainingArguments
from puma_hub.training.events import Events
from puma_hub.training.module import TrainedModule
from puma_hub.training.progress import Progress
from puma_hub.training.report import require_own_report
from puma_hub.training.schedule import go_to, make_schedule
from puma_hub.training.state import STATE_FILE, RunState, load_state, save_state

REPORT_FILE = "report.json"
_LOWER = "use a lower learning rate"


@dataclass(frozen=True)
class RowCounts:
    """The numbers of rows in a training pass and in a validation pass.

    ``others`` counts rows that have a place in the order of a training pass but are not computed. Their numbers follow
    those of the training rows.
    """

    training: int
    validation: int
    others: int = 0


class Loop:
    """Runs the epochs of one module and keeps its best weights.

    Args:
        module: the module to train.
        rows: the numbers of training and validation rows.
        args: complete arguments, with no field left at None by the trainer.
        identity: a hash of all that decides the result.
        handler: the callbacks.
        prepare: called once before the first step, to fill the prefix cache. It reports its progress.
        begin: called once before the first epoch, to compute the module's initial weights. It reports its progress.
            These weights are epoch 0 in the choice of the best epoch.
        resume: see :meth:`PromptTrainer.train`.
    """

    def __init__(
        self,
        module: TrainedModule,
        rows: RowCounts,
        args: PumaTrainingArguments,
        identity: str,
        handler: CallbackHandler,
        prepare: Callable[[Progress], None],
        begin: Callable[[Progress], None] | None = None,
        resume: str | Path | bool | None = None,
    ) -> None:
        self.module, self.rows, self.args = module, rows, args
        self.prepare, self.begin, self.resume = prepare, begin, resume
        assert args.num_train_epochs is not None and args.per_device_train_batch_size  # filled by the trainer
        self.epochs = args.num_train_epochs
        # Accelerate has to be told of several processes on CPUs. With one process, the device may change between runs.
        processes = int(os.environ.get("WORLD_SIZE", 1))
        cpu = next(module.parameters()).device.type == "cpu" and (processes > 1 or not torch.cuda.is_available())
        self.accelerator = Accelerator(cpu=cpu, step_scheduler_with_optimizer=False)
        self.batch = (
            args.per_device_train_batch_size * self.accelerator.num_processes * args.gradient_accumulation_steps
        )
        self.identity = f"{identity}-{self.batch}"  # the number of processes changes the steps
        self.steps = math.ceil((rows.training + rows.others) / self.batch)
        self.optimizer = torch.optim.AdamW(module.parameter_groups(), weight_decay=0.0)
        self.schedule = make_schedule(args, self.optimizer, self.epochs * self.steps)
        self.evaluates = rows.validation > 0 and args.eval_strategy != "no"
        handler.model, handler.optimizer, handler.lr_scheduler = module.model, self.optimizer, self.schedule
        self.events = Events(handler, args, self.accelerator, self.steps, self.evaluates)
        self.state = RunState()
        self.best: dict[str, torch.Tensor] = {}
        self._saved_at = time.monotonic()

    def run(self) -> RunState:
        """Train to the end, from the last checkpoint if there is one, and load the best weights."""
        self._restore()
        if not self.state.finished:
            try:
                self._train()
            finally:
                self.events.close()
        self.module.load_state_dict(self.best)
        return self.state

    def write_report(self, report: dict[str, Any]) -> None:
        """Write ``report`` beside the checkpoint, from one process."""
        if self.args.output_dir is not None and self.accelerator.is_main_process:
            write_json(f"{self.args.output_dir}/{REPORT_FILE}", report)

    def _train(self) -> None:
        state, events = self.state, self.events
        events.begin(state)
        with self.timed("prefix_cache"), events.part("prefix cache", "prefix") as progress:
            self.prepare(progress)
        if self.begin is not None and not state.begun:
            with self.timed("start"), events.part("start", "row") as progress:
                self.begin(progress)
            state.begun = True
            self._judge()
            self._save()
        if self._goes_on and not state.solving:
            # The module stays on the device of its LLM.
            model, optimizer = self.accelerator.prepare(self.module, self.optimizer, device_placement=[False, False])
            while self._goes_on:
                self._epoch(model, optimizer)
        if not self.best:  # there is no epoch, or a callback ended training before the first validation
            self._judge()
        self._solve()
        running = state.seconds["training"] + state.seconds["validation"]
        per_second = state.rows["training"] / max(state.seconds["training"], 1e-9)
        events.log(state, {"train_runtime": running, "train_samples_per_second": per_second})
        state.finished = True
        self._save()
        events.call("on_train_end", state)

    @property
    def _goes_on(self) -> bool:
        """Whether there is another epoch."""
        return self.state.epoch < self.epochs and not (self.state.stopped and not self.state.epoch_step)

    def _solve(self) -> None:
        """Take the best weights, and solve for what is not trained."""
        state = self.state
        if not state.solving:
            self.module.load_state_dict(self.best)
            state.solving = True
        with self.timed("solving"), self.events.part("posterior", "user") as progress:
            for done in self.module.solve(state.solved, progress):
                state.solved = done
                if time.monotonic() - self._saved_at >= self.args.checkpoint_seconds:
                    self._save()
        self.best = self._weights()

    def _weights(self) -> dict[str, torch.Tensor]:
        return {name: tensor.detach().cpu().clone() for name, tensor in self.module.state_dict().items()}

    def _epoch(self, model: Any, optimizer: Any) -> None:
        state, events = self.state, self.events
        events.call("on_epoch_begin", state)
        order = self._order(state.epoch)
        while state.epoch_step < self.steps and not state.epoch_ends:
            events.call("on_step_begin", state)
            self._step(model, optimizer, order)
            events.call("on_step_end", state)
            if time.monotonic() - self._saved_at >= self.args.checkpoint_seconds:
                events.control.should_save = True
            events.agree()
            self._log_and_evaluate()
            state.epoch_ends = state.stopped or events.control.should_epoch_stop
            if events.control.should_save:
                self._save()
        # The mean over the steps taken: a callback may have ended the epoch early.
        state.losses.append(state.epoch_loss * (self.steps / max(1, state.epoch_step)))
        state.passes += state.epoch_step / self.steps
        events.call("on_epoch_end", state)
        events.control.should_log = True
        events.agree()
        self._log_and_evaluate()
        if not self.evaluates:
            self._judge()
        state.epoch, state.epoch_step, state.epoch_loss, state.epoch_ends = state.epoch + 1, 0, 0.0, False
        self._save()

    def _step(self, model: Any, optimizer: Any, order: torch.Tensor) -> None:
        """One optimizer step, over one batch or several."""
        state = self.state
        rows = self._batch(order, state.epoch_step)
        batches = rows.split(self.args.per_device_train_batch_size or len(rows))
        with self.timed("training"):
            torch.manual_seed(self.args.seed * 1_000_003 + state.step)  # dropout
            self.module.begin_step()
            mean_loss = 0.0
            for number, batch in enumerate(batches, start=1):
                last = number == len(batches)
                with nullcontext() if last else self.accelerator.no_sync(model):
                    mean_loss += self._backward(model, batch, len(batch) / len(rows))
                if not last:
                    self.events.call("on_substep_end", state)
            self._require_gradients()
            if clipped := self.module.clipped_parameters():
                self.accelerator.clip_grad_norm_(clipped, self.args.max_grad_norm)
            self.events.call("on_pre_optimizer_step", state)
            optimizer.step()
            self.events.call("on_optimizer_step", state)
            self.schedule.step()
            optimizer.zero_grad()
        state.step += 1
        state.epoch_step += 1
        state.rows["training"] += int((rows < self.rows.training).sum()) * self.accelerator.num_processes
        state.epoch_loss += mean_loss / self.steps
        state.logged_loss += mean_loss

    def _backward(self, model: Any, batch: torch.Tensor, share: float) -> float:
        """Add the gradients of a batch and return its part of the loss; ``share`` is its share of the step's rows."""
        loss = model(batch) if share == 1.0 else share * model(batch)
        # All processes get the same mean, so they continue or stop together.
        mean_loss = float(self.accelerator.reduce(loss.detach(), reduction="mean"))
        if not math.isfinite(mean_loss):
            raise self._diverged(mean_loss)
        self.accelerator.backward(loss)
        return mean_loss

    def _log_and_evaluate(self) -> None:
        """Log and evaluate if a callback requests it. transformers' default callback follows the arguments."""
        state, control = self.state, self.events.control
        requested = control.should_log or control.should_evaluate
        if control.should_log and state.step > state.logged_step:
            loss = state.logged_loss / (state.step - state.logged_step)
            state.logged_step, state.logged_loss = state.step, 0.0
            self.events.log(state, {"loss": loss, "learning_rate": self.schedule.get_last_lr()[0]})
        if control.should_evaluate and self.evaluates:
            self._judge()
        if requested:
            self.events.agree()
        state.stopped = self.events.control.should_training_stop

    def _judge(self) -> None:
        """Validate. Keep the weights if they are the best so far, or if there is no validation."""
        state = self.state
        epoch = state.epoch + state.epoch_step / self.steps
        epoch = int(epoch) if epoch == int(epoch) else epoch
        with self.timed("validation"):
            if not all(tensor.isfinite().all() for tensor in self.module.state_dict().values()):
                raise ConfigurationError(f"trained weights are NaN or infinite after epoch {epoch:.4g}; {_LOWER}")
            with scoring_together():
                metric = self.module.validate() if self.evaluates else None
            if metric is not None and not math.isfinite(metric):
                raise ConfigurationError(f"the validation loss is {metric} after epoch {epoch:.4g}; {_LOWER}")
        if state.step:
            state.metrics.append(metric)
        better = metric is None or state.best_metric is None or metric < state.best_metric
        if metric is not None:
            state.rows["validation"] += self.rows.validation
            self.events.log(state, {"eval_loss": metric})
            self.events.call("on_evaluate", state, metrics={"eval_loss": metric})  # state has the previous best
        if better:
            state.best_epoch, state.best_metric, state.best_step = epoch, metric, state.step
            state.best_evaluation = state.evaluations
            self.best = self._weights()

    def _diverged(self, loss: float) -> Exception:
        """The error for a loss that is not finite. All processes call this and get the same error."""
        logits = self.module.logits
        counts = rows_not_finite(logits) if logits is not None else torch.zeros(2, dtype=torch.int64)
        bad, rows = self.accelerator.reduce(counts.to(self.accelerator.device)).tolist()
        at = f"at step {self.state.step + 1}"
        if bad and all(parameter.isfinite().all() for parameter in self.module.parameters()):
            return not_finite(f"{at} the answers of {bad} of {rows} rows are", self.module.lm.dtype)
        return ConfigurationError(f"the loss is {loss} {at}; {_LOWER}")

    def _require_gradients(self) -> None:
        """Check that the gradients, which have been summed over all processes, are finite."""
        gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
        if not torch.stack([gradient.isfinite().all() for gradient in gradients]).all():
            bad = sum(int((~gradient.isfinite()).sum()) for gradient in gradients)
            numbers = sum(gradient.numel() for gradient in gradients)
            at = f"at step {self.state.step + 1}"
            raise not_finite(f"{at} {bad} of {numbers} numbers of the gradient are", self.module.lm.dtype)

    def _order(self, epoch: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(self.args.seed * 7_919 + epoch)
        return torch.randperm(self.rows.training + self.rows.others, generator=generator)

    def _batch(self, order: torch.Tensor, step: int) -> torch.Tensor:
        """This process's rows of a step. If a last step cannot be split evenly, rows from the start fill it up."""
        rows = order[step * self.batch : (step + 1) * self.batch]
        processes = self.accelerator.num_processes
        if processes == 1:
            return rows
        short = -len(rows) % processes
        rows = torch.cat([rows, order[:short]]) if short else rows
        return rows[self.accelerator.process_index :: processes]

    def _restore(self) -> None:
        """Load a checkpoint as ``resume`` says, and check that it belongs to this run."""
        folder = self.args.output_dir
        if folder is not None:
            require_own_report(Path(folder, REPORT_FILE))
        saved = folder is not None and Path(folder, STATE_FILE).is_file()
        if self.resume is None:
            source = folder if saved else None
        elif self.resume is True:
            if folder is None:
                raise ConfigurationError("resume_from_checkpoint=True needs an output_dir; give one, or give a folder")
            source = folder
        else:
            source = str(self.resume) if self.resume else None
        if source is not None:
            self.state, self.best = load_state(source, self.identity, self.module, self.optimizer)
            self._extend(source)
            go_to(self.schedule, self.state.step)
        self.state.num_train_epochs = self.epochs
        self.accelerator.wait_for_everyone()  # all processes have read the file before one of them replaces it
        if saved and self.resume is False and self.accelerator.is_main_process:
            Path(str(folder), STATE_FILE).unlink()

    def _extend(self, source: str) -> None:
        """Continue a finished run if it is to have more epochs than before."""
        before = self.state.num_train_epochs
        if self.epochs < before:
            raise CheckpointError(
                f"the run in {source} was for {before} epochs, num_train_epochs={self.epochs} was given; give at least "
                "as many, or train with resume_from_checkpoint=False or in another folder"
            )
        if self.epochs > before:
            self.state.finished = self.state.stopped = self.state.solving = False
            self.state.solved = 0
            self.module.unsolve()

    def _save(self) -> None:
        self._saved_at = time.monotonic()
        self.state.callbacks = self.events.callback_states()
        if self.args.output_dir is not None:
            if self.accelerator.is_main_process:
                save_state(self.args.output_dir, self.identity, self.state, self.module, self.optimizer, self.best)
            self.events.call("on_save", self.state)

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add the time spent inside the context to ``part`` of the state's seconds."""
        start = time.monotonic()
        yield
        self.state.seconds[part] += time.monotonic() - start
