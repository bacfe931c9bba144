"""A second model that shares the weights of the caller's model, so that the caller's model is not changed."""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from puma_hub.errors import UnsupportedModelError

_BOUND = (nn.Module, types.MethodType, types.FunctionType, functools.partial)


def sharing_weights(model: PreTrainedModel, replaced: Mapping[nn.Module, nn.Module] | None = None) -> PreTrainedModel:
    """Return a model with new modules and the weights of ``model``, in evaluation mode.

    Weights are not copied and get no gradients. The new model has its own configuration, attention, mode, hooks, and
    small buffers that a forward may write to. If a module's ``forward`` was replaced, for example by accelerate, the
    replacement works on the new modules.

    Args:
        replaced: modules to replace, each with its replacement.

    Raises:
        UnsupportedModelError: the modules cannot be copied.
    """
    memo: dict[int, Any] = {id(old): new for old, new in (replaced or {}).items()}
    for module in model.modules():
        for parameter in module._parameters.values():
            memo.setdefault(id(parameter), _frozen(parameter))
        for name, buffer in module._buffers.items():
            if name not in module._non_persistent_buffers_set:
                memo.setdefault(id(buffer), buffer)
        kept = [value for value in vars(module).values() if isinstance(value, torch.Tensor)]
        kept += [vars(module)[name] for name in ("_hf_hook", "hf_quantizer") if name in vars(module)]
        memo |= {id(value): value for value in kept}
    try:
        new = copy.deepcopy(model, memo)
        for module in new.modules():
            forward = vars(module).get("forward")
            if isinstance(forward, types.FunctionType) and forward.__closure__:
                module.forward = _rebound(forward, memo)
    except (TypeError, RuntimeError, AttributeError, ValueError, NotImplementedError) as error:
        raise UnsupportedModelError(
            f"the modules of {type(model).__name__} cannot be shared with a scorer: {error}; give the model as "
            "from_pretrained loads it"
        ) from error
    return new.eval()


def _frozen(parameter: nn.Parameter | None) -> nn.Parameter | None:
    if type(parameter) is not nn.Parameter:
        return parameter  # quantised parameters have further attributes, and never get gradients
    view = nn.Parameter(parameter.detach(), requires_grad=False)
    view.__dict__.update(parameter.__dict__)
    return view


def _rebound(function: types.FunctionType, memo: dict[int, Any]) -> types.FunctionType:
    """A copy of the function whose closure refers to the new modules."""
    contents = [cell.cell_contents for cell in function.__closure__ or ()]
    cells = [types.CellType(copy.deepcopy(c, memo) if isinstance(c, _BOUND) else c) for c in contents]
    new = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, tuple(cells)
    )
    new.__kwdefaults__ = function.__kwdefaults__
    new.__dict__.update(function.__dict__)
    return new
