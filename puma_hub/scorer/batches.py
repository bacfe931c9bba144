"""Scoring many rows without gradients, a batch at a time."""

from __future__ import annotations

import torch

from puma_hub.scorer.encoding import EncodedRows
from puma_hub.scorer.lm import PersonalizedLM


@torch.no_grad()
def predict_rows(
    lm: PersonalizedLM, rows: EncodedRows, prompts: torch.Tensor, users: torch.Tensor, batch_size: int
) -> torch.Tensor:
    """Answer logits ``(N, answers)`` of ``rows``; row ``i`` is scored with ``prompts[users[i]]``."""
    parts = []
    for start in range(0, len(rows), batch_size):
        numbers = range(start, min(start + batch_size, len(rows)))
        chosen = users[start : start + batch_size].to(prompts.device)
        parts.append(lm.logits(prompts[chosen], rows.take(numbers)))
    return torch.cat(parts)
