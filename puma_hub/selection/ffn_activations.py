"""What a prompt does in the source LLM: the activations of its last FFN layers (paper, Table 4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from sklearn.random_projection import SparseRandomProjection
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from puma_hub.bank import PromptBank
from puma_hub.errors import UnsupportedModelError
from puma_hub.scorer import PersonalizedLM
from puma_hub.scorer.finite import require_finite
from puma_hub.scorer.inputs import ModelInputs
from puma_hub.scorer.models import accepted_arguments, text_model, turns
from puma_hub.scorer.shared import sharing_weights
from puma_hub.tasks.template import USER, SoftSlot

LAYERS = 3
MOST_BYTES = 2**30
"""Features of all users that take more are projected at random to :data:`PROJECTED` numbers a user."""
PROJECTED = 512
_PROMPTS_AT_ONCE = 256
_BLOCKS = ("mlp", "feed_forward", "ffn", "mlp_block")


def ffn_activations(lm: PersonalizedLM, bank: PromptBank, seed: int) -> np.ndarray:
    """Features float32 ``(N, f)`` of length 1 in the bank's order.

    Each prompt goes through the LLM alone, with nothing before or after it. The activations of an FFN are what its
    last projection (``down_proj`` in Llama) takes, so they are as many as its intermediate size. Those of a prompt's
    tokens are averaged, those of the last three layers concatenated.

    Where they would take more than 1 GiB, they are projected by a sparse random matrix drawn by ``seed`` (Johnson and
    Lindenstrauss; Li, Hastie and Church, 2006), which changes squared distances by about 6 %.

    Raises:
        MismatchError: the bank belongs to another LLM.
        UnsupportedModelError: not every prompt passes one FFN in each of the last layers (mixtures of experts).
        NotFiniteError: activations are NaN or infinite.
    """
    lm.spec.require_same(bank.model, "FFN activations for a selection")
    model = text_model(sharing_weights(lm.model))
    activations = _Activations(model)
    found: np.ndarray | None = None
    project: Callable[[np.ndarray], np.ndarray] = np.asarray
    start = 0
    for _, prompts in bank.batches(_PROMPTS_AT_ONCE):
        part = activations.of(torch.from_numpy(prompts)).cpu().numpy()
        if found is None:
            if len(bank) * part.shape[1] * part.itemsize > MOST_BYTES and part.shape[1] > PROJECTED:
                matrix = SparseRandomProjection(PROJECTED, dense_output=True, random_state=seed)
                project = matrix.fit(part).transform
            found = np.empty((len(bank), project(part).shape[1]), np.float32)
        found[start : start + len(part)] = project(part)
        start += len(part)
    assert found is not None  # select_users refuses an empty bank
    return found


class _Activations:
    """Runs prompts through a model of its own, and records what the last projections of its last FFNs take."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.inputs = ModelInputs(model)
        self.layers = cast(PreTrainedModel, model.base_model)  # without the output layer
        self.options = {"use_cache": False} if "use_cache" in accepted_arguments(self.layers) else {}
        self.seen: list[torch.Tensor] = []
        self.projections = last_projections(model, self.inputs.hidden_size)
        for projection in self.projections:
            projection.register_forward_pre_hook(self._record)

    def _record(self, module: nn.Module, given: tuple[Any, ...]) -> None:
        self.seen.append(given[0])

    @torch.no_grad()
    def of(self, prompts: torch.Tensor) -> torch.Tensor:
        """Features float32 ``(n, f)`` of prompts ``(n, l, d)``."""
        users, length, _ = prompts.shape
        self.seen.clear()
        with turns(self.model):
            self.layers(**self.inputs.of([[SoftSlot(USER)]] * users, {USER: prompts}), **self.options)
        if len(self.seen) != len(self.projections):
            raise _unsupported(self.model)
        device = self.inputs.device
        layers = [seen.reshape(users, length, -1).to(device, torch.float32).mean(1) for seen in self.seen]
        features = torch.cat(layers, dim=1)
        require_finite(features, "activations", self.model.dtype)
        return F.normalize(features, dim=1)


def last_projections(model: PreTrainedModel, hidden_size: int) -> list[nn.Module]:
    """The module that leads back from the FFN's activations to the hidden size, in each of the last three layers.

    Raises:
        UnsupportedModelError: a layer has none, or one for each of several experts.
    """
    count = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    lists = [m for n, m in model.base_model.named_modules() if isinstance(m, nn.ModuleList) and not _attends(n)]
    layers = next((found for found in lists if len(found) == count), nn.ModuleList())
    projections = [_last_projection(layer, hidden_size) for layer in layers[-LAYERS:]]
    kept = [projection for projection in projections if projection is not None]
    if not kept or len(kept) < len(projections):
        raise _unsupported(model)
    return kept


def _last_projection(layer: nn.Module, hidden_size: int) -> nn.Module | None:
    blocks = [getattr(layer, name, None) for name in _BLOCKS]
    block = next((found for found in blocks if isinstance(found, nn.Module)), None)
    # Without a module of its own, the FFN's projections stand in the layer itself (OPT).
    named = [*layer.named_children()] if block is None else [*block.named_modules()]
    if any("expert" in name for name, _ in named):
        return None
    found = [module for name, module in named if _output_size(module) == hidden_size and not _attends(name)]
    return found[-1] if found else None


def _unsupported(model: PreTrainedModel) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{type(model).__name__} has no FFN that every prompt passes once in each of its last {LAYERS} layers "
        "(mixtures of experts and state-space layers have none); choose a strategy without FFN activations, such as "
        "puma"
    )


def _attends(name: str) -> bool:
    return "attn" in name or "attention" in name


def _output_size(module: nn.Module) -> int | None:
    """Of ``nn.Linear`` and what stands for it, and of GPT-2's ``Conv1D``."""
    return getattr(module, "out_features", getattr(module, "nf", None))
