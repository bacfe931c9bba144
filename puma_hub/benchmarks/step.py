"""``puma-hub bench step``: one training step of an adapter, ours against a straightforward one, in one run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import datasets
import torch
from tabulate import tabulate
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from puma_hub.adapter import PumaAdapter, PumaConfig
from puma_hub.data import load_interactions
from puma_hub.data.rows import column, numbers
from puma_hub.demo.fetch import fetch
from puma_hub.demo.sources import SOURCES
from puma_hub.identity import ModelSpec
from puma_hub.scorer import PersonalizedLM
from puma_hub.scorer.padding import padded
from puma_hub.tasks import PRESETS, PromptTemplate
from puma_hub.training.report import versions

STRAIGHTFORWARD_BATCH = 32
SOURCE_SIZE = 576  # SmolLM2-135M
SLOT_LAST = PRESETS["rating"].rstrip()


def bench_step(model: str, dtype: str, batch_size: int, repeats: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Time both kinds of step in turn, with the same rows and dtype. Return samples per second and their ratios.

    The straightforward step is a plain transformers forward of the whole text, soft prompt first, with ``labels``. It
    computes logits of the whole vocabulary at every position. Our step has a cached prefix and computes only answer
    logits, with the default template and with the soft prompt as the last token. Every step includes the adapter's
    forward, backward and AdamW update.
    """
    folder = str(fetch(model, say)) if model in SOURCES else model
    torch_dtype = getattr(torch, dtype)
    titles = load_interactions("movielens-100k", folder=fetch("movielens-100k", say), users=50, item_statistics=True)[
        "train"
    ]
    say("loading the model for each kind of step")
    steps: dict[str, tuple[Callable[[int], None], int]] = {}
    for name, template in (("default", PRESETS["rating"]), ("slot_last", SLOT_LAST)):
        lm = PersonalizedLM.from_pretrained(folder, template=template, dtype=torch_dtype, prefix_cache="full")
        steps[name] = (_ours(lm, titles, batch_size), batch_size)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch_dtype).eval().requires_grad_(False)
    steps["straightforward"] = (_straightforward(plain, lm.tokenizer, lm.embedding_rms, titles), STRAIGHTFORWARD_BATCH)

    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for step, _ in steps.values():
        step(0)  # warm-up
    for repeat in range(repeats):
        say(f"round {repeat + 1} of {repeats}")
        for name, (step, _) in steps.items():
            start = time.perf_counter()
            step(repeat)
            seconds[name].append(time.perf_counter() - start)
    rates = {name: batch / statistics.median(seconds[name]) for name, (_, batch) in steps.items()}
    return {
        "samples_per_second": rates,
        "ratio": rates["default"] / rates["straightforward"],
        "ratio_slot_last": rates["slot_last"] / rates["straightforward"],
        "batch_size": {name: batch for name, (_, batch) in steps.items()},
        "model": model,
        "dtype": dtype,
        "repeats": repeats,
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }


def bench_table(report: dict[str, Any]) -> str:
    """The report as a Markdown table."""
    rates, batches = report["samples_per_second"], report["batch_size"]
    labels = {
        "straightforward": "straightforward: user first, whole text, full logits",
        "default": "default template, cached prefix, answer logits",
        "slot_last": "the same with the soft prompt as the last token",
    }
    return tabulate(
        [[label, batches[name], rates[name], rates[name] / rates["straightforward"]] for name, label in labels.items()],
        ["training step", "batch", "samples/s", "ratio"],
        tablefmt="github",
        floatfmt=".1f",
    )


def _adapter(target_size: int, scale: float) -> tuple[PumaAdapter, torch.optim.Optimizer, torch.Tensor]:
    torch.manual_seed(0)
    adapter = PumaAdapter(
        PumaConfig(sources=[ModelSpec("source", SOURCE_SIZE)], target=ModelSpec("target", target_size))
    )
    prompts = torch.randn(1024, 1, SOURCE_SIZE)
    adapter.standardize(prompts.mean(0), [float(prompts.std())], scale)
    return adapter.train(), torch.optim.AdamW(adapter.parameters(), lr=1e-4), prompts


def _update(loss: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def _ours(lm: PersonalizedLM, rows: datasets.Dataset, batch_size: int) -> Callable[[int], None]:
    adapter, optimizer, prompts = _adapter(lm.hidden_size, lm.embedding_rms)
    encoded = lm.encode(rows.select_columns(["item_text"]))
    labels = torch.from_numpy(numbers(rows, "label")).float()
    wanted = [i % len(encoded) for i in range(batch_size * 8)]
    lm.fill_cache(encoded.take(wanted))

    def step(number: int) -> None:
        numbers = [(number * batch_size + i) % len(wanted) for i in range(batch_size)]
        chosen = [wanted[i] for i in numbers]
        target = adapter(prompts[torch.tensor(chosen) % len(prompts)]).target_prompts
        _update(lm.task.loss(lm.logits(target, encoded.take(chosen)), labels[chosen], adapter.head), optimizer)

    return step


def _straightforward(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, scale: float, rows: datasets.Dataset
) -> Callable[[int], None]:
    embed: Any = model.get_input_embeddings()
    adapter, optimizer, prompts = _adapter(embed.weight.shape[1], scale)
    template = PromptTemplate.of("paper/amazon")
    texts = [template.render({"item_text": text}) for text in column(rows, "item_text").to_pylist()]

    def step(number: int) -> None:
        numbers = [(number * STRAIGHTFORWARD_BATCH + i) % len(texts) for i in range(STRAIGHTFORWARD_BATCH)]
        before = tokenizer(texts[0][0])["input_ids"]
        after = [
            tokenizer(f"{texts[i][1]} {rows[i]['label']:g}", add_special_tokens=False)["input_ids"] for i in numbers
        ]
        ids, mask = padded(after, "left", model.device)
        target = adapter(prompts[torch.tensor(numbers) % len(prompts)]).target_prompts.to(model.dtype)
        front = embed(torch.tensor([before] * len(numbers)))
        whole = torch.cat([front, target, embed(ids)], 1)
        kept = torch.ones(whole.shape[:2], dtype=torch.long)
        kept[:, whole.shape[1] - mask.shape[1] :] = mask.long()
        labels = torch.full(whole.shape[:2], -100)
        labels[:, -1] = ids[:, -1]
        _update(model(inputs_embeds=whole, attention_mask=kept, labels=labels).loss, optimizer)

    return step
