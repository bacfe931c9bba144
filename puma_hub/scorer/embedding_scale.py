"""The factor by which a model's embedding layer multiplies its rows, as in Gemma."""

from __future__ import annotations

from typing import Any

import torch
from torch.func import functional_call
from transformers import PreTrainedModel

from puma_hub.errors import UnsupportedModelError

_TOLERANCE = 1e-5  # relative; the layer computes in float32 here


def embedding_scale(model: PreTrainedModel) -> float:
    """The factor between a row of the embedding matrix and what the layer returns for it; 1 for most models.

    The layer is called with known rows in place of its own, in float32. So it is not the name of the model that
    decides, and the layer's weights are not read.

    Raises:
        UnsupportedModelError: the layer does something else than multiply by one number.
    """
    layer: Any = model.get_input_embeddings()
    rows, size = layer.weight.shape
    place = "cpu" if layer.weight.is_meta else layer.weight.device
    row = torch.linspace(-1.0, 2.0, int(size), device=place)
    ids = torch.tensor([0, rows - 1], device=place)
    try:
        with torch.no_grad():
            # The same row for every token, without the memory of a matrix.
            found: torch.Tensor = functional_call(layer, {"weight": row.expand(rows, size)}, (ids,)).double()
    # torch raises NotImplementedError for layers whose weights are on "meta".
    except (RuntimeError, TypeError, ValueError, NotImplementedError, KeyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UnsupportedModelError(
            f"the embedding layer of {type(model).__name__}, {type(layer).__name__}, cannot be called with other rows "
            f"({reason}); load the model as it is published, neither quantised nor offloaded"
        ) from error
    plain = row.double()
    scale = float(((found * plain).sum() / (2 * plain.square().sum())).float())
    if found.shape != (2, size) or not torch.allclose(found, scale * plain, rtol=0.0, atol=_TOLERANCE * abs(scale)):
        raise UnsupportedModelError(
            f"the embedding layer of {type(model).__name__}, {type(layer).__name__}, does more than multiply its rows "
            "by one number, so no row stands for a soft prompt; score its prompts with PersonalizedLM"
        )
    return scale
