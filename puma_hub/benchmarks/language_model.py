"""The frozen LLM without training: reading items' texts, scoring rows, and the Gauss-Newton start."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from puma_hub.bank import PromptBank
from puma_hub.benchmarks.measured import Measured, matrix_rate, seconds_of
from puma_hub.benchmarks.setting import BenchSetting
from puma_hub.data.rows import column
from puma_hub.scorer import PersonalizedLM
from puma_hub.scorer.batches import predict_rows
from puma_hub.scorer.padding import padded
from puma_hub.training import AdapterTrainer, PumaTrainingArguments, draw_rows
from puma_hub.training.report import forward_flops
from puma_hub.training.teacher import with_source_predictions

ROWS, START_ROWS, TEXTS, USERS = 2048, 256, 96, 64


def bench_prefix(setting: BenchSetting) -> Iterator[Measured]:
    """Items' texts a second into an empty prefix cache. Straightforward: a plain forward with a cache, 32 at once."""
    share = setting.seconds / (2 * len(setting.models))
    for model in setting.models:
        lm = setting.scorer(model, prefix_cache="full")
        texts = list(dict.fromkeys(setting.rows["item_text"][:]))[:TEXTS]
        rows = [{"item_text": text} for text in texts]
        encoded = lm.encode(rows)
        flops = forward_flops(lm, encoded, 1)[1]

        def fill(lm: PersonalizedLM = lm, rows: list[dict[str, str]] = rows) -> None:
            fresh = PersonalizedLM(lm.model, lm.tokenizer, prefix_cache="full")
            fresh.fill_cache(fresh.encode(rows))

        prefixes = [list(prefix) for prefix in encoded.prefixes]

        @torch.no_grad()
        def plain(lm: PersonalizedLM = lm, prefixes: list[list[int]] = prefixes) -> None:
            for start in range(0, len(prefixes), 32):
                ids, mask = padded(prefixes[start : start + 32], "left", lm.device)
                lm.model(input_ids=ids, attention_mask=mask.long(), use_cache=True)

        ours = len(texts) / seconds_of(fill, share, setting.device)
        slow = len(texts) / seconds_of(plain, share, setting.device)
        limit = matrix_rate(lm.dtype, lm.device, 128, lm.hidden_size, 4 * lm.hidden_size) / (flops / len(texts))
        yield Measured(f"{model}, texts", "texts/s", ours, slow, limit, "ours with the check of loading")


def bench_score(setting: BenchSetting) -> Iterator[Measured]:
    """Rows a second of evaluation: all prefixes are cached. Straightforward: a plain forward of the whole text."""
    share = setting.seconds / (2 * len(setting.models))
    for model in setting.models:
        lm = setting.scorer(model, prefix_cache="full")
        rows = setting.rows.select(range(min(ROWS, len(setting.rows))))
        encoded = lm.encode(rows.select_columns(["item_text"]))
        lm.fill_cache(encoded)
        prompts = lm.word_prompt(1)[None] + 0.01 * torch.randn(len(rows), 1, lm.hidden_size, device=lm.device)
        users = torch.arange(len(rows))
        texts = column(rows, "item_text").to_pylist()[:64]
        before = [lm.tokenizer(lm.template.render({"item_text": text})[0])["input_ids"] for text in texts]

        @torch.no_grad()
        def plain(lm: PersonalizedLM = lm, before: list[list[int]] = before) -> None:
            ids, mask = padded([[*ids, ids[-1], ids[-1]] for ids in before], "left", lm.device)
            lm.model(input_ids=ids, attention_mask=mask.long())

        ours = len(rows) / seconds_of(lambda: predict_rows(lm, encoded, prompts, users, 256), share, setting.device)  # noqa: B023
        slow = len(before) / seconds_of(plain, share, setting.device)
        flops = forward_flops(lm, encoded, 1)[0] / len(rows)
        limit = matrix_rate(lm.dtype, lm.device, 512, lm.hidden_size, 4 * lm.hidden_size) / flops
        yield Measured(f"{model}, rows", "rows/s", ours, slow, limit, "each row with a prompt of its own")


def bench_start(setting: BenchSetting) -> Iterator[Measured]:
    """Rows a second of the Gauss-Newton start, whose products with all earlier rows count. Limit: forward and back."""
    for model in setting.models:
        lm = setting.scorer(model, prefix_cache="full")
        rng = np.random.default_rng(0)
        prompts = rng.standard_normal((USERS, 1, lm.hidden_size)).astype(np.float32) * lm.embedding_rms
        bank = PromptBank.from_arrays(
            [f"user-{number:03d}" for number in range(USERS)], prompts, lm.spec, template=lm.template.text, task=lm.task
        )
        items = setting.rows.select_columns([name for name in setting.rows.column_names if name.startswith("item")])
        drawn = draw_rows(bank, items, rows=START_ROWS, seed=0)
        taught = with_source_predictions(lm, bank, drawn)
        args = PumaTrainingArguments(num_train_epochs=0, start_rows=START_ROWS, validation_share=0.0, disable_tqdm=True)
        trainer = AdapterTrainer(lm, bank, taught, args)
        seconds = seconds_of(trainer.train, setting.seconds / len(setting.models), setting.device)
        encoded = lm.encode(drawn.select_columns(["item_text"]))
        flops = 2 * forward_flops(lm, encoded, 1)[0] / START_ROWS
        limit = matrix_rate(lm.dtype, lm.device, 128, lm.hidden_size, 4 * lm.hidden_size) / flops
        yield Measured(f"{model}, {START_ROWS} rows", "rows/s", START_ROWS / seconds, None, limit)
