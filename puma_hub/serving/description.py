"""``serving.json``: what another implementation needs in order to score with prompts of a bank."""

from __future__ import annotations

import os
from typing import Any

import torch

from puma_hub._version import __version__
from puma_hub.scorer.embedding_scale import embedding_scale
from puma_hub.scorer.encoding import Segments
from puma_hub.serving.inputs import PromptInputs
from puma_hub.storage import write_json
from puma_hub.tasks.template import SoftSlot

FORMAT_VERSION = 1
_ROWS = tuple(
    {"item_text": text, "history": ["An earlier title"]}
    for text in ("A title", "Another title (1999), Drama", 'Punctuation; "quotes" and ünïcödé')
)


def describe(inputs: PromptInputs) -> dict[str, Any]:
    """Everything but the prompts: model, template, tokens, answers, head and examples, as plain data. No user in it."""
    encoded = [inputs.segments(row) for row in _ROWS]
    before, after = inputs.reader.template.text.split("<user>")
    return {
        "format_version": FORMAT_VERSION,
        "puma_hub_version": __version__,
        "model": inputs.reader.spec.to_dict(),
        "max_positions": inputs.reader.encoder.max_length,
        "prompts": {
            "length": inputs.bank.shape[0],
            "stand_for": "what the embedding layer returns; they are not multiplied by its scale",
            "embedding_scale": embedding_scale(inputs.reader.model),
        },
        "text": {
            "template": inputs.reader.template.text,
            "slot": "<user>",
            "before": before,
            "after": after,
            "leading_ids": list(inputs.reader.encoder.text.leading),
            "prefix_ids": _constant(encoded, 0),
            "suffix_ids": _constant(encoded, -1),
            "rule": (
                "ids = leading_ids, then the text before the slot tokenised whole without special tokens, then the "
                "prompt's rows, then the text after it tokenised as a continuation; null where they depend on the row"
            ),
        },
        "task": inputs.reader.task.to_dict(),
        "answers": list(inputs.reader.task.answers),
        "answer_texts": list(inputs.answers.texts),
        "answer_ids": inputs.answer_ids,
        "head": _head(inputs),
        "examples": {
            "rows": [{**row, "segments": _listed(segments)} for row, segments in zip(_ROWS, encoded)],
            "scores": _scores(inputs),
        },
    }


def write_description(inputs: PromptInputs, path: str | os.PathLike[str]) -> None:
    """Write :func:`describe` to a file, ``serving.json`` by convention.

    Raises:
        StorageError: the file cannot be written.
    """
    write_json(path, describe(inputs))


def _constant(rows: list[Segments], place: int) -> list[int] | None:
    """The tokens that all rows have there; None if they differ."""
    first, *others = (row[place] for row in rows)
    return None if isinstance(first, SoftSlot) or any(other != first for other in others) else list(first)


def _listed(segments: Segments) -> list[Any]:
    return [f"<{part.name}>" if isinstance(part, SoftSlot) else list(part) for part in segments]


def _head(inputs: PromptInputs) -> dict[str, Any] | None:
    """The rating head's layers; a ReLU is between them."""
    if inputs.head is None:
        return None
    layers = [layer for layer in inputs.head.mlp if isinstance(layer, torch.nn.Linear)]
    return {
        "input": "log-probabilities or logits of the answers, less their mean",
        "activation": "relu",
        "layers": [{"weight": layer.weight.tolist(), "bias": layer.bias.tolist()} for layer in layers],
    }


def _scores(inputs: PromptInputs) -> list[dict[str, Any]]:
    """Scores of made-up log-probabilities, to compare an implementation with."""
    if inputs.reader.task.offset_column is not None:
        return []
    rising = [-0.5 * place for place in range(len(inputs.answer_ids))]
    made = [rising, rising[::-1]]
    with torch.no_grad():
        found = inputs.reader.task.predict(torch.tensor(made), inputs.head).tolist()
    return [{"logits": logits, "score": score} for logits, score in zip(made, found)]
