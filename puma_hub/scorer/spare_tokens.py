"""Tokens that stand for nothing: rows of a model's input embeddings that its texts do not use."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from puma_hub.errors import UnsupportedModelError
from puma_hub.scorer.tokens import leading_tokens

# <unused0>, [unused1], <|reserved_special_token_0|>, <reserved_106>, <|placeholder1|>, <｜place▁holder▁no▁0｜>
_RESERVED = re.compile(r"[^\w\s].*(unused|reserved|place.?holder).*\d.*[^\w\s]", re.IGNORECASE)
_TOKEN_FIELD = re.compile(r".*token(_id|_ids|_index)|suppress_tokens|begin_suppress_tokens|forced_decoder_ids")
_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def spare_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, count: int) -> list[int]:
    """The ids of ``count`` tokens with an embedding that no text needs, rising.

    First choice are rows behind the tokenizer's vocabulary: no text becomes these ids. Next are tokens that are named
    as unused or reserved, and that neither the configs nor the chat template use. The last ones are taken, since those
    who add tokens of their own take the first.

    Raises:
        UnsupportedModelError: there are fewer.
    """
    embeddings: Any = model.get_input_embeddings()
    rows = int(embeddings.weight.shape[0])
    vocabulary = tokenizer.get_vocab()
    used = {*_of_configs(model), *_of_tokenizer(tokenizer)}
    end = max(len(tokenizer), max(vocabulary.values(), default=-1) + 1)
    behind = [token for token in range(end, rows) if token not in used]
    chat = str(getattr(tokenizer, "chat_template", None) or "")
    reserved = sorted(
        token
        for name, token in vocabulary.items()
        if token < rows and token not in used and _RESERVED.fullmatch(name) and name not in chat
    )
    found = behind if len(behind) >= count else [*reserved, *behind]
    if len(found) < count:
        raise UnsupportedModelError(
            f"a prompt of {count} vectors needs {count} spare tokens, {type(model).__name__} has {len(found)} (rows of "
            f"its embeddings behind the vocabulary, or tokens named unused or reserved); add some with "
            f"model.resize_token_embeddings({rows + count - len(found)}), save it with its tokenizer, and export "
            "bank.with_provenance(model=ModelSpec.from_model(model)) with it: the prompts fit that model as well"
        )
    return sorted(found[-count:])


def _of_configs(model: PreTrainedModel) -> Iterator[int]:
    """Tokens that the configs of the model and of its generation name."""
    for config in (model.config, getattr(model, "generation_config", None)):
        if config is not None:
            yield from _named_in(config.to_dict())


def _named_in(fields: Mapping[str, Any]) -> Iterator[int]:
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from _named_in(value)
        elif isinstance(name, str) and _TOKEN_FIELD.fullmatch(name):
            yield from _numbers(value)


def _numbers(value: Any) -> Iterator[int]:
    if isinstance(value, int) and not isinstance(value, bool):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _numbers(part)


def _of_tokenizer(tokenizer: PreTrainedTokenizerBase) -> Iterator[int]:
    """Tokens that have a part in every text, such as ``<bos>``."""
    yield from leading_tokens(tokenizer)
    for name in _NAMED:
        token = getattr(tokenizer, f"{name}_id", None)
        if token is not None:
            yield int(token)
