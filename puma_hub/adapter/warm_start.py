"""A start for the map between two prompt spaces, from the tokens both vocabularies share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import Ridge
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from puma_hub.adapter.config import PumaConfig
from puma_hub.adapter.model import PumaAdapter
from puma_hub.errors import ConfigurationError, MismatchError

_PENALTY = 1e-3  # of the mean variance of a source coordinate, for each shared token
_BYTE = re.compile(r"^<0x([0-9A-Fa-f]{2})>$")


def token_texts(tokenizer: PreTrainedTokenizerBase) -> dict[bytes, int]:
    """Map the bytes each token stands for to its id, whatever the tokenizer's spelling.

    Byte-level BPE spells a leading space as ``Ġ`` and other bytes by stand-ins, SentencePiece spells a space as
    ``▁`` and rare bytes as ``<0xNN>``. Special tokens are left out.
    """
    vocabulary: Mapping[str, int] = tokenizer.get_vocab()
    decoder = {sign: byte for byte, sign in bytes_to_unicode().items()}
    byte_level = sum(token.startswith("Ġ") for token in vocabulary) > sum(token.startswith("▁") for token in vocabulary)
    special = set(tokenizer.all_special_tokens)
    texts: dict[bytes, int] = {}
    for token, index in vocabulary.items():
        if token in special:
            continue
        byte = _BYTE.match(token)
        if byte and not byte_level:
            text = bytes([int(byte.group(1), 16)])
        elif byte_level and all(char in decoder for char in token):
            text = bytes(decoder[char] for char in token)
        else:
            text = token.replace("▁", " ").encode()
        texts.setdefault(text, index)
    return texts


def shared_tokens(first: PreTrainedTokenizerBase, second: PreTrainedTokenizerBase) -> tuple[np.ndarray, np.ndarray]:
    """Ids, in both vocabularies, of the tokens that stand for the same bytes."""
    ours, theirs = token_texts(first), token_texts(second)
    common = sorted(ours.keys() & theirs.keys())
    return np.array([ours[text] for text in common]), np.array([theirs[text] for text in common])


def warm_start(
    config: PumaConfig,
    source_embeddings: torch.Tensor,
    source_tokenizer: PreTrainedTokenizerBase,
    target_embeddings: torch.Tensor,
    target_tokenizer: PreTrainedTokenizerBase,
) -> PumaAdapter:
    """Return an adapter whose linear residual is a ridge regression between the input embeddings.

    Needs no user data. The embeddings are ``(vocabulary, d)`` as the layers receive them (for Gemma: after its own
    scaling). They are centred, so the map is one of offsets; the base stays at zero.

    Raises:
        ConfigurationError: the architecture has no linear residual, or there are several sources.
        MismatchError: sizes disagree, or fewer tokens are shared than the source has coordinates.
    """
    if config.architecture == "paper" or len(config.sources) != 1:
        raise ConfigurationError("the warm start needs one source and the architecture 'seed' or 'linear'")
    sizes = (config.source_size, config.require_pair().hidden_size)
    if (source_embeddings.shape[1], target_embeddings.shape[1]) != sizes:
        raise MismatchError(
            f"the config maps {sizes[0]} -> {sizes[1]}, the embeddings have {source_embeddings.shape[1]} and "
            f"{target_embeddings.shape[1]} columns"
        )
    ours, theirs = shared_tokens(source_tokenizer, target_tokenizer)
    if len(ours) <= sizes[0]:
        raise MismatchError(
            f"the vocabularies share {len(ours)} tokens, more than {sizes[0]} are needed; train without"
        )
    inputs = source_embeddings[torch.from_numpy(ours)].detach().float().cpu().numpy()
    outputs = target_embeddings[torch.from_numpy(theirs)].detach().float().cpu().numpy()
    ridge: Any = Ridge(alpha=_PENALTY * len(ours) * float(inputs.var(axis=0).mean()), solver="cholesky")
    ridge.fit(inputs, outputs)
    adapter = PumaAdapter(config)
    network: Any = adapter.network
    network.start_linear()
    with torch.no_grad():
        network.residual.weight.copy_(torch.from_numpy(ridge.coef_))
    return adapter
