"""Base, linear map and head of an adapter, solved for on a thousand rows or so by Gauss-Newton.

Around where it is, a prediction is nearly linear in the soft prompt. One backward pass a row gives the whole gradient
in the prompt, where a step of gradient descent uses no more of it than the loss's slope; least squares over the rows
seen so far use it all. With a Gaussian prior on what moves, the solution is a combination of the rows' own gradients
(kernel ridge regression; Rasmussen & Williams, Gaussian Processes for Machine Learning, sections 2.1 and 2.2), so the
system has one unknown a row whatever the sizes of the models. Every step takes new rows at the point reached and
trusts the gradients taken farther back a little less.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from puma_hub.adapter import PumaAdapter
from puma_hub.scorer import PersonalizedLM
from puma_hub.scorer.finite import require_finite
from puma_hub.tasks import RatingHead, Task
from puma_hub.training.encoded_rows import EncodedInteractions

ROWS_A_STEP = 64
# Standard deviations of the prior: a coordinate of the base, and of the offset of a user like the average one, in
# embedding RMS; a weight of the head.
BASE_SCALE, MAP_SCALE, HEAD_SCALE = 4.0, 3.0, 1.0
# What a linear prediction is off by, in standard deviations of the targets, or in what the newest predictions lack
# where that is more: the farther to go, the less a gradient says.
NOISE = 0.6
FADING = 1.1  # by which the variance of rows' noise grows with each step that follows
_LEAST_NOISE = 1e-3  # where all targets are one and met


@dataclass(frozen=True)
class LinearRows:
    """Rows' predictions to first order in base, map and head, counted from where the adapter began.

    ``targets (M,)`` are what is to be added to the predictions there; ``prompt_gradients (M, l, d)`` are by the
    prompt in units of the output scale, ``head_gradients (M, h)`` by the head's weights; ``inputs (M, l, s)`` are the
    network's.
    """

    targets: torch.Tensor
    prompt_gradients: torch.Tensor
    head_gradients: torch.Tensor
    inputs: torch.Tensor


@dataclass(frozen=True)
class Change:
    """What is added to base ``(l, d)``, linear map ``(d, s)`` and the head's weights ``(h,)``."""

    base: torch.Tensor
    map: torch.Tensor
    head: torch.Tensor

    def of_predictions(self, rows: LinearRows) -> torch.Tensor:
        """What it adds to the rows' predictions, to first order."""
        prompts = self.base + rows.inputs @ self.map.T
        return (rows.prompt_gradients * prompts).sum((1, 2)) + rows.head_gradients @ self.head


def solve(rows: LinearRows, variances: torch.Tensor, map_scale: float) -> Change:
    """The most likely change where the rows' noise has ``variances (M,)``: ridge regression in the dual form."""
    gradients, inputs = rows.prompt_gradients, rows.inputs
    kernel = BASE_SCALE**2 * gradients.flatten(1) @ gradients.flatten(1).T
    for first in range(gradients.shape[1]):
        for second in range(gradients.shape[1]):
            alike = inputs[:, first] @ inputs[:, second].T
            kernel += map_scale**2 * alike * (gradients[:, first] @ gradients[:, second].T)
    kernel += HEAD_SCALE**2 * rows.head_gradients @ rows.head_gradients.T
    system = (kernel + torch.diag(variances)).double()
    shares = torch.linalg.solve(system, rows.targets.double()).float()
    weighted = shares[:, None, None] * gradients
    return Change(
        base=BASE_SCALE**2 * weighted.sum(0),
        map=map_scale**2 * weighted.flatten(0, 1).T @ inputs.flatten(0, 1),
        head=HEAD_SCALE**2 * shares @ rows.head_gradients,
    )


def start_by_gauss_newton(
    adapter: PumaAdapter,
    lm: PersonalizedLM,
    source_prompts: torch.Tensor,
    rows: EncodedInteractions,
    targets: torch.Tensor,
    batch_size: int,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Move the adapter's base, linear residual and head so that its predictions for ``rows`` are near ``targets``.

    Args:
        adapter: one with a linear residual; where it is now is the prior's mean.
        source_prompts: float tensor ``(N, l, s)``, which ``rows.users`` number.
        targets: ``(M,)``, what the task predicts: ratings, or probabilities of a click, which are learnt as log-odds:
            a probability near 0 or 1 has no slope to go by.
        batch_size: rows at once through the LLM, at most.
        progress: told how many rows are done, and of how many.

    Raises:
        NotFiniteError: rows have answers or gradients that are NaN or infinite.
    """
    adapter.eval()
    targets = lm.task.link(targets)
    all_inputs = adapter.standardized(source_prompts)
    map_scale = MAP_SCALE / float(all_inputs.flatten(1).norm(dim=1).mean().clamp(min=1e-8))
    spread = float(targets.std(correction=0))
    begin = {name: tensor.detach().clone() for name, tensor in _moved(adapter).items()}
    at = Change(*(torch.zeros_like(tensor) for tensor in begin.values()))
    seen: list[LinearRows] = []
    for step, numbers in enumerate(torch.arange(len(rows)).split(ROWS_A_STEP)):
        lacking = torch.zeros(())
        for part in numbers.split(batch_size):
            inputs = all_inputs[rows.users[part].to(all_inputs.device)]
            new = _linearize(adapter, lm, inputs, rows.take(part), targets[part])
            lacking = lacking + new.targets.square().sum().cpu()
            seen.append(replace(new, targets=new.targets + at.of_predictions(new)))
        together = LinearRows(*(torch.cat(parts) for parts in zip(*(vars(part).values() for part in seen))))
        noise = NOISE * max(spread, float(lacking / len(numbers)) ** 0.5, _LEAST_NOISE)
        ages = step - torch.arange(len(together.targets)) // ROWS_A_STEP
        at = solve(together, (noise**2 * FADING**ages).to(together.targets), map_scale)
        _move(adapter, {name: begin[name] + getattr(at, name) for name in begin})
        if progress is not None:
            progress(int(numbers[-1]) + 1, len(rows))


def _linearize(
    adapter: PumaAdapter, lm: PersonalizedLM, inputs: torch.Tensor, rows: EncodedInteractions, targets: torch.Tensor
) -> LinearRows:
    """Gradients of the predictions where the adapter is, and what they lack."""
    with torch.no_grad():
        prompts = adapter.base + adapter.network(inputs)
    prompts.requires_grad_(True)
    logits = lm.logits(adapter.output_scale * prompts, rows.rows)
    require_finite(logits, "answers", lm.dtype)
    predictions = lm.task.linear_predictor(logits, adapter.head)
    (gradients,) = torch.autograd.grad(predictions.sum(), prompts)
    require_finite(gradients, "gradients", lm.dtype)
    lacking = targets.to(predictions.device) - predictions.detach()
    by_head = _head_gradients(lm.task, trained_head(adapter), logits.detach())
    return LinearRows(lacking, gradients, by_head, inputs)


def _head_gradients(task: Task, head: RatingHead | None, logits: torch.Tensor) -> torch.Tensor:
    """Gradients ``(M, h)`` of each prediction by the head's weights; ``h`` is 0 where none are trained."""
    if head is None:
        return logits.new_zeros(len(logits), 0)

    def predict(weights: dict[str, torch.Tensor], row: torch.Tensor) -> torch.Tensor:
        return functional_call(head, weights, (row[None],))[0]

    weights = {name: weight.detach() for name, weight in head.named_parameters()}
    each = vmap(grad(predict), in_dims=(None, 0))(weights, logits)
    return torch.cat([part.flatten(1) for part in each.values()], dim=1)


def trained_head(adapter: PumaAdapter) -> RatingHead | None:
    """The adapter's rating head, if it is trained along: that of an adapter of items stays as the users' is."""
    head: RatingHead | None = adapter.head
    return head if head is not None and all(weight.requires_grad for weight in head.parameters()) else None


def _moved(adapter: PumaAdapter) -> dict[str, torch.Tensor]:
    """What the start solves for, named as in :class:`Change`."""
    network: Any = adapter.network
    head = trained_head(adapter)
    flat = nn.utils.parameters_to_vector(head.parameters()) if head is not None else adapter.base.new_zeros(0)
    return {"base": adapter.base, "map": network.residual.weight, "head": flat}


@torch.no_grad()
def _move(adapter: PumaAdapter, values: dict[str, torch.Tensor]) -> None:
    network: Any = adapter.network
    adapter.base.copy_(values["base"])
    network.residual.weight.copy_(values["map"])
    head = trained_head(adapter)
    if head is not None:
        nn.utils.vector_to_parameters(values["head"], head.parameters())
