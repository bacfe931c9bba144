"""An adapter whose map comes from the tokens that both vocabularies share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from puma_hub.adapter.config import PumaConfig
from puma_hub.adapter.model import PumaAdapter
from puma_hub.errors import ConfigurationError, MismatchError
from puma_hub.extensions import WARM_STARTS

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
    *,
    method: str = "ridge",
    **options: Any,
) -> PumaAdapter:
    """Return an adapter whose linear residual is a map between the input embeddings of the shared tokens.

    Needs no user data. The embeddings are ``(vocabulary, d)`` as the layers receive them (for Gemma: after its own
    scaling). They are centred, so the map is one of offsets; the base stays at zero. Training may begin from it, or
    :func:`puma_hub.training.untrained_adapter` makes it an adapter that can be used as it is.

    Args:
        method: one of :data:`puma_hub.extensions.WARM_STARTS`, with its ``options``: ``"ridge"``, ``"procrustes"`` or
            ``"anchors"``, see :mod:`puma_hub.adapter.linear_maps`.

    Raises:
        ConfigurationError: the architecture has no linear residual, there are several sources, there is no such method
            or option, or the method gives no map.
        MismatchError: sizes disagree, or fewer tokens are shared than the source has coordinates.
    """
    if config.architecture == "paper" or len(config.sources) != 1:
        raise ConfigurationError("the warm start needs one source and the architecture 'seed' or 'linear'")
    find = WARM_STARTS.bound(method, options)
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
    found = np.asarray(find(inputs, outputs))
    if found.shape != sizes[::-1] or not np.isfinite(found).all():
        raise ConfigurationError(
            f"the warm start {method!r} must give a finite map {sizes[::-1]}, got {found.shape}; correct it"
        )
    adapter = PumaAdapter(config)
    network: Any = adapter.network
    network.start_linear()
    with torch.no_grad():
        network.residual.weight.copy_(torch.from_numpy(found))
    return adapter
