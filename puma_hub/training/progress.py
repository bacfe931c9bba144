"""Progress bars of training and of the work before its first step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState

Progress = Callable[[int, int], None]
"""A function that is called with the number of things done and the number of all things."""

_SHOWN = {"loss": "loss", "eval_loss": "validation"}  # logged name: name on the bar


def no_progress(done: int, total: int) -> None:
    """Show nothing."""


class ProgressCallback(TrainerCallback):
    """Shows one bar for each part before the first step, and one for the steps, with the latest losses.

    Args:
        label: the name on the bar of the steps.
    """

    def __init__(self, label: str = "training") -> None:
        self.label = label
        self.bar: Any = None
        self.losses: dict[str, float] = {}

    @contextmanager
    def part(self, label: str, unit: str) -> Iterator[Progress]:
        """A separate bar for a part before the steps, such as filling the prefix cache."""
        with tqdm(desc=label, unit=unit) as bar:

            def show(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            yield show

    def on_epoch_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.bar is None and state.is_world_process_zero:
            self.bar = tqdm(desc=self.label, unit="step", total=state.max_steps, initial=state.global_step)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if self.bar is not None:
            self.losses |= {_SHOWN[name]: round(value, 4) for name, value in (logs or {}).items() if name in _SHOWN}
            self.bar.set_postfix(self.losses)

    def close(self) -> None:
        """Close the bar; called at the end of training, also after an error."""
        if self.bar is not None:
            self.bar.close()
            self.bar, self.losses = None, {}
