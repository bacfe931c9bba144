"""An output layer that computes the logits of the answers only."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel

from puma_hub.scorer.shared import sharing_weights


class AnswerHead(nn.Module):
    """The rows of the output matrix that belong to the answers, in float32."""

    def __init__(self, output: nn.Linear, answer_ids: list[int]) -> None:
        super().__init__()
        self.register_buffer("weight", output.weight[answer_ids].detach().float())
        self.register_buffer("bias", None if output.bias is None else output.bias[answer_ids].detach().float())

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        weight: torch.Tensor = self.weight  # type: ignore[assignment]
        return nn.functional.linear(hidden_states.to(weight.device, torch.float32), weight, self.bias)  # type: ignore[arg-type]


def with_answer_head(model: PreTrainedModel, answer_ids: list[int]) -> PreTrainedModel:
    """Return a model with the same weights whose output layer computes the answers' logits only, if possible.

    The model's own code still processes the logits (soft-capping, scaling). The full output layer is kept if it is not
    a plain matrix, if its weights are offloaded, or if the model's forward was changed: changed code may need the
    logits of all tokens.
    """
    output = model.get_output_embeddings()
    if output is None or not _is_plain(output) or _is_changed(model):
        return sharing_weights(model)
    return sharing_weights(model, {output: AnswerHead(output, answer_ids)})


def _is_changed(model: PreTrainedModel) -> bool:
    replaced = "forward" in vars(model) and not hasattr(model, "_hf_hook")
    return replaced or bool(model._forward_hooks) or not type(model).__module__.startswith("transformers.")


def _is_plain(output: nn.Module) -> bool:
    changed = bool(output._forward_hooks or output._forward_pre_hooks)
    changed = changed or ("forward" in vars(output) and not hasattr(output, "_hf_hook"))
    return type(output) is nn.Linear and not changed and output.weight.device.type != "meta"
