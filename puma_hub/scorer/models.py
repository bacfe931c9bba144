"""Causal language models: loading them, and what soft prompts ask of them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from puma_hub.errors import StorageError, UnsupportedModelError, without_secrets

_NEEDED_ARGUMENTS = ("inputs_embeds", "position_ids", "attention_mask")
_CACHE_ARGUMENTS = ("past_key_values", "cache")  # before transformers 5.24, and since
_SOURCE = ("revision", "token", "cache_dir", "local_files_only")


def load_causal_lm(model_id_or_dir: str, **options: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model and its tokenizer from a folder or the Hub (safetensors only).

    ``options`` are ``AutoModelForCausalLM.from_pretrained``'s.

    Raises:
        StorageError: one of them cannot be read.
    """
    source = {name: options[name] for name in _SOURCE if name in options}
    tokenizer = load_tokenizer(model_id_or_dir, **source)
    with _clear_errors(f"a causal LM and its tokenizer from {model_id_or_dir!r}"):
        model = AutoModelForCausalLM.from_pretrained(model_id_or_dir, **{**options, "use_safetensors": True})
    return model, tokenizer


def load_tokenizer(model_id_or_dir: str, **source: Any) -> PreTrainedTokenizerBase:
    """Load a tokenizer.

    Raises:
        StorageError: it cannot be read.
    """
    with _clear_errors(f"a causal LM and its tokenizer from {model_id_or_dir!r}"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(model_id_or_dir, **source)
    return tokenizer


@contextmanager
def _clear_errors(what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise StorageError(f"cannot load {what}: {without_secrets(reason)}") from error


def cache_argument(model: PreTrainedModel) -> str:
    """What ``model.forward`` calls its key/value cache.

    Raises:
        UnsupportedModelError: it takes none, lacks another argument, or is not decoder-only.
    """
    name = type(model).__name__
    if getattr(model.config, "is_encoder_decoder", False):
        raise UnsupportedModelError(f"{name} is an encoder-decoder model; soft prompts need a decoder-only model")
    accepted = inspect.signature(model.forward).parameters
    missing = [argument for argument in _NEEDED_ARGUMENTS if argument not in accepted]
    caches = [argument for argument in _CACHE_ARGUMENTS if argument in accepted]
    missing += [] if caches else [" or ".join(_CACHE_ARGUMENTS)]
    if missing:
        raise UnsupportedModelError(f"{name}.forward does not accept {', '.join(missing)}; choose another model")
    return caches[0]


def max_positions(model: PreTrainedModel) -> int:
    """The longest sequence the model was made for."""
    return int(getattr(model.config.get_text_config(), "max_position_embeddings", 10**9))
