"""The demo's stages, and how much work each is."""

from __future__ import annotations

from puma_hub.demo.demo_rows import DemoRows
from puma_hub.demo.settings import DemoSettings
from puma_hub.training.defaults import PROMPT_DEFAULTS
from puma_hub.training.posterior import STEPS

STAGES = (
    "source_texts",
    "source_prompts",
    "source_scores",
    "other_prompts",
    "target_texts",
    "adapter",
    "target_scores",
    "retraining",
)
_TEXT = 30  # tokens of an item's text, about
_ROW = 4  # a row forward, or backward, takes about as long as so many tokens of a text: two tokens, and its cache


def planned_work(rows: DemoRows, settings: DemoSettings) -> dict[str, float]:
    """Estimated work of each stage in :data:`STAGES`, in tokens of item texts that go through an LLM."""
    parts = [*rows.splits.values(), *(rows.others.values() if rows.others is not None else ())]
    counts = [len(part) for part in parts] + [0] * (4 - len(parts))
    texts = [set(part["item_text"]) for part in parts] + [set()] * (4 - len(parts))
    held_out, others = counts[1], counts[3]
    own_texts = texts[0] | texts[1]
    all_but_trained = own_texts | texts[3]

    def training(count: int) -> float:
        epochs = PROMPT_DEFAULTS["posterior"]["num_train_epochs"]
        return _ROW * count * (2 * epochs + 3 * STEPS)  # forward and backward; a step is checked by going forward

    return {
        "source_texts": _TEXT * len(own_texts),
        "source_prompts": training(counts[0]),
        "source_scores": _ROW * (3 * held_out + settings.adapter_rows),
        "other_prompts": _TEXT * len((texts[2] | texts[3]) - own_texts) + training(counts[2]) + 2 * _ROW * others,
        "target_texts": _TEXT * len(all_but_trained),
        "adapter": 2 * _ROW * settings.adapter_rows,
        "target_scores": _ROW * (3 * held_out + 2 * others),
        "retraining": training(counts[0]) + _ROW * held_out,
    }
