"""Loading causal language models and their tokenizers, and putting models on devices."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from puma_hub.errors import (
    ConfigurationError,
    MissingDependencyError,
    StorageError,
    UnsupportedModelError,
    without_secrets,
)
from puma_hub.scorer.models import has_hooks

_SOURCE = ("revision", "token", "cache_dir", "local_files_only", "subfolder")
_PLACING = ("attn_implementation", "quantization_config", "device_map", "max_memory", "offload_folder")
_OPTIONS = (*_SOURCE, *_PLACING, "dtype")


def load_causal_lm(model_id_or_dir: str, **options: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model and its tokenizer from a folder or the Hub (safetensors only; no code is run).

    ``options`` are passed to ``AutoModelForCausalLM.from_pretrained``.

    Raises:
        StorageError: model or tokenizer cannot be read.
        UnsupportedModelError: model or tokenizer needs code from its repository.
        MissingDependencyError: a package that is needed to read them is not installed.
    """
    folder = Path(model_id_or_dir, options.get("subfolder") or "")
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise StorageError(f"{str(folder)!r} holds no model (config.json missing); give a model's folder or Hub id")
    source = {name: options[name] for name in _SOURCE if name in options}
    tokenizer = load_tokenizer(model_id_or_dir, **source)
    fixed = {"use_safetensors": True, "trust_remote_code": False}
    with clear_errors(model_id_or_dir):
        model = AutoModelForCausalLM.from_pretrained(model_id_or_dir, **{**options, **fixed})
    return model, tokenizer


def load_tokenizer(model_id_or_dir: str, **source: Any) -> PreTrainedTokenizerBase:
    """Load a tokenizer. No code from its repository is run.

    Raises:
        StorageError: the tokenizer cannot be read.
        UnsupportedModelError: the tokenizer needs code from its repository.
        MissingDependencyError: a package that is needed to read it is not installed.
    """
    with clear_errors(model_id_or_dir):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            model_id_or_dir, trust_remote_code=False, **source
        )
    return tokenizer


@contextmanager
def clear_errors(name: str) -> Iterator[None]:
    """Turn what transformers raises while it reads a model into an error of ours.

    Raises:
        StorageError, UnsupportedModelError, MissingDependencyError: as :func:`load_causal_lm`.
    """
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
                f"{name!r} can only be loaded with code from its repository (auto_map), and puma_hub runs no such "
                "code; load it yourself and give PersonalizedLM the model and its tokenizer, or choose a model that is "
                "part of transformers"
            ) from error
        if isinstance(error, ImportError):
            raise MissingDependencyError(f"cannot load {what}: {_package(error)}") from error
        reason = text.splitlines()[0].rstrip(".:") if text else type(error).__name__
        raise StorageError(
            f"cannot load {what}: {reason}; check the name, and that the folder or repository holds both"
        ) from error


def _package(error: ImportError) -> str:
    """The most useful line of the error: the command that installs the package, if it names one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if any("pip install" in line for line in lines):
        return next(line for line in lines if "pip install" in line)
    return f"{lines[0]}; install it with `pip install {error.name}`" if error.name else lines[0]


def load_placed(
    model_id_or_dir: str, device: str | torch.device | None, **options: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model and its tokenizer, see :func:`load_causal_lm`, and put the model on ``device``.

    By default this is the process's GPU, or the CPU. Quantised models, and models that ``options`` place, stay where
    they are.

    Raises:
        ConfigurationError: an option is unknown, both ``device`` and ``device_map`` are given, or the device does not
            exist.
        StorageError, UnsupportedModelError, MissingDependencyError: as for :func:`load_causal_lm`.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if unknown := sorted(set(given) - set(_OPTIONS)):
        raise ConfigurationError(f"unknown option {', '.join(unknown)}; options of loading are {', '.join(_OPTIONS)}")
    if device is not None and "device_map" in given:
        raise ConfigurationError(f"give device={device!r} or device_map={given['device_map']!r}, not both")
    place: Any = None if device is None else usable_device(device)
    model, tokenizer = load_causal_lm(model_id_or_dir, **given)
    if place is None and "device_map" not in given and getattr(model, "hf_quantizer", None) is None:
        # Each process of torchrun or accelerate has a GPU of its own.
        place = torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu")
    return (model if place is None else model.to(place)), tokenizer


def move(model: PreTrainedModel, *args: Any, **kwargs: Any) -> bool:
    """Move or cast ``model`` as ``torch.nn.Module.to``; return whether anything changed.

    Raises:
        ConfigurationError: the model cannot be moved or cast.
    """
    if has_hooks(model):
        raise ConfigurationError(
            "accelerate has placed this model (device_map, offloading), so it cannot be moved; load it with device="
        )
    before = {(parameter.device, parameter.dtype) for parameter in model.parameters()}
    try:
        model.to(*args, **kwargs)
    except torch.OutOfMemoryError:
        raise
    # torch raises NotImplementedError for tensors on "meta", and AssertionError if it was built without the device.
    except (RuntimeError, AssertionError, ValueError, TypeError, NotImplementedError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise ConfigurationError(f"the model cannot be moved: {reason}; load it with this device and dtype") from error
    return before != {(parameter.device, parameter.dtype) for parameter in model.parameters()}


def usable_device(device: str | torch.device) -> torch.device:
    """Check that ``device`` can be used, and return it as a ``torch.device``.

    Raises:
        ConfigurationError: this machine has no such device.
    """
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    # torch raises NotImplementedError for a device whose operators are not in this build.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise ConfigurationError(
            f"the device {str(device)!r} cannot be used here ({reason}); choose another"
        ) from error
    return found
