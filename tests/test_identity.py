"""Fingerprints follow the weights, not names, dtypes or files."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, GemmaConfig, GemmaForCausalLM, PreTrainedModel

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


@pytest.mark.parametrize("family", ["gemma", "gemma2", "gemma3"])
def test_a_prompt_enters_behind_the_scale_of_the_embeddings(family: str) -> None:
    """Older transformers scaled what it was given as ``inputs_embeds`` for Gemma 1 and 2, by the root of the size.

    A fingerprint does not tell which, so that prompts of the one are no prompts of the other: setup.cfg excludes these.
    """
    if family == "gemma":
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        torch.manual_seed(0)
        config = GemmaConfig(**sizes, num_key_value_heads=2, head_dim=8, vocab_size=400)
        model: PreTrainedModel = GemmaForCausalLM(config).eval()
    else:
        model = make_model(family)
    ids = torch.arange(5)[None]
    embedding = model.get_input_embeddings()
    given = embedding(ids)
    assert torch.allclose(given, embedding.weight[ids] * 32**0.5, rtol=1e-5)
    with torch.no_grad():
        assert torch.equal(model(inputs_embeds=given).logits, model(input_ids=ids).logits)


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


_BAD: list[tuple[object, ...]] = [
    *(("", 8), (" ", 8), ("a\nb", 8), ("a\x1b[2J", 8), ("a\ud800", 8), ("a" * 5000, 8), (None, 8)),
    *(("a", 0), ("a", -1), ("a", True), ("a", 2.0), ("a", "8"), ("a", 10**400), ("a", 2**20 + 1), ("a", float("inf"))),
    *(("a", 8, 5), ("a", 8, ""), ("a", 8, None, ["llama"]), ("a", 8, None, None, {})),
]


@pytest.mark.parametrize("fields", _BAD)
def test_bad_specs(fields: tuple[str, int]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ModelSpec(*fields)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 400
