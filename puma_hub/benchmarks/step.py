"""One training step of an adapter: ours against a straightforward one, and against the matrix products it needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import datasets
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from puma_hub.adapter import PumaAdapter, PumaConfig
from puma_hub.benchmarks.measured import Measured, matrix_rate, seconds_of
from puma_hub.benchmarks.setting import BenchSetting
from puma_hub.data.rows import column, numbers
from puma_hub.identity import ModelSpec
from puma_hub.scorer import PersonalizedLM
from puma_hub.scorer.padding import padded
from puma_hub.tasks import PRESETS, PromptTemplate
from puma_hub.training.report import forward_flops

STRAIGHTFORWARD_BATCH = 32
BATCHES = (32, 128, 512)
SOURCE_SIZE = 576  # SmolLM2-135M
SLOT_LAST = PRESETS["rating"].rstrip()


def bench_step(setting: BenchSetting) -> Iterator[Measured]:
    """Rows a second of forward, backward and AdamW's update of an adapter, by model, template and batch.

    The straightforward step is a plain transformers forward of the whole text, soft prompt first, with ``labels``. It
    computes logits of the whole vocabulary at every position. Ours has a cached prefix and computes answer logits only.
    The limit is the rate of a bare matrix product in the model's sizes over the FLOPs that the method needs.
    """
    share = setting.seconds / (len(setting.models) * (2 * len(BATCHES) + 2))
    for model in setting.models:
        lm = setting.scorer(model, prefix_cache="full")
        plain = _straightforward(lm.model, lm.tokenizer, lm.embedding_rms, setting)
        slow = STRAIGHTFORWARD_BATCH / seconds_of(plain, 2 * share, setting.device)
        for name, template in (("default template", None), ("soft prompt last", SLOT_LAST)):
            scorer = PersonalizedLM(lm.model, lm.tokenizer, template=template, prefix_cache="full")
            for batch in BATCHES:
                step, flops = _ours(scorer, setting.rows, batch)
                rate = batch / seconds_of(step, share, setting.device)
                limit = _rate(scorer, batch) / (flops / batch)
                what = f"{model}, {name}, batch {batch}"
                note = f"straightforward: batch {STRAIGHTFORWARD_BATCH}"
                yield Measured(what, "rows/s", rate, slow, limit, note)


def _rate(lm: PersonalizedLM, batch: int) -> float:
    """FLOP/s of the largest product in a layer, for the new tokens of a batch."""
    config: Any = lm.config.get_text_config()
    wide = getattr(config, "intermediate_size", None) or 4 * lm.hidden_size
    return matrix_rate(lm.dtype, lm.device, 2 * batch, lm.hidden_size, wide)


def _adapter(lm_size: int, scale: float, device: torch.device) -> tuple[PumaAdapter, Any, torch.Tensor]:
    torch.manual_seed(0)
    adapter = PumaAdapter(PumaConfig(sources=[ModelSpec("source", SOURCE_SIZE)], target=ModelSpec("target", lm_size)))
    prompts = torch.randn(1024, 1, SOURCE_SIZE)
    adapter.standardize(prompts.mean(0), [float(prompts.std())], scale)
    moved: Any = adapter
    moved.to(device=device).train()
    return adapter, torch.optim.AdamW(adapter.parameters(), lr=1e-4), prompts.to(device)


def _update(loss: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def _ours(lm: PersonalizedLM, rows: datasets.Dataset, batch: int) -> tuple[Callable[[], None], float]:
    """A step, and its FLOPs without prefixes."""
    adapter, optimizer, prompts = _adapter(lm.hidden_size, lm.embedding_rms, lm.device)
    wanted = rows.select(range(min(len(rows), 8 * batch)))
    encoded = lm.encode(wanted.select_columns(["item_text"]))
    labels = torch.tensor(numbers(wanted, "label"), dtype=torch.float32, device=lm.device)
    lm.fill_cache(encoded)
    turn = iter(range(1 << 60))

    def step() -> None:
        first = next(turn) * batch
        chosen = [(first + place) % len(encoded) for place in range(batch)]
        target = adapter(prompts[torch.tensor(chosen) % len(prompts)]).target_prompts
        _update(lm.task.loss(lm.logits(target, encoded.take(chosen)), labels[chosen], adapter.head), optimizer)

    return step, 2 * forward_flops(lm, encoded.take([place % len(encoded) for place in range(batch)]), 1)[0]


def _straightforward(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, scale: float, setting: BenchSetting
) -> Callable[[], None]:
    whole_model: Any = AutoModelForCausalLM.from_config(model.config, dtype=model.dtype)
    whole_model.load_state_dict(model.state_dict())
    whole_model.to(device=model.device).eval().requires_grad_(False)
    embed: Any = whole_model.get_input_embeddings()
    adapter, optimizer, prompts = _adapter(embed.weight.shape[1], scale, model.device)
    template = PromptTemplate.of("paper/amazon")
    rows = setting.rows.select(range(8 * STRAIGHTFORWARD_BATCH))
    texts = [template.render({"item_text": text}) for text in column(rows, "item_text").to_pylist()]
    labels = numbers(rows, "label")
    turn = iter(range(1 << 60))

    def step() -> None:
        first = next(turn) * STRAIGHTFORWARD_BATCH
        chosen = [(first + place) % len(texts) for place in range(STRAIGHTFORWARD_BATCH)]
        before = tokenizer(texts[0][0])["input_ids"]
        after = [tokenizer(f"{texts[i][1]} {labels[i]:g}", add_special_tokens=False)["input_ids"] for i in chosen]
        ids, mask = padded(after, "left", model.device)
        target = adapter(prompts[torch.tensor(chosen) % len(prompts)]).target_prompts.to(model.dtype)
        front = embed(torch.tensor([before] * len(chosen), device=model.device))
        whole = torch.cat([front, target, embed(ids)], 1)
        kept = torch.ones(whole.shape[:2], dtype=torch.long, device=model.device)
        kept[:, whole.shape[1] - mask.shape[1] :] = mask.long()
        wanted = torch.full(whole.shape[:2], -100, device=model.device)
        wanted[:, -1] = ids[:, -1]
        _update(whole_model(inputs_embeds=whole, attention_mask=kept, labels=wanted).loss, optimizer)

    return step
