"""Causal language models: loading them, and what soft prompts ask of them."""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from puma_hub.errors import (
    ConfigurationError,
    MissingDependencyError,
    StorageError,
    UnsupportedModelError,
    without_secrets,
)

_CACHE_ARGUMENTS = ("past_key_values", "cache")  # before transformers 5.24, and since
_STRETCHED = ("longrope", "dynamic")
_TURNS = threading.RLock()
_SOURCE = ("revision", "token", "cache_dir", "local_files_only", "subfolder")
_PLACING = ("attn_implementation", "quantization_config", "device_map", "max_memory", "offload_folder")
_OPTIONS = (*_SOURCE, *_PLACING, "dtype", "gguf_file")


def load_causal_lm(model_id_or_dir: str, **options: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model and its tokenizer from a folder or the Hub (safetensors only; no code is run).

    ``options`` are ``AutoModelForCausalLM.from_pretrained``'s.

    Raises:
        StorageError: one of them cannot be read.
        UnsupportedModelError: one of them needs code of its own.
        MissingDependencyError: a package is needed to read it.
    """
    folder = Path(model_id_or_dir, options.get("subfolder") or "")
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise StorageError(f"{str(folder)!r} holds no model (config.json missing); give a model's folder or Hub id")
    source = {name: options[name] for name in _SOURCE if name in options}
    tokenizer = load_tokenizer(model_id_or_dir, **source)
    fixed = {"use_safetensors": True, "trust_remote_code": False}
    with _clear_errors(model_id_or_dir):
        model = AutoModelForCausalLM.from_pretrained(model_id_or_dir, **{**options, **fixed})
    return model, tokenizer


def load_tokenizer(model_id_or_dir: str, **source: Any) -> PreTrainedTokenizerBase:
    """Load a tokenizer; no code is run.

    Raises:
        StorageError: it cannot be read.
        UnsupportedModelError: it needs code of its own.
        MissingDependencyError: a package is needed to read it.
    """
    with _clear_errors(model_id_or_dir):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            model_id_or_dir, trust_remote_code=False, **source
        )
    return tokenizer


@contextmanager
def _clear_errors(name: str) -> Iterator[None]:
    what = f"a causal LM and its tokenizer from {name!r}"
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (
        OSError,
        ValueError,
        LookupError,
        ImportError,
        RuntimeError,
        TypeError,
        AttributeError,
        SafetensorError,
    ) as error:
        text = without_secrets(str(error).strip())
        if "trust_remote_code" in text:
            raise UnsupportedModelError(
                f"{name!r} holds code that it needs to be loaded (auto_map), and puma_hub runs no code of "
                "repositories; load it yourself and give PersonalizedLM the model and its tokenizer, or choose a model "
                "of transformers' own"
            ) from error
        if isinstance(error, ImportError):
            raise MissingDependencyError(f"cannot load {what}: {_package(error)}") from error
        reason = text.splitlines()[0].rstrip(".:") if text else type(error).__name__
        raise StorageError(
            f"cannot load {what}: {reason}; check the name, and that the folder or repository holds both"
        ) from error


def _package(error: ImportError) -> str:
    """The first line that helps: the command that installs what is missing, where one is named."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if any("pip install" in line for line in lines):
        return next(line for line in lines if "pip install" in line)
    return f"{lines[0]}; install it with `pip install {error.name}`" if error.name else lines[0]


def load_placed(
    model_id_or_dir: str, device: str | torch.device | None, **options: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model and its tokenizer, see :func:`load_causal_lm`, and put the model on ``device``.

    By default it goes to the process's own GPU, or the CPU, unless it is quantised or ``options`` place it.

    Raises:
        ConfigurationError: an option is unknown, both ``device`` and ``device_map`` are given, or there is no such
            device.
        StorageError, UnsupportedModelError, MissingDependencyError: as of :func:`load_causal_lm`.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if unknown := sorted(set(given) - set(_OPTIONS)):
        raise ConfigurationError(f"unknown option {', '.join(unknown)}; a model is loaded by {', '.join(_OPTIONS)}")
    if device is not None and "device_map" in given:
        raise ConfigurationError(f"give device={device!r} or device_map={given['device_map']!r}, not both")
    place: Any = None if device is None else usable_device(device)
    model, tokenizer = load_causal_lm(model_id_or_dir, **given)
    if place is None and "device_map" not in given and getattr(model, "hf_quantizer", None) is None:
        # Each process of torchrun or accelerate its own.
        place = torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu")
    return (model if place is None else model.to(place)), tokenizer


def move(model: PreTrainedModel, *args: Any, **kwargs: Any) -> bool:
    """Move or cast ``model`` as ``torch.nn.Module.to``; return whether anything changed.

    Raises:
        ConfigurationError: the model cannot be moved or cast.
    """
    if has_hooks(model):
        raise ConfigurationError(
            "accelerate has placed this model (device_map, offloading), so it stays where it is; load it with device="
        )
    before = {(parameter.device, parameter.dtype) for parameter in model.parameters()}
    try:
        model.to(*args, **kwargs)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, AssertionError, ValueError, TypeError, NotImplementedError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise ConfigurationError(f"the model cannot be moved so: {reason}; load it as you need it") from error
    return before != {(parameter.device, parameter.dtype) for parameter in model.parameters()}


def usable_device(device: str | torch.device) -> torch.device:
    """``device``, tried out.

    Raises:
        ConfigurationError: there is none of that name here.
    """
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise ConfigurationError(f"no device {str(device)!r} can be used here ({reason}); choose another") from error
    return found


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
