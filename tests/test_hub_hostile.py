"""Files and cards of others: whatever JSON they hold gives an object or one of our errors, never anything else."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from safetensors.torch import save_file

from puma_hub import ModelSpec, PumaAdapter, PumaConfig
from puma_hub.adapter.facts import FACTS_FILE, AdapterFacts
from puma_hub.bank import Provenance
from puma_hub.bank.statistics import BankStatistics
from puma_hub.errors import ConfigurationError
from puma_hub.registry.published import PublishedAdapter, read_listing
from tests.fuzzing import as_file, damaged, quick, read_or_refused

SPEC = {"model_id": "org/a", "hidden_size": 8}
TARGET = {"model_id": "org/b", "hidden_size": 4}
INDEX = [
    {
        "name": "x",
        "results": [
            {
                "task": {"type": "text-classification"},
                "dataset": {"name": "d", "type": "d", "split": "s", "args": {"rows": 9, "users": 3}},
                "metrics": [
                    {"type": "rmse", "value": 1.1, "args": {"predictions": "migrated"}},
                    {"type": "rmse", "value": 1.0, "args": {"predictions": "source"}},
                ],
            }
        ],
    }
]
CARD = {
    "puma_hub": {"sources": [SPEC], "target": TARGET, "prompt_length": 1, "task": "rating", "format_version": 1},
    "model-index": INDEX,
    "license": "mit",
}
ENTRY = {"id": "user/adapter", "sha": "0" * 40, "cardData": CARD, "downloads": 3, "likes": 1, "private": False}
CONFIG = {
    **{"model_type": "puma_adapter", "sources": [SPEC], "target": TARGET, "hidden_size": 4, "dtype": "float32"},
    "trained_on": {
        "sources": [{"base_id": "0" * 16, "spread": 0.1, "users": 40}],
        **{"farthest": 2.0, "target_spread": 0.1, "target_users": 40},
    },
}
PROVENANCE = {
    "format_version": 1,
    "model": SPEC,
    "prompt_length": 1,
    "template": "rating",
    "task": {"name": "rating", "values": [1, 2, 3], "mse_weight": 0.5},
    "made_by": "given",
    "details": {"seed": 1},
    "history": [{"made_by": "given"}],
    "statistics": BankStatistics(np.zeros((1, 8)), 0.1, 40).to_dict(),
}
FACTS = {
    "evaluations": [
        {"dataset": "d", "split": "s", "rows": 9, "users": 3, "metrics": {"migrated": {"rmse": 1.0}}},
    ],
    "training": {"users": 3, "of_users": 9, "seconds": 1.5},
    "license": "mit",
    "intended_use": "films",
}


@quick
@given(data=damaged(ENTRY))
def test_any_listing_gives_an_adapter_or_our_error(data: Any) -> None:
    adapter = read_listing(data)
    if adapter is None:
        return
    assert isinstance(adapter, PublishedAdapter)
    assert adapter.pair.isprintable() and f"{adapter.repo_id}{adapter.task}{adapter.license}".isprintable()
    assert adapter.loss is None or 0 <= adapter.loss < math.inf
    json.dumps(adapter.to_dict(), allow_nan=False)


@quick
@given(data=damaged(CONFIG))
def test_any_config_gives_one_or_our_error(data: Any) -> None:
    if not isinstance(data, dict):
        return
    config = read_or_refused(PumaConfig.from_dict, data)
    if config is None:
        return
    assert config.source_size >= 0 and config.scored_task.answers
    text = json.dumps(config.to_dict(), allow_nan=False)
    assert PumaConfig.from_dict(json.loads(text)).to_dict() == config.to_dict()


@settings(quick, max_examples=40)
@given(data=damaged(CONFIG))
def test_any_config_file_gives_an_adapter_or_our_error(data: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("adapter")
    (folder / "config.json").write_bytes(as_file(data))
    save_file({}, folder / "model.safetensors", {"format": "pt"})
    assert read_or_refused(PumaAdapter.from_pretrained, folder) is None  # its weights are missing in any case
    read_or_refused(PumaConfig.from_pretrained, folder)


@quick
@given(data=damaged(PROVENANCE))
def test_any_provenance_gives_one_or_our_error(data: Any) -> None:
    if not isinstance(data, dict):
        return
    found = read_or_refused(Provenance.from_dict, data)
    if found is None:
        return
    assert found.answers >= 2 and found.as_step() and isinstance(found.model, ModelSpec)
    text = json.dumps(found.to_dict(), allow_nan=False, indent=2)
    assert Provenance.from_dict(json.loads(text)).to_dict() == found.to_dict()


@quick
@given(data=damaged(FACTS))
def test_any_facts_give_some_or_our_error(data: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("facts")
    (folder / FACTS_FILE).write_bytes(as_file(data))
    found = read_or_refused(AdapterFacts.read, folder)
    if found is None:
        return
    assert found.loss is None or 0 <= found.loss < math.inf
    found.write(folder)
    assert AdapterFacts.read(folder) == found


@quick
@given(data=damaged(SPEC))
def test_any_spec_gives_one_or_our_error(data: Any) -> None:
    spec = read_or_refused(ModelSpec.of, data)
    if spec is None:
        return
    assert spec.model_id.isprintable() and hash(spec) == hash(ModelSpec.of(spec.to_dict()))


def test_sources_together_have_a_limit() -> None:
    with pytest.raises(ConfigurationError, match="together are 2097152"):
        PumaConfig(sources=[{"model_id": name, "hidden_size": 2**20} for name in "ab"], target=TARGET)
