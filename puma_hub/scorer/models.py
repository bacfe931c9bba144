"""What soft prompts ask of a causal language model."""

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
    """The model of transformers that ``model`` is, or is compiled from.

    Raises:
        UnsupportedModelError: it is none, or a wrapper of one.
    """
    model = getattr(model, "_orig_mod", model)  # torch.compile
    if isinstance(model, PreTrainedModel):
        return model
    name = type(model).__name__
    if hasattr(model, "merge_and_unload"):
        raise UnsupportedModelError(f"{name} wraps a model; give what its merge_and_unload() returns")
    raise UnsupportedModelError(
        f"{name} is no model of transformers; give what AutoModelForCausalLM.from_pretrained loads"
    )


def text_model(model: PreTrainedModel) -> PreTrainedModel:
    """The causal LM of text within a model of text and images, over the same modules; others as they are."""
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
    """The names that ``model.forward`` takes; where it takes any and hands them on, those of what it stands for too."""
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
    """What ``model.forward`` calls its key/value cache; None where it takes none.

    Raises:
        UnsupportedModelError: it takes or has no embeddings, or is not decoder-only.
    """
    name = type(model).__name__
    if getattr(model.config, "is_encoder_decoder", False):
        raise UnsupportedModelError(f"{name} is an encoder-decoder model; soft prompts need a decoder-only model")
    accepted = accepted_arguments(model)
    if "inputs_embeds" not in accepted:
        raise UnsupportedModelError(f"{name}.forward does not accept inputs_embeds; choose another model")
    if getattr(model.get_input_embeddings(), "weight", None) is None:
        raise UnsupportedModelError(f"{name} has no one matrix of input embeddings; choose a model of text")
    return next((argument for argument in _CACHE_ARGUMENTS if argument in accepted), None)


def has_hooks(model: PreTrainedModel) -> bool:
    """Whether accelerate has put the model on several devices, or offloads it."""
    return any("_hf_hook" in vars(module) for module in model.modules())


def turns(model: PreTrainedModel) -> AbstractContextManager[Any]:
    """What threads that run ``model`` hold: a lock where its weights come and go (offloading), or nothing."""
    hooks = [vars(module).get("_hf_hook") for module in model.modules()]
    comes_and_goes = any(getattr(hook, "offload", False) or hasattr(hook, "hooks") for hook in hooks)
    return _TURNS if comes_and_goes else nullcontext()


def max_positions(model: PreTrainedModel) -> int:
    """The longest sequence that the model takes, and treats as it treats shorter ones.

    Rotary embeddings of type ``longrope`` and ``dynamic`` change for every position as soon as the longest row of a
    batch passes the original length, so that one row would change the others; such a model ends there.
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
