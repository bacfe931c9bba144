"""Drawing the next token of each text in its own way, so that texts of any options share a batch."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import torch
from transformers import LogitsProcessor

from puma_hub.serving.service.backend import Sampling

_LEAST = 1e-5  # temperatures below are taken for 0: quotients by them are no numbers any more


class RowSampling(LogitsProcessor):
    """Replaces each row's scores by ones whose maximum is the drawn token: ``model.generate`` then takes the maximum.

    A token is drawn with the Gumbel-max trick (Gumbel, 1954): the maximum of ``log p + g``, with ``g`` from the
    standard Gumbel distribution, has the distribution ``p``. Each row has a generator of its own, so its draws do not
    depend on the others.

    Args:
        samplings: of each row.
        seeds: of each row.
    """

    def __init__(self, samplings: Sequence[Sampling], seeds: Sequence[int]) -> None:
        self._rows = [row for row, sampling in enumerate(samplings) if sampling.temperature > _LEAST]
        self._drawn = [samplings[row] for row in self._rows]
        self._seeds = [seeds[row] for row in self._rows]
        self._generators: list[torch.Generator] = []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        if not self._rows:
            return scores
        device = scores.device
        if not self._generators:
            self._generators = [torch.Generator(device).manual_seed(seed) for seed in self._seeds]
        temperatures = torch.tensor([[one.temperature] for one in self._drawn], device=device)
        logs = (scores[self._rows].float() / temperatures).log_softmax(-1)
        logs = _most_likely(logs, torch.tensor([[one.top_p] for one in self._drawn], device=device))
        noise = [torch.empty_like(logs[0]).exponential_(generator=generator) for generator in self._generators]
        chosen = scores.float().clone()
        chosen[self._rows] = logs - torch.stack(noise).log()  # -log of an exponential variable is a Gumbel one
        return chosen  # type: ignore[return-value]


def _most_likely(logs: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """``logs (B, V)`` with -inf for all but the most likely tokens that together have the probability ``shares``.

    The most likely one stays in any case (Holtzman et al., 2020, section 3.1).
    """
    if bool((shares >= 1).all()):
        return logs
    ordered, order = logs.sort(-1, descending=True)
    before = ordered.exp().cumsum(-1) - ordered.exp()
    out = (before >= shares) & (shares < 1)
    out[:, 0] = False
    return logs.masked_fill(torch.zeros_like(out).scatter(-1, order, out), float("-inf"))


def seeds_of(sampling: Sampling, answers: int) -> list[int]:
    """A seed for each answer: the same each time if the request has one."""
    if sampling.seed is None:
        return [secrets.randbits(63) for _ in range(answers)]
    return [(sampling.seed + number) % 2**63 for number in range(answers)]
