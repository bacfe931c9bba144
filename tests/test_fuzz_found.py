"""What arbitrary files have brought to light, each by itself: values that readers let through, or died of."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from puma_hub import ModelSpec, PromptBank, PumaAdapter, PumaConfig, PumaHubError
from puma_hub.adapter.trained_on import TrainedOn
from puma_hub.bank import KeyedStore, Provenance
from puma_hub.bank.statistics import BankStatistics
from puma_hub.data.held_out import TrainedRows
from puma_hub.evaluation.gate import Gate
from puma_hub.tasks import PromptTemplate
from tests.conftest import make_bank
from tests.fuzzing import LONGEST_MESSAGE

DEEP: Any = []
for _ in range(200):
    DEEP = [DEEP]
GOOD = {"model": {"model_id": "org/a", "hidden_size": 2}, "prompt_length": 1}
MEAN = {"shape": [1, 2], "mean": "AAAAAAAAAAA=", "spread": 1.0, "users": 40}
BANK = {"base_id": "a", "spread": 1.0, "users": 3}
TRAINED = {"sources": [BANK], "farthest": 1.0, "target_spread": 1.0, "target_users": 3}

WRONG: dict[str, Callable[[], object]] = {
    "details that are not finite": lambda: Provenance.from_dict({**GOOD, "details": {"loss": math.nan}}),
    "details that are too deep to write": lambda: Provenance.from_dict({**GOOD, "details": {"loss": DEEP}}),
    "a history that is not finite": lambda: Provenance.from_dict({**GOOD, "history": [{"loss": math.inf}]}),
    "an infinite number of rows": lambda: TrainedRows.from_dict({"hashes": "", "rows": math.inf}),
    "rows chosen by no text": lambda: TrainedRows.from_dict({"hashes": "", "rows": 0, "chosen": ["\n"] * 99}),
    "more users than a float holds": lambda: BankStatistics.from_dict({**MEAN, "users": 10**400}),
    "a spread that is text": lambda: BankStatistics.from_dict({**MEAN, "spread": "1.0"}),
    "users that are true": lambda: TrainedOn.of({**TRAINED, "target_users": True}),
    "a spread beyond floats": lambda: TrainedOn.of({**TRAINED, "farthest": 10**400}),
    "a template of many words": lambda: PromptTemplate.of("word " * 2000),
    "a template of many slots": lambda: PromptTemplate.of("".join(f"<slot_{number}>" for number in range(999))),
    "a model with a long name": lambda: ModelSpec("x" * 4000, 0),
    "a report of a far version": lambda: Gate(min_rows=1).judge(
        {"source": {"metric": "rmse"}, "target": {"metric": "rmse"}, "format_version": 10**4000}
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_refused_in_one_short_line(what: str) -> None:
    with pytest.raises(PumaHubError) as caught:
        WRONG[what]()
    assert len(str(caught.value).splitlines()) == 1 and len(str(caught.value)) <= LONGEST_MESSAGE


def test_a_step_beyond_floats_is_no_rounding(tmp_path: Path) -> None:
    bank = make_bank(3).with_provenance(details={"rounded": {"dtype": "int8", "step": 10**400}})
    bank.save_pretrained(tmp_path / "bank")
    assert np.array_equal(PromptBank.from_pretrained(tmp_path / "bank").prompts, bank.prompts)


@pytest.mark.parametrize("drift", [[], "text", 3, None, {"estimate": "text"}])
def test_a_drift_that_is_no_interval_fails_the_condition(drift: Any) -> None:
    side = {"metric": "rmse", "rows": 3}
    (found,) = Gate(max_drift=0.1).judge({"source": side, "target": side, "drift": {"all": {"drift": drift}}}).outcomes
    assert not found.passed and found.value is None and found.reason


def test_a_small_file_does_not_take_much_memory(tmp_path: Path) -> None:
    """A config of someone else may state any sizes; the weights beside it say what there is."""
    spec, target = ModelSpec("org/a", 8), ModelSpec("org/b", 4)
    PumaAdapter(PumaConfig(sources=[spec], target=target, hidden_size=4)).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"architecture": "paper", "hidden_size": 2**14, "sources": [{"model_id": "org/a", "hidden_size": 2**14}]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    before, began = psutil.Process().memory_info().rss, time.process_time()
    with pytest.raises(PumaHubError, match=r"does not fit its config: missing 'network.*, \.\.\.;"):
        PumaAdapter.from_pretrained(tmp_path)
    assert psutil.Process().memory_info().rss - before < 2**29 and time.process_time() - began < 5


def test_a_store_that_says_its_prompts_are_larger(tmp_path: Path) -> None:
    make_bank(3).to_lmdb(tmp_path / "store")
    file = tmp_path / "store" / "store.json"
    data = json.loads(file.read_text())
    file.write_text(json.dumps({**data, "prompt_length": 2**16, "statistics": None}))
    with pytest.raises(PumaHubError, match="bytes of data cannot hold 3 prompts of its shape"):
        KeyedStore(tmp_path / "store").prompts_of(["user-1"])
