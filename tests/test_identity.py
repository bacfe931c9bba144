"""Fingerprints follow the weights, not names, dtypes or files."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from puma_hub import ModelSpec
from puma_hub.errors import ConfigurationError, MismatchError
from puma_hub.identity import fingerprint
from tests.conftest import NAMED_FAMILIES, make_model


@pytest.mark.parametrize("family", NAMED_FAMILIES)
def test_same_weights_same_fingerprint(family: str, tmp_path: Path) -> None:
    model = make_model(family)
    expected = fingerprint(model)
    assert fingerprint(copy.deepcopy(model).to(torch.bfloat16)) == expected
    for dtype, shard in ((torch.float32, "1GB"), (torch.bfloat16, "20KB")):
        folder = tmp_path / f"{dtype}"
        copy.deepcopy(model).to(dtype).save_pretrained(folder, max_shard_size=shard)
        assert fingerprint(AutoModelForCausalLM.from_pretrained(folder)) == expected


def test_fingerprint_is_what_the_documentation_says() -> None:
    model = make_model("llama")
    digest = hashlib.sha256()
    fields = {
        "model_type": "llama",
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
    }
    for name, value in fields.items():
        digest.update(f"{name}={value}\n".encode())
    digest.update(b"embeddings=(400, 32)\n")
    rounded = model.get_input_embeddings().weight.detach().to(torch.bfloat16).float().numpy()
    digest.update((rounded.view("<u4") >> 16).astype("<u2").tobytes())
    assert fingerprint(model) == digest.hexdigest()[:16]


def test_other_weights_or_shapes_differ() -> None:
    prints = {fingerprint(make_model(family, seed)) for family in NAMED_FAMILIES for seed in (0, 1)}
    assert len(prints) == 2 * len(NAMED_FAMILIES)
    assert fingerprint(make_model("llama", num_hidden_layers=2)) != fingerprint(make_model("llama"))
    changed = make_model("llama")
    with torch.no_grad():
        changed.get_input_embeddings().weight[399, 31] += 1.0
    assert fingerprint(changed) != fingerprint(make_model("llama"))


def test_float16_copy_agrees_where_it_holds_the_values() -> None:
    model = make_model("llama")
    exact = copy.deepcopy(model).to(torch.bfloat16).float()
    assert fingerprint(copy.deepcopy(exact).half()) == fingerprint(exact)


def test_spec_from_model() -> None:
    spec = ModelSpec.from_model(make_model("gemma3"), model_id="me/tiny", revision="abc")
    assert (spec.model_id, spec.hidden_size, spec.revision, spec.model_type) == ("me/tiny", 32, "abc", "gemma3_text")
    assert ModelSpec.of({**spec.to_dict(), "later": 1}) == spec


def test_require_same() -> None:
    spec = ModelSpec("a", 8, fingerprint="1" * 16)
    spec.require_same(ModelSpec("b", 8, fingerprint="1" * 16), "bank")
    with pytest.raises(MismatchError, match=r"hidden size 8.*hidden size 9"):
        spec.require_same(ModelSpec("b", 9), "bank")
    with pytest.raises(MismatchError, match=r"1111.*2222"):
        spec.require_same(ModelSpec("a", 8, fingerprint="2" * 16), "bank")


def test_without_a_fingerprint_names_have_to_be_the_same() -> None:
    known, bare = ModelSpec("org/a", 8, fingerprint="1" * 16, revision="x"), ModelSpec("org/a", 8)
    for first, second in ((known, bare), (bare, known), (bare, ModelSpec("org/a", 8, revision="y"))):
        first.require_same(second, "bank")
    for other in (ModelSpec("org/b", 8), ModelSpec("models/a", 8), ModelSpec("org/a", 8, revision="y")):
        for first, second in ((known, other), (other, known)):
            with pytest.raises(MismatchError, match=r"bank: .* give the fingerprint of both: ModelSpec.from_model"):
                first.require_same(second, "bank")


@pytest.mark.parametrize("fields", [("", 8), ("a", 0), ("a", True), ("a", 2.0)])
def test_bad_specs(fields: tuple[str, int]) -> None:
    with pytest.raises(ConfigurationError):
        ModelSpec(*fields)
