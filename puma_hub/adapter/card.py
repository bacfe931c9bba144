"""Model cards: facts from the adapter and its folder, prose from a template."""

from __future__ import annotations

import shlex
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from puma_hub.adapter import PumaAdapter, PumaConfig
from puma_hub.adapter.facts import AdapterFacts, Evaluation, Training, prediction_labels
from puma_hub.hub.card_parts import spec_data, spec_row
from puma_hub.hub.markup import block, code, literal, visible
from puma_hub.hub.naming import BLOCK, LIBRARY, is_hub_id, pair_repo_id, pair_tags
from puma_hub.hub.templates import filled
from puma_hub.tasks.owners import USERS

_TEMPLATE = "adapter_card.md"


def adapter_card(adapter: PumaAdapter, location: str, facts: AdapterFacts | None = None) -> ModelCard:
    """The card of an adapter; the same input gives the same bytes.

    Args:
        location: repository or folder that ``from_pretrained`` is given in the card's snippets.
        facts: evaluation, training and license, as far as they are known.

    Raises:
        ConfigurationError: the adapter lacks its sources or target.
    """
    config: Any = adapter.config
    facts = facts or AdapterFacts()
    target = config.require_pair()
    namespace = location.partition("/")[0] if location.count("/") == 1 and is_hub_id(location) else None
    return filled(
        ModelCard,
        _TEMPLATE,
        card_data(config, facts),
        sources=[spec_row(spec) for spec in config.sources],
        target=spec_row(target),
        architecture=config.architecture,
        parameters=f"{sum(parameter.numel() for parameter in adapter.parameters()):,}",
        prompt_length=config.prompt_length,
        owners=config.owners,
        rating_head=config.rating_head,
        task=config.scored_task.described(config.answer_texts),
        location=literal(location),
        shell_location=shlex.quote(visible(location)),
        pair=_pair_arguments(config, namespace),
        evaluations=[_table(evaluation) for evaluation in facts.evaluations],
        known_apart=any(evaluation.own_source_bank is False for evaluation in facts.evaluations),
        training=_training(facts.training),
        cost=_cost(facts.training),
        template=block(config.template or "not recorded"),
        intended_use=block(facts.intended_use or ""),
        license=(
            f"Stated by the publisher for this adapter: {code(facts.license)}."
            if facts.license
            else "The publisher has stated no license for this adapter; ask before you use it."
        ),
    )


def card_data(config: PumaConfig, facts: AdapterFacts) -> ModelCardData:
    """The card's metadata: what the Hub knows of every model, and a block ``puma_hub`` for finding pairs."""
    target = config.require_pair()
    names = [spec.model_id for spec in (*config.sources, target)]
    bases = [name for name in dict.fromkeys(names) if is_hub_id(name)]
    results = [result for evaluation in facts.evaluations for result in _results(evaluation, config.scored_task.title)]
    ours: dict[str, Any] = {BLOCK: pair_block(config)}
    return ModelCardData(
        library_name=LIBRARY,
        license=facts.license,
        base_model=bases or None,
        base_model_relation="adapter" if bases else None,
        tags=pair_tags(config.sources, target),
        model_name=pair_repo_id(config.sources, target) if results else None,
        eval_results=results or None,
        **ours,
    )


def pair_block(config: PumaConfig) -> dict[str, Any]:
    """What an adapter maps, as plain data for the card's metadata; whose prompts, where they are not users'."""
    items = {} if config.owners == USERS.name else {"owners": config.owners}
    return {
        "sources": [spec_data(spec) for spec in config.sources],
        "target": spec_data(config.require_pair()),
        "prompt_length": config.prompt_length,
        "task": config.scored_task.name,
        "architecture": config.architecture,
        "format_version": config.format_version,
        **items,
    }


def _pair_arguments(config: PumaConfig, namespace: str | None) -> str | None:
    """The arguments of ``from_pair`` in the card; None where nobody else could find the pair by them."""
    if namespace is None or not all(is_hub_id(spec.model_id) for spec in (*config.sources, config.require_pair())):
        return None
    sources = [literal(spec.model_id) for spec in config.sources]
    source = sources[0] if len(sources) == 1 else f"[{', '.join(sources)}]"
    return f"{source}, {literal(config.require_pair().model_id)}, namespace={literal(namespace)}"


def _results(evaluation: Evaluation, task_name: str) -> list[EvalResult]:
    return [
        EvalResult(
            task_type="text-classification",
            task_name=task_name,
            dataset_type=visible(evaluation.dataset) or "unnamed",
            dataset_name=visible(evaluation.dataset) or "unnamed",
            dataset_split=visible(evaluation.split),
            dataset_args={"rows": evaluation.rows, "users": evaluation.users},
            metric_type=metric,
            metric_name=f"{metric.upper()}, {prediction_labels()[name]}",
            metric_value=round(value, 6),
            metric_args={"predictions": name},
        )
        for name, values in evaluation.metrics.items()
        for metric, value in values.items()
    ]


def _table(evaluation: Evaluation) -> dict[str, Any]:
    columns = list(dict.fromkeys(metric for values in evaluation.metrics.values() for metric in values))
    lines = [
        [prediction_labels()[name], *(format(values[metric], ".4f") if metric in values else "" for metric in columns)]
        for name, values in evaluation.metrics.items()
    ]
    return {
        "dataset": code(evaluation.dataset),
        "split": code(evaluation.split),
        "rows": f"{evaluation.rows:,}",
        "users": f"{evaluation.users:,}",
        "columns": [code(metric) for metric in columns],
        "lines": lines,
        "retention": None if evaluation.retention is None else f"{evaluation.retention:.2f}",
        "apart": evaluation.own_source_bank is False,
    }


def _training(training: Training | None) -> str:
    if training is None:
        return "Nothing was reported on the training users and how they were chosen."
    of = f" of {training.of_users:,}" if training.of_users else ""
    chosen = f"chosen by {code(training.selection)}" if training.selection else "how they were chosen was not reported"
    parts = [f"Trained on {training.users:,}{of} users ({chosen})"]
    parts += [f"data {code(training.data)}"] if training.data else []
    parts += [f"{training.samples:,} samples"] if training.samples else []
    parts += [f"{training.seconds:,.0f} seconds"] if training.seconds else []
    parts += [f"seed {training.seed}"] if training.seed is not None else []
    return ", ".join(parts) + "."


def _cost(training: Training | None) -> str | None:
    ratios = (("time", training.time_ratio), ("FLOPs", training.flops_ratio)) if training else ()
    known = [f"{ratio:.1f} times the {what}" for what, ratio in ratios if ratio]
    return (
        f"Retraining every user's prompt on the target costs {' and '.join(known)} of training it." if known else None
    )
