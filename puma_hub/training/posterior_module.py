"""Prompts of a shared base as what the loop trains, and users' offsets as what it solves for at the end."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from accelerate import PartialState
from accelerate.utils import reduce

from puma_hub.scorer import PersonalizedLM
from puma_hub.training.args import PumaTrainingArguments
from puma_hub.training.encoded_rows import EncodedInteractions
from puma_hub.training.extension import Frozen
from puma_hub.training.posterior import PosteriorSolver, in_parts
from puma_hub.training.progress import Progress
from puma_hub.training.prompt_module import PromptModule
from puma_hub.training.variances import Variances


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
    """

    solved: torch.Tensor
    variances: torch.Tensor

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
        self.register_buffer("solved", torch.zeros_like(self.prompts))

    @property
    def offsets(self) -> torch.Tensor:
        return self.solved if self.variances.any() else self.prompts

    def unsolve(self) -> None:
        """Forget what was solved for, before training goes on."""
        self.solved.zero_()
        self.variances.zero_()

    def solve(self, done: int, progress: Progress) -> Iterator[int]:
        """Solve for the offsets of all users but the first ``done``; yield how many are done."""
        assert self.base is not None
        base = (self.scale * self.base).detach()
        solver = PosteriorSolver(self.lm, base, self.head, self.scale, self.args.gradient_batch_size)
        if not self.variances.any():
            found = self._known or solver.variances(self.train_rows, self._latest, self.args.seed)
            self.variances.copy_(torch.tensor([found.offset, found.noise]))
        prior = Variances(*self.variances.tolist())
        state = PartialState()
        for users, rows in in_parts(self.train_rows.users):
            if users.start < done:
                continue
            mine = users[state.process_index :: state.num_processes]
            place = torch.full((len(self.solved),), -1)
            place[list(mine)] = torch.arange(len(mine))
            part = self.train_rows.take(rows[place[self.train_rows.users[rows]] >= 0]).with_users(place)
            offsets = torch.zeros(len(users), self.solved[0].numel())
            offsets[state.process_index :: state.num_processes] = torch.from_numpy(
                solver.solve(part, prior, prior.noise, len(mine))
            )
            self.solved[users.start : users.stop] = reduce(offsets.view_as(self.solved[: len(users)]).to(self.solved))
            progress(users.stop, len(self.solved))
            yield users.stop
