"""Scoring many rows in batches, without gradients."""

from __future__ import annotations

import torch

from puma_hub.scorer.encoding import EncodedRows, Segments, text_length
from puma_hub.scorer.finite import require_finite
from puma_hub.scorer.lm import PersonalizedLM
from puma_hub.scorer.together import own_part, sum_of_parts
from puma_hub.scorer.tokens import Tokens


@torch.no_grad()
def predict_rows(
    lm: PersonalizedLM, rows: EncodedRows, prompts: torch.Tensor, users: torch.Tensor, batch_size: int
) -> torch.Tensor:
    """Answer logits ``(N, answers)`` of ``rows``; row ``i`` is scored with ``prompts[users[i]]``.

    Rows with equal text and prompts are scored once. Texts of similar length are scored together. Rows with the same
    prefix follow one another, so that each prefix is computed once even if none is kept. Inside
    :func:`puma_hub.scorer.together.scoring_together` processes share the batches.

    Raises:
        NotFiniteError: logits of some rows are NaN or infinite.
    """
    distinct: dict[tuple[Segments, int, int], int] = {}  # text and prompts: the first row that has them
    keys = zip(rows.segments, users.tolist(), rows.filled_by)
    same = [distinct.setdefault(key, row) for row, key in enumerate(keys)]
    prefixes = rows.prefixes

    def length_and_prefix(row: int) -> tuple[int, Tokens]:
        return text_length(rows.segments[row]), prefixes[row]

    order = sorted(distinct.values(), key=length_and_prefix)  # equal prefixes are neighbours
    scored = torch.zeros(len(order), len(lm.task.answers), device=lm.device)
    for start in range(0, len(order), batch_size)[own_part()]:
        numbers = order[start : start + batch_size]
        found = lm.logits(prompts[users[numbers].to(prompts.device)], rows.take(numbers))
        scored[start : start + batch_size] = found
    place = {row: number for number, row in enumerate(order)}
    logits = sum_of_parts(scored)[torch.tensor([place[row] for row in same], device=lm.device)]
    require_finite(logits, "answers", lm.dtype)
    return logits
