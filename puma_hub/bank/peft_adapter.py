"""What PEFT loads for a soft prompt: a config and tensors.

Read from PEFT 0.21: ``tuners/trainable_tokens``, ``tuners/prompt_tuning`` and ``peft_model.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from puma_hub.bank.peft_files import PROMPT_KEY, PROMPT_TUNING, ROWS_KEY, TRAINABLE_TOKENS
from puma_hub.errors import UnsupportedModelError
from puma_hub.scorer.embedding_scale import embedding_scale


@dataclass(frozen=True)
class Adapter:
    """The contents of ``adapter_config.json`` but for the base model, and of ``adapter_model.safetensors``.

    ``embedding_scale`` is what the rows of ``TRAINABLE_TOKENS`` are divided by, since the model multiplies them.
    """

    config: dict[str, Any]
    tensors: dict[str, torch.Tensor]
    embedding_scale: float = 1.0

    @property
    def peft_type(self) -> str:
        return str(self.config["peft_type"])


def can_stand_in_front(model: PreTrainedModel) -> bool:
    """Whether PEFT finds the model's input embeddings for ``PROMPT_TUNING``.

    It takes the first weights with as many rows as the config's vocabulary; some models have more rows than that.
    """
    tokens = model.config.get_text_config().vocab_size
    weights = (weight for weight in model.parameters() if weight.ndim and weight.shape[0] == tokens)
    embeddings: Any = model.get_input_embeddings()
    return next(weights, None) is embeddings.weight


def prompt_in_front(model: PreTrainedModel, prompt: torch.Tensor) -> Adapter:
    """``PROMPT_TUNING``: PEFT puts the prompt ``(l, d)`` before the embeddings of all tokens, as it is."""
    length, size = prompt.shape
    text = model.config.get_text_config()
    config = {
        "peft_type": PROMPT_TUNING,
        "prompt_tuning_init": "RANDOM",
        "num_virtual_tokens": length,
        "token_dim": size,
        "num_transformer_submodules": 1,
        # PEFT asks for these two and uses them for other methods only.
        "num_layers": _whole(text, "num_hidden_layers"),
        "num_attention_heads": _whole(text, "num_attention_heads"),
    }
    return Adapter(config, {PROMPT_KEY: prompt.contiguous()})


def prompt_at_tokens(model: PreTrainedModel, prompt: torch.Tensor, token_ids: Sequence[int]) -> Adapter:
    """``TRAINABLE_TOKENS``: the prompt's vectors ``(l, d)`` are the embeddings of ``l`` tokens.

    PEFT replaces these rows in output embeddings that are tied to the input embeddings, too. That changes the logits of
    these tokens alone.

    Raises:
        UnsupportedModelError: PEFT would compute something else for other tokens.
    """
    layer, output, name = model.get_input_embeddings(), model.get_output_embeddings(), type(model).__name__
    scale = embedding_scale(model)
    theirs = float(getattr(layer, "embed_scale", 1.0))
    if not isinstance(layer, nn.Embedding) or not math.isclose(theirs, scale, rel_tol=1e-5):
        raise UnsupportedModelError(
            f"the embedding layer of {name}, {type(layer).__name__}, computes what PEFT's TRAINABLE_TOKENS does not "
            f"(a scale of {scale:.6g}); score its prompts with PersonalizedLM"
        )
    tied = bool(model.config.tie_word_embeddings and getattr(model, "_tied_weights_keys", None)) and output is not None
    if tied and (not isinstance(output, nn.Linear) or output.bias is not None):
        raise UnsupportedModelError(
            f"the output layer of {name} is tied to its embeddings and is not a matrix alone, and PEFT's "
            "TRAINABLE_TOKENS leaves out the rest (a bias), which changes all logits; score its prompts with "
            "PersonalizedLM"
        )
    places = [_name(model, layer), *([_name(model, output)] if tied else [])]
    rows = (prompt / scale).contiguous()
    return Adapter(
        {"peft_type": TRAINABLE_TOKENS, "token_indices": list(token_ids), "target_modules": places[0]},
        {f"base_model.model.{place}.{ROWS_KEY}": rows.clone() for place in places},
        scale,
    )


def _name(model: PreTrainedModel, layer: Any) -> str:
    return next(name for name, module in model.named_modules() if module is layer)


def _whole(config: Any, name: str) -> int:
    found = getattr(config, name, None)
    return found if isinstance(found, int) else 1
