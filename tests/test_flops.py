"""The estimate of FLOPs in reports against what torch counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from puma_hub import PersonalizedLM
from puma_hub.scorer.encoding import text_length
from puma_hub.training.report import forward_flops
from tests.conftest import make_model
from tests.tiny_models import make_tiny

ROWS = [{"item_text": "Heat"}, {"item_text": "Toy Story (1995)"}]
MIXTURES = ("Mixtral", "Qwen3Moe", "Olmoe", "GptOss", "DeepseekV3", "Ernie4_5_Moe")


def matrix_flops(model: PreTrainedModel, length: int) -> int:
    """FLOPs of the products with matrices of weights in the layers, one row of ``length`` tokens forward."""
    output: Any = model.get_output_embeddings()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.arange(length)[None] + 3, use_cache=False)
    counts = {str(operation): flops for operation, flops in counter.get_flop_counts()["Global"].items()}
    return counts["aten.mm"] + counts.get("aten.addmm", 0) - 2 * length * output.weight.numel()


@pytest.mark.parametrize("name", ["llama", "gemma3", *MIXTURES])
def test_the_formula_is_what_torch_counts(name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    model = make_tiny(f"{name}ForCausalLM") if name in MIXTURES else make_model(name)
    lm = PersonalizedLM(model, tokenizer, prefix_cache="off")
    if name in MIXTURES:
        model.set_experts_implementation("eager")  # torch counts no grouped products
    encoded = lm.encode(ROWS, prompt_length=2)
    counted = sum(matrix_flops(model, text_length(row) + 2) for row in encoded.segments)
    assert sum(forward_flops(lm, encoded, 2)) == pytest.approx(counted, rel=1e-9)
