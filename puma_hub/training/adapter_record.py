"""What an adapter records of its source banks, and of the target bank that it makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from puma_hub.adapter import PumaAdapter
from puma_hub.adapter.mapping import map_prompts
from puma_hub.adapter.trained_on import SourceBank, TrainedOn
from puma_hub.bank import BankStatistics
from puma_hub.scorer import EncodedRows, PersonalizedLM
from puma_hub.training.sensitivity import mean_response

_PROMPTS_AT_ONCE = 4096


@torch.no_grad()
def record_banks(adapter: PumaAdapter, prompts: np.ndarray, statistics: Sequence[BankStatistics]) -> None:
    """The source banks, and the mean and spread of the target bank.

    Args:
        prompts: of the source banks' users, float32 ``(N, l, sum of sizes)``.
        statistics: of each source bank.
    """
    migrated, distances = map_prompts(adapter, prompts, _PROMPTS_AT_ONCE)
    target = BankStatistics.alone(migrated)
    adapter.output_mean.copy_(torch.from_numpy(np.array(target.mean)))
    sources = tuple(SourceBank(part.base_id, part.spread, part.users) for part in statistics)
    adapter.config.trained_on = TrainedOn(sources, float(distances.max()), target.spread, target.users)


def record_response(adapter: PumaAdapter, lm: PersonalizedLM, rows: EncodedRows, batch_size: int) -> None:
    """The sensitivity and the mean answers of the target LLM at the mean of the target bank, which is recorded already.

    Raises:
        NotFiniteError: gradients are NaN or infinite.
    """
    mean = adapter.output_mean.detach().clone().cpu()
    sensitivity, answers = mean_response(lm, rows, mean, adapter.head, batch_size)
    with torch.no_grad():
        adapter.output_sensitivity.copy_(torch.from_numpy(sensitivity))
    known = adapter.config.trained_on
    assert known is not None  # record_banks comes first
    adapter.config.trained_on = replace(known, mean_answers=tuple(answers))
