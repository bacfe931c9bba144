"""Files and cards of others: whatever JSON they hold gives an object or one of our errors, never anything else."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from puma_hub import ModelSpec, PumaAdapter, PumaConfig, PumaHubError
from puma_hub.adapter.facts import FACTS_FILE, AdapterFacts
from puma_hub.bank import Provenance
from puma_hub.bank.statistics import BankStatistics
from puma_hub.errors import ConfigurationError
from puma_hub.registry.published import PublishedAdapter, read_listing

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

_HARD = [
    10**400,
    -(10**400),
    10**30,
    -1,
    0,
    True,
    math.inf,
    -math.inf,
    math.nan,
    1e-320,
    2**63,
    "",
    "\x1b[2J",
    "\ud800",
]
_SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.sampled_from(_HARD))
_DEEP: Any = []
for _ in range(200):
    _DEEP = [_DEEP, {"a": _DEEP[:1]}][:1]
ANY_JSON = st.one_of(
    st.recursive(
        _SCALARS,
        lambda inner: st.one_of(
            st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8) | st.sampled_from(["self", "name"]), inner)
        ),
        max_leaves=8,
    ),
    st.just(_DEEP),
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where in ``value`` something stands."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inside for place in _places(item, (*path, key)))]


def _with(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """``value`` with something else at one place."""
    if not path:
        return new
    if isinstance(value, dict):
        return {**value, path[0]: _with(value[path[0]], path[1:], new)}
    return [_with(item, path[1:], new) if at == path[0] else item for at, item in enumerate(value)]


def damaged(good: Any) -> st.SearchStrategy[Any]:
    """``good`` with arbitrary JSON at one or two places, or beside what it holds."""

    @st.composite
    def draw_damaged(draw: st.DrawFn) -> Any:
        value = good
        for _ in range(draw(st.integers(1, 2))):
            place = draw(st.sampled_from(_places(value)))
            value = _with(value, place, draw(ANY_JSON))
        if isinstance(value, dict) and draw(st.booleans()):
            names = st.sampled_from(["self", "num_labels", "to_dict", "source_size", "id2label"])
            value = {**value, draw(names | st.text(max_size=8)): draw(ANY_JSON)}
        return value

    return draw_damaged()


quick = settings(
    max_examples=150,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


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
    try:
        config = PumaConfig.from_dict(data)
    except PumaHubError:
        return
    assert config.source_size >= 0 and config.scored_task.answers
    json.dumps(config.to_dict(), allow_nan=False)


@settings(quick, max_examples=40)
@given(data=damaged(CONFIG))
def test_any_config_file_gives_an_adapter_or_our_error(data: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("adapter")
    try:
        (folder / "config.json").write_text(json.dumps(data))
    except ValueError:
        return  # not to be written as JSON
    save_file({}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(PumaHubError):  # its weights are missing in any case
        PumaAdapter.from_pretrained(folder)
    with suppress(PumaHubError):
        assert isinstance(PumaConfig.from_pretrained(folder), PumaConfig)


@quick
@given(data=damaged(PROVENANCE))
def test_any_provenance_gives_one_or_our_error(data: Any) -> None:
    if not isinstance(data, dict):
        return
    try:
        found = Provenance.from_dict(data)
    except PumaHubError:
        return
    assert found.answers >= 2 and found.as_step() and isinstance(found.model, ModelSpec)


@quick
@given(data=damaged(FACTS))
def test_any_facts_give_some_or_our_error(data: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    try:
        text = json.dumps(data)
    except ValueError:
        return
    folder = tmp_path_factory.mktemp("facts")
    (folder / FACTS_FILE).write_text(text)
    try:
        found = AdapterFacts.read(folder)
    except PumaHubError:
        return
    assert found is not None and (found.loss is None or 0 <= found.loss < math.inf)
    json.dumps(found.to_dict(), allow_nan=False)


@quick
@given(data=damaged(SPEC))
def test_any_spec_gives_one_or_our_error(data: Any) -> None:
    try:
        spec = ModelSpec.of(data)
    except PumaHubError:
        return
    assert spec.model_id.isprintable() and hash(spec) == hash(ModelSpec.of(spec.to_dict()))


def test_sources_together_have_a_limit() -> None:
    with pytest.raises(ConfigurationError, match="together are 2097152"):
        PumaConfig(sources=[{"model_id": name, "hidden_size": 2**20} for name in "ab"], target=TARGET)
