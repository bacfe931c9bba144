"""Properties of causal language models that soft prompts depend on."""

from __future__ import annotations

import inspect
import threading
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedModel

from puma_hub.errors import UnsupportedModelError

_CACHE_ARGUMENTS = ("past_key_values", "cache")  # before transformers 5.24, and since
_STRETCHED = ("longrope", "dynamic")
_TURNS = threading.RLock()


def plain_model(model: Any) -> PreTrainedModel:
    """The transformers model behind ``model``, which may be compiled.

    Raises:
        UnsupportedModelError: ``model`` is not of transformers, is a wrapper around such a model, or its weights are
            spread over processes.
    """
    model = getattr(model, "_orig_mod", model)  # torch.compile
    if isinstance(model, PreTrainedModel):
        if any(hasattr(weight, "device_mesh") for weight in model.parameters()):  # a DTensor
            raise UnsupportedModelError(
                "the model's weights are spread over processes (FSDP, tensor parallelism), and a scorer needs them "
                "whole; load the model with device_map='auto' to spread it over the GPUs of one machine, or quantised"
            )
        return model
    name = type(model).__name__
    if hasattr(model, "merge_and_unload"):
        raise UnsupportedModelError(f"{name} wraps a model; give the result of its merge_and_unload()")
    raise UnsupportedModelError(
        f"{name} is not a model of transformers; load one with AutoModelForCausalLM.from_pretrained"
    )


def text_model(model: PreTrainedModel) -> PreTrainedModel:
    """The text model in a model of text and images, with the same modules. Other models are returned unchanged."""
    text = model.config.get_text_config()
    inner = getattr(model.base_model, "language_model", None)
    kind: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(text), None)
    if isinstance(kind, tuple):
        kind = next((one for one in kind if one is not None and one.config_class is type(text)), None)
    output = model.get_output_embeddings()
    if text is model.config or inner is None or kind is None or output is None or inner is model.base_model:
        return model
    with torch.device("meta"):
        alone = kind(text)
    if type(alone.base_model) is not type(inner):
        return model
    setattr(alone, alone.base_model_prefix, inner)
    alone.set_output_embeddings(output)
    alone.generation_config = model.generation_config
    alone.name_or_path = model.name_or_path
    return alone.eval().requires_grad_(False)


def accepted_arguments(model: PreTrainedModel) -> frozenset[str]:
    """The argument names of ``model.forward``. If it passes ``**kwargs`` on, also those of the inner model."""
    kinds = [kind for kind in type(model).__mro__ if "forward" in vars(kind)]
    names: set[str] = set()
    for forward in (model.forward, *(vars(kind)["forward"] for kind in kinds)):
        found = inspect.signature(forward).parameters
        names |= set(found)
        own = getattr(forward, "__module__", "").startswith("transformers.")
        if own or not any(parameter.kind is parameter.VAR_KEYWORD for parameter in found.values()):
            break
    return frozenset(names)


def cache_argument(model: PreTrainedModel) -> str | None:
    """The name of the cache argument of ``model.forward``; None if it has none.

    Raises:
        UnsupportedModelError: the model does not take or have input embeddings, or is not decoder-only.
    """
    name = type(model).__name__
    if getattr(model.config, "is_encoder_decoder", False):
        raise UnsupportedModelError(f"{name} is an encoder-decoder model; soft prompts need a decoder-only model")
    accepted = accepted_arguments(model)
    if "inputs_embeds" not in accepted:
        raise UnsupportedModelError(f"{name}.forward does not accept inputs_embeds; choose another model")
    if getattr(model.get_input_embeddings(), "weight", None) is None:
        raise UnsupportedModelError(f"{name} has no single matrix of input embeddings; choose a text model")
    return next((argument for argument in _CACHE_ARGUMENTS if argument in accepted), None)


def has_hooks(model: PreTrainedModel) -> bool:
    """Whether accelerate has put the model on several devices, or offloads it."""
    return any("_hf_hook" in vars(module) for module in model.modules())


def turns(model: PreTrainedModel) -> AbstractContextManager[Any]:
    """A context for threads that run ``model``. With offloading it is a lock, since the weights move."""
    hooks = [vars(module).get("_hf_hook") for module in model.modules()]
    comes_and_goes = any(getattr(hook, "offload", False) or hasattr(hook, "hooks") for hook in hooks)
    return _TURNS if comes_and_goes else nullcontext()


def max_positions(model: PreTrainedModel) -> int:
    """The longest sequence that the model can score independently of the other rows in a batch.

    With rotary embeddings of type ``longrope`` and ``dynamic``, all positions change once the longest row of a batch
    exceeds the original length. One row would then change the others, so the original length is the limit.
    """
    config = model.config.get_text_config()
    longest = getattr(config, "max_position_embeddings", None)
    ends = [kind.get("original_max_position_embeddings") for kind in _stretched(model)]
    return int(min([end for end in (longest, *ends) if end and end > 0] or [10**9]))


def is_stretched(model: PreTrainedModel) -> bool:
    """Whether the longest row of a batch changes the positions of all; see :func:`max_positions`."""
    return bool(_stretched(model))


def _stretched(model: PreTrainedModel) -> list[dict[str, Any]]:
    rope = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    kinds = [rope, *(value for value in rope.values() if isinstance(value, dict))]
    return [kind for kind in kinds if kind.get("rope_type") in _STRETCHED]
