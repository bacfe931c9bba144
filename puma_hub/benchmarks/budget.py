"""A prefix cache with a tenth of the memory that all items' texts would take."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from puma_hub.benchmarks.measured import Measured, seconds_of
from puma_hub.benchmarks.setting import BenchSetting
from puma_hub.scorer import PersonalizedLM
from puma_hub.scorer.batches import predict_rows

ROWS, BATCH = 128, 32
_SHARE = 10
_SMALL = ("lru", "recompute")


def bench_budget(setting: BenchSetting) -> Iterator[Measured]:
    """Rows a second where few prefixes can be kept, each row of a text of its own. Straightforward: ``off``."""
    texts = list(dict.fromkeys(setting.rows["item_text"][:]))
    rows = [{"item_text": f"{texts[number % len(texts)]}, copy {number}"} for number in range(ROWS)]
    share = setting.seconds / (6 * len(setting.models))
    for model in setting.models:
        lm = setting.scorer(model, prefix_cache="full")
        lm.encode(rows)
        budget = lm.cache_report.bytes_needed // _SHARE
        scorers = {
            policy: PersonalizedLM(lm.model, lm.tokenizer, prefix_cache=policy, cache_budget=budget)
            for policy in ("off", *_SMALL)
        }
        for what, work in (("training", _train), ("scoring", _score)):
            rates = {
                policy: ROWS / seconds_of(work(scorer, rows), share, setting.device)
                for policy, scorer in scorers.items()
            }
            for policy in _SMALL:
                yield Measured(f"{model}, {what}, {policy}", "rows/s", rates[policy], rates["off"], None, "")


def _prompts(lm: PersonalizedLM) -> torch.Tensor:
    spread = torch.randn(ROWS, 1, lm.hidden_size, generator=torch.Generator().manual_seed(0))
    return lm.word_prompt(1).cpu()[None] + 0.01 * spread


def _score(lm: PersonalizedLM, rows: list[dict[str, str]]) -> Callable[[], object]:
    encoded, prompts = lm.encode(rows), _prompts(lm).to(lm.device)
    return lambda: predict_rows(lm, encoded, prompts, torch.arange(ROWS), 256)


def _train(lm: PersonalizedLM, rows: list[dict[str, str]]) -> Callable[[], object]:
    encoded, prompts = lm.encode(rows), _prompts(lm)

    def passes() -> None:
        """Forward and back to the prompts, in batches drawn anew."""
        for numbers in torch.randperm(ROWS).split(BATCH):
            given = prompts[numbers].to(lm.device).requires_grad_()
            lm.logits(given, encoded.take(numbers.tolist())).square().mean().backward()

    return passes
