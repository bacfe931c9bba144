"""The Gauss-Newton start of an adapter: base, linear map and head are solved for on one or two thousand rows.

Near the current adapter, a prediction is almost linear in the soft prompt. One backward pass for a row gives the
gradient of its prediction with respect to the prompt. Gradient descent uses only the gradient of the loss, which is
this one times the row's error. Least squares over all rows seen so far use all of it.

The change has a Gaussian prior, so the solution is a linear combination of the rows' gradients (kernel ridge
regression; Rasmussen & Williams, Gaussian Processes for Machine Learning, sections 2.1 and 2.2). The linear system
therefore has one unknown for each row, whatever the sizes of the models. Each step linearises new rows at the current
adapter. Gradients of earlier steps get a larger noise variance.
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
# Standard deviations of the prior: of a coordinate of the base, and of the offset of a user of average norm, both in
# embedding RMS; and of a weight of the head.
BASE_SCALE, MAP_SCALE, HEAD_SCALE = 4.0, 3.0, 1.0
# Standard deviation of a row's noise, relative to the targets' standard deviation or to the newest rows' RMS error,
# whichever is larger. With large errors the step is long, and a linear prediction is less exact.
NOISE = 0.6
FADING = 1.1  # the factor by which the variance of earlier rows' noise grows with each step
_JITTER = 1e-10
_LEAST_NOISE = 1e-3  # in case all targets are equal and all predictions exact


@dataclass(frozen=True)
class LinearRows:
    """The first-order model of the rows' predictions, as a function of the change from the initial adapter.

    Attributes:
        targets: ``(M,)``, what the change should add to the predictions.
        prompt_gradients: ``(M, l, d)``, gradients with respect to the prompt in units of the output scale.
        head_gradients: ``(M, h)``, gradients with respect to the head's weights.
        inputs: ``(M, l, s)``, the inputs of the adapter's network.
    """

    targets: torch.Tensor
    prompt_gradients: torch.Tensor
    head_gradients: torch.Tensor
    inputs: torch.Tensor


@dataclass(frozen=True)
class Change:
    """The change of the base ``(l, d)``, the linear map ``(d, s)`` and the head's weights ``(h,)``."""

    base: torch.Tensor
    map: torch.Tensor
    head: torch.Tensor

    def of_predictions(self, rows: LinearRows) -> torch.Tensor:
        """The change of the rows' predictions ``(M,)``, to first order."""
        prompts = self.base + rows.inputs @ self.map.T
        return (rows.prompt_gradients * prompts).sum((1, 2)) + rows.head_gradients @ self.head


def solve(rows: LinearRows, variances: torch.Tensor, map_scale: float) -> Change:
    """The most likely change, given noise of ``variances (M,)`` in the rows: ridge regression in its dual form."""
    gradients, inputs = rows.prompt_gradients, rows.inputs
    kernel = BASE_SCALE**2 * gradients.flatten(1) @ gradients.flatten(1).T
    for first in range(gradients.shape[1]):
        for second in range(gradients.shape[1]):
            alike = inputs[:, first] @ inputs[:, second].T
            kernel += map_scale**2 * alike * (gradients[:, first] @ gradients[:, second].T)
    kernel += HEAD_SCALE**2 * rows.head_gradients @ rows.head_gradients.T
    system = (kernel + torch.diag(variances)).double()
    system.diagonal().add_(_JITTER * system.diagonal().mean())  # rows that say the same, all met exactly
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
    """Fit the adapter's base, linear residual and head, in place, so that its predictions are close to ``targets``.

    Args:
        adapter: an adapter with a linear residual. Its current weights are the mean of the prior.
        source_prompts: float tensor ``(N, l, s)``; ``rows.users`` index it.
        targets: ``(M,)`` ratings, or probabilities of a click. Probabilities are fitted as log-odds, because a
            probability near 0 or 1 has almost no gradient.
        batch_size: the largest number of rows in one pass through the LLM.
        progress: called with the number of rows done and the number of all rows.

    Raises:
        NotFiniteError: rows have answers or gradients that are NaN or infinite.
    """
    adapter.eval()
    targets = lm.task.link(targets)
    all_inputs = adapter.standardized(source_prompts)
    map_scale = MAP_SCALE / float(all_inputs.flatten(1).norm(dim=1).mean().clamp(min=1e-8))
    spread = float(targets.std(correction=0))
    initial = {name: tensor.detach().clone() for name, tensor in _solved_weights(adapter).items()}
    change = Change(*(torch.zeros_like(tensor) for tensor in initial.values()))
    seen: list[LinearRows] = []
    for step, numbers in enumerate(torch.arange(len(rows)).split(ROWS_A_STEP)):
        squared_error = torch.zeros(())
        for part in numbers.split(batch_size):
            inputs = all_inputs[rows.users[part].to(all_inputs.device)]
            new = _linearize(adapter, lm, inputs, rows.take(part), targets[part])
            squared_error = squared_error + new.targets.square().sum().cpu()
            seen.append(replace(new, targets=new.targets + change.of_predictions(new)))
        together = LinearRows(*(torch.cat(parts) for parts in zip(*(vars(part).values() for part in seen))))
        noise = NOISE * max(spread, float(squared_error / len(numbers)) ** 0.5, _LEAST_NOISE)
        ages = step - torch.arange(len(together.targets)) // ROWS_A_STEP
        change = solve(together, (noise**2 * FADING**ages).to(together.targets), map_scale)
        _set_weights(adapter, {name: initial[name] + getattr(change, name) for name in initial})
        if progress is not None:
            progress(int(numbers[-1]) + 1, len(rows))


def _linearize(
    adapter: PumaAdapter, lm: PersonalizedLM, inputs: torch.Tensor, rows: EncodedInteractions, targets: torch.Tensor
) -> LinearRows:
    """The rows' first-order model at the current adapter; its targets are the current errors."""
    with torch.no_grad():
        prompts = adapter.base + adapter.network(inputs)
    prompts.requires_grad_(True)
    logits = lm.logits(adapter.output_scale * prompts, rows.rows)
    require_finite(logits, "answers", lm.dtype)
    predictions = lm.task.linear_predictor(logits, adapter.head)
    (gradients,) = torch.autograd.grad(predictions.sum(), prompts)
    require_finite(gradients, "gradients", lm.dtype)
    errors = targets.to(predictions.device) - predictions.detach()
    head_gradients = _head_gradients(lm.task, trained_head(adapter), logits.detach())
    return LinearRows(errors, gradients, head_gradients, inputs)


def _head_gradients(task: Task, head: RatingHead | None, logits: torch.Tensor) -> torch.Tensor:
    """Gradients ``(M, h)`` of the predictions with respect to the head's weights; ``h`` is 0 without a trained head."""
    if head is None:
        return logits.new_zeros(len(logits), 0)

    def predict(weights: dict[str, torch.Tensor], row: torch.Tensor) -> torch.Tensor:
        return functional_call(head, weights, (row[None],))[0]

    weights = {name: weight.detach() for name, weight in head.named_parameters()}
    each = vmap(grad(predict), in_dims=(None, 0))(weights, logits)
    return torch.cat([part.flatten(1) for part in each.values()], dim=1)


def trained_head(adapter: PumaAdapter) -> RatingHead | None:
    """The adapter's rating head if it is trained; an adapter of items keeps that of users."""
    head: RatingHead | None = adapter.head
    return head if head is not None and all(weight.requires_grad for weight in head.parameters()) else None


def _solved_weights(adapter: PumaAdapter) -> dict[str, torch.Tensor]:
    """The weights that are solved for, named as in :class:`Change`."""
    network: Any = adapter.network
    head = trained_head(adapter)
    flat = nn.utils.parameters_to_vector(head.parameters()) if head is not None else adapter.base.new_zeros(0)
    return {"base": adapter.base, "map": network.residual.weight, "head": flat}


@torch.no_grad()
def _set_weights(adapter: PumaAdapter, values: dict[str, torch.Tensor]) -> None:
    network: Any = adapter.network
    adapter.base.copy_(values["base"])
    network.residual.weight.copy_(values["map"])
    head = trained_head(adapter)
    if head is not None:
        nn.utils.vector_to_parameters(values["head"], head.parameters())
