"""Models of random weights in the sizes of published ones, for machines that have not got their weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from puma_hub.scorer import PersonalizedLM

SHAPES: dict[str, dict[str, Any]] = {
    "random-llama-3.2-1b": {
        "model_type": "llama",
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128_256,
        "tie_word_embeddings": True,
    },
    "random-llama-3.2-3b": {
        "model_type": "llama",
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 28,
        "num_attention_heads": 24,
        "num_key_value_heads": 8,
        "vocab_size": 128_256,
        "tie_word_embeddings": True,
    },
    "random-gemma-3-1b": {
        "model_type": "gemma3_text",
        "hidden_size": 1152,
        "intermediate_size": 6912,
        "num_hidden_layers": 26,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "vocab_size": 262_144,
        "tie_word_embeddings": True,
    },
}
"""Configurations by name. A name says that the weights are random: such models rate at random, in the same time."""


def random_scorer(name: str, texts: Iterable[str], dtype: torch.dtype, device: str, **options: Any) -> PersonalizedLM:
    """A scorer of the shape ``name``, whose tokenizer splits ``texts`` into words and signs."""
    config = AutoConfig.for_model(**SHAPES[name])
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        model = AutoModelForCausalLM.from_config(config)
    finally:
        torch.set_default_dtype(before)
    model = model.to(device=device).eval().requires_grad_(False)
    return PersonalizedLM(model, _tokenizer(texts), model_id=name, **options)


def _tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    split = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=True)])
    given = [*texts, "Rating by one user: Watched user item Yes No 0 1 2 3 4 5 6 7 8 9"]
    words = dict.fromkeys(word for text in given for word, _ in split.pre_tokenize_str(text))
    found = Tokenizer(models.WordLevel({word: number for number, word in enumerate(["[UNK]", *words])}, "[UNK]"))
    found.pre_tokenizer = split
    return PreTrainedTokenizerFast(tokenizer_object=found, unk_token="[UNK]", pad_token="[UNK]")
