"""Prompts of a shared base as what the loop trains, and users' offsets as what it solves for at the end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import reduce

from puma_hub.scorer import PersonalizedLM
from puma_hub.training.args import PumaTrainingArguments
from puma_hub.training.calibration import calibration_slope
from puma_hub.training.encoded_rows import EncodedInteractions
from puma_hub.training.extension import Frozen
from puma_hub.training.linearized_rows import LinearizedRows
from puma_hub.training.posterior import PosteriorSolver, in_parts
from puma_hub.training.progress import Progress
from puma_hub.training.prompt_module import PromptModule
from puma_hub.training.variances import Variances, best_variances


class PosteriorModule(PromptModule):
    """Trains base, offsets and head together, then solves for each user's offset around the base that came of it.

    Offsets have to be there while base and head are trained: with one prompt for all, the LLM comes to rest at a base
    where predictions hardly depend on the prompt. What training makes of the offsets is not kept.

    With ``frozen`` there is nothing to train: offsets are solved for around a bank's base, with its head and, where it
    records them, its variances.

    Args:
        latest: bool ``(N,)``, which training rows are their users' last, for the variances.

    Attributes:
        solved: float32 ``(users, l, d)``, the offsets that were solved for.
        variances: float64 ``(2,)``, see :class:`Variances`; 0 before they are known.
        slope: float64 ``()``, the calibration slope; 0 before it is known, and where the bank's variances are used.
    """

    solved: torch.Tensor
    variances: torch.Tensor
    slope: torch.Tensor

    def __init__(
        self,
        lm: PersonalizedLM,
        users: int,
        train: EncodedInteractions,
        validation: EncodedInteractions,
        args: PumaTrainingArguments,
        frozen: Frozen | None = None,
        latest: torch.Tensor | None = None,
    ) -> None:
        super().__init__(lm, users, train, validation, args, frozen)
        self._latest = torch.zeros(len(train), dtype=torch.bool) if latest is None else latest
        self._known = frozen.variances if frozen is not None else None
        self.register_buffer("variances", torch.zeros(2, dtype=torch.float64, device=lm.device))
        self.register_buffer("slope", torch.zeros((), dtype=torch.float64, device=lm.device))
        self.register_buffer("solved", torch.zeros_like(self.prompts))

    @property
    def offsets(self) -> torch.Tensor:
        return self.solved if self.variances.any() else self.prompts

    def unsolve(self) -> None:
        """Forget what was solved for, before training goes on."""
        self.solved.zero_()
        self.variances.zero_()
        self.slope.zero_()

    def solve(self, done: int, progress: Progress) -> Iterator[int]:
        """Solve for the offsets of all users but the first ``done``; yield how many are done."""
        assert self.base is not None
        base = (self.scale * self.base).detach()
        solver = PosteriorSolver(self.lm, base, self.head, self.scale, self.args.gradient_batch_size)
        solved = 0
        for users, rows in in_parts(self.train_rows.users, self.args.seed):
            solved += len(users)
            if solved <= done:
                continue
            linear = None
            if not self.variances.any():
                linear = self._estimate(solver, rows)
            self._solve_part(solver, users, rows, linear)
            progress(solved, len(self.solved))
            yield solved

    def _estimate(self, solver: PosteriorSolver, rows: torch.Tensor) -> LinearizedRows | None:
        """Set the variances: the bank's, or those of ``rows``, which are then linearised around the base.

        The calibration slope is that of the same rows.
        """
        linear, found = None, self._known
        if found is None:
            part, latest = self.train_rows.take(rows), self._latest[rows].numpy()
            linear = solver.linearized(part, np.zeros((len(rows), self.solved[0].numel())))
            found = best_variances(linear, latest)
            self.slope.fill_(calibration_slope(linear, part.labels.double().numpy(), latest, found))
        self.variances.copy_(torch.tensor([found.offset, found.noise]))
        return linear

    def _solve_part(
        self, solver: PosteriorSolver, users: np.ndarray, rows: torch.Tensor, linear: LinearizedRows | None
    ) -> None:
        """Solve for ``users``, every process for some of them."""
        state = PartialState()
        share = slice(state.process_index, None, state.num_processes)
        place = torch.full((len(self.solved),), -1)
        place[users[share]] = torch.arange(len(users[share]))
        mine = place[self.train_rows.users[rows]] >= 0
        part = self.train_rows.take(rows[mine]).with_users(place)
        if linear is not None:
            own = linear.take(mine.numpy())
            linear = replace(own, users=part.users.numpy())
        prior = Variances(*self.variances.tolist())
        offsets = torch.zeros(len(users), self.solved[0].numel())
        offsets[share] = torch.from_numpy(solver.solve(part, prior, prior.noise, len(users[share]), first=linear))
        solved = offsets.view(-1, *self.solved.shape[1:]).to(self.solved)
        self.solved[torch.from_numpy(users)] = reduce(solved, reduction="sum")  # 0 where others have solved
