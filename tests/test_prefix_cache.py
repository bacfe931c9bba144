"""Caches smaller than what is needed: what a miss costs, and that nothing depends on what was evicted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from puma_hub import PersonalizedLM, PromptTrainer, PumaTrainingArguments
from puma_hub.errors import CheckpointError, ConfigurationError
from puma_hub.scorer.batches import predict_rows
from puma_hub.scorer.caches import CACHE_DTYPES, Packing, PrefixCache, States
from puma_hub.scorer.tokens import Tokens
from tests.conftest import make_interactions

FAMILIES = ["llama", "gemma3", "phi3"]


def rows_of(count: int) -> list[dict[str, str]]:
    return [{"item_text": "Toy Story " * (1 + i % 5) + str(i)} for i in range(count)]


@pytest.mark.parametrize("family", FAMILIES)
def test_states_do_not_depend_on_their_company(make_lm: Callable[..., PersonalizedLM], family: str) -> None:
    lm = make_lm(family, prefix_cache="recompute")
    encoded = lm.encode([{"item_text": ""}, *rows_of(40)])
    cache = PrefixCache(lm._through.way.kind, lm._through.prefix_states, "recompute")
    together = cache._states(encoded.prefixes)
    for number in range(len(encoded)):
        for company in ([number], [number, (number + 7) % 41, (number + 1) % 41]):
            found = cache._states([encoded.prefixes[i] for i in company])
            alone, beside = (states[encoded.prefixes[number]] for states in (found, together))
            assert all(map(torch.equal, alone, beside)) and len(alone) == len(beside) > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_the_same_bits_under_every_policy(make_lm: Callable[..., PersonalizedLM], family: str) -> None:
    prompts = torch.randn(60, 1, 32)
    found = []
    for policy, budget in (("full", None), ("lru", 300_000), ("lru", 0), ("recompute", None)):
        lm = make_lm(family, prefix_cache=policy, cache_budget=budget)
        encoded = lm.encode(rows_of(60))
        parts = [list(range(start, start + 20)) for start in (0, 20, 10, 40, 0)]  # some come back, evicted or not
        found.append(torch.cat([lm.logits(prompts[part], encoded.take(part)) for part in parts]))
        assert lm.cache_report.bytes_held <= (10**9 if policy == "full" else budget or 0)
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_a_miss_computes_what_the_batch_needs(make_lm: Callable[..., PersonalizedLM]) -> None:
    lm = make_lm(prefix_cache="recompute")
    encoded = lm.encode(rows_of(200))
    computed: list[int] = []

    def counted(prefixes: Sequence[Tokens], width: int) -> States:
        computed.append(len(prefixes))
        return lm._through.prefix_states(prefixes, width)

    cache = PrefixCache(lm._through.way.kind, counted, "recompute")
    cache.gather(encoded.prefixes[::25])
    widths = {-(-len(encoded.prefixes[i]) // 4) for i in range(0, 200, 25)}
    assert sum(computed) <= 8 + 3 * len(widths)  # the last batch of each width is filled up


def test_predictions_compute_a_prefix_once_though_none_is_kept(make_lm: Callable[..., PersonalizedLM]) -> None:
    lm = make_lm(prefix_cache="recompute")
    encoded = lm.encode(rows_of(30) * 10)
    users = torch.arange(10).repeat_interleave(30)
    predict_rows(lm, encoded, torch.randn(10, 1, 32), users, batch_size=20)
    assert lm.cache_report.misses <= 30 + 300 // 20  # and once more where a batch ends among the rows of one


def test_a_resumed_run_equals_an_uninterrupted_one(make_lm: Callable[..., PersonalizedLM], tmp_path: Path) -> None:
    rows = make_interactions(users=4, rows=10)

    def trainer(folder: str) -> PromptTrainer:
        lm = make_lm("gemma3", prefix_cache="lru", cache_budget=30_000)
        args = PumaTrainingArguments(
            output_dir=str(tmp_path / folder),
            num_train_epochs=2,
            per_device_train_batch_size=4,
            checkpoint_seconds=0.0,
        )
        return PromptTrainer(lm, rows, args)

    whole = trainer("whole").train()
    stopped = trainer("stopped")
    calls, logits = [0], stopped.lm.logits

    def failing(*arguments: object) -> torch.Tensor:
        calls[0] += 1
        if calls[0] == 12:
            raise KeyboardInterrupt
        return logits(*arguments)  # type: ignore[arg-type]

    stopped.lm.logits = failing  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    assert (whole.prompts == trainer("stopped").train().prompts).all()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", CACHE_DTYPES)
def test_fewer_bits_hold_more_prefixes_and_tell_what_is_lost(
    make_lm: Callable[..., PersonalizedLM], family: str, dtype: str
) -> None:
    prompts = torch.randn(60, 1, 32)
    exact = make_lm(family)
    encoded = exact.encode(rows_of(60))
    expected = exact.logits(prompts, encoded)
    found = []
    for policy, budget in (("full", None), ("lru", 100_000), ("recompute", None)):
        lm = make_lm(family, prefix_cache=policy, cache_budget=budget, cache_dtype=dtype)
        parts = [list(range(start, start + 20)) for start in (0, 20, 10, 40, 0)]  # some come back, evicted or not
        rows = lm.encode(rows_of(60))
        found.append(torch.cat([lm.logits(prompts[part], rows.take(part)) for part in parts]))
        if policy == "full":
            assert lm.cache_report.bytes_held <= lm.cache_report.bytes_needed
            assert lm.cache_report.bytes_held < (0.55 if dtype == "bfloat16" else 0.45) * exact.cache_report.bytes_held
    assert all(torch.equal(found[0], other) for other in found[1:])
    lost = (found[0][:20] - expected[:20]).abs().max() / expected.std()
    assert 0 < lost < 0.05
    assert lm.cache_report.dtype == dtype and 1e-4 < (lm.cache_report.error or 0) < 0.02


def test_a_run_is_not_resumed_with_a_cache_of_another_dtype(
    make_lm: Callable[..., PersonalizedLM], tmp_path: Path
) -> None:
    args = PumaTrainingArguments(output_dir=str(tmp_path), num_train_epochs=1, per_device_train_batch_size=4)
    rows = make_interactions(users=4, rows=10)
    PromptTrainer(make_lm(cache_dtype="int8"), rows, args).train()
    with pytest.raises(CheckpointError):
        PromptTrainer(make_lm(), rows, args).train()


def test_states_are_packed_by_the_vector() -> None:
    state = torch.randn(2, 3, 5, 16) * torch.tensor([0.01, 1.0, 100.0])[:, None, None]
    state[0, 0, 0] = 0.0
    states = (state, torch.arange(4), torch.randn(3).half())
    packing = Packing("int8")
    kept = packing.pack(states)
    assert [part.dtype for part in kept] == [torch.int8, torch.float32, torch.int64, torch.int8, torch.float32]
    again = packing.unpack(kept, states)
    assert [part.dtype for part in again] == [part.dtype for part in states]
    steps = state.abs().amax(-1, keepdim=True) / 127
    assert ((again[0] - state).abs() <= 0.5001 * steps).all() and not again[0][0, 0, 0].any()
    quantised = torch.fake_quantize_per_tensor_affine(state[0, 1, 2], float(steps[0, 1, 2]), 0, -127, 127)
    assert torch.allclose(again[0][0, 1, 2], quantised)
    assert packing.error(states[:1]) == pytest.approx(float((again[0] - state).norm() / state.norm()), rel=1e-4)
    with pytest.raises(ConfigurationError, match="bfloat16 or int8"):
        Packing("int4")


def test_a_cache_in_the_dtype_of_the_model_is_exact(make_lm: Callable[..., PersonalizedLM]) -> None:
    one, two = (make_lm(cache_dtype=dtype).to(torch.bfloat16) for dtype in (None, "bfloat16"))
    prompts = torch.randn(5, 1, 32)
    assert torch.equal(*(lm.logits(prompts, rows_of(5)) for lm in (one, two)))
    assert two.cache_report.error == 0.0
