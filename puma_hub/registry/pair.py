"""Choosing the published adapter of a pair."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from puma_hub.errors import ConfigurationError, HubNotFoundError, MismatchError
from puma_hub.hub.naming import Model, Models, model_id, model_list, pair_repo_id
from puma_hub.identity import ModelSpec
from puma_hub.registry.find import find_adapters, quality
from puma_hub.registry.published import PublishedAdapter

if TYPE_CHECKING:
    from puma_hub.adapter import PumaAdapter

logger = logging.getLogger(__name__)


def load_pair(
    source: Models, target: Model, *, namespace: str | None, revision: str | None, token: str | bool | None
) -> PumaAdapter:
    """The work of :meth:`puma_hub.PumaAdapter.from_pair`."""
    found = find_adapters(model_list(source), target, namespace=namespace, token=token)
    taken = choose(found, source, target)
    if revision is not None:
        taken = replace(taken, revision=revision)
    adapter = taken.load(token)
    # The card is only a description; the config was saved with the weights.
    _require_pair(adapter, source, target, taken.repo_id)
    adapter.published = taken
    among = f", the best of {len(found)}" if len(found) > 1 else ""
    # With a choice it matters which one was taken; a warning is visible without any logging set up.
    say = logger.warning if len(found) > 1 and namespace is None else logger.info
    say("adapter for %s: %s at revision %s%s", taken.pair, taken.repo_id, taken.revision, among)
    return adapter


def choose(found: Sequence[PublishedAdapter], source: Models, target: Model) -> PublishedAdapter:
    """The adapter for exactly these weights, where they are known; of several, the best evaluated.

    A superseded one is taken only if no other fits.

    Raises:
        HubNotFoundError: there is none.
        MismatchError: all are for other weights.
        ConfigurationError: several fit and none reports an evaluation.
    """
    models = [*model_list(source), target]
    name = f"{' + '.join(model_id(model) for model in models[:-1])} -> {model_id(target)}"
    if not found:
        raise HubNotFoundError(
            f"no adapter for {name} is on the Hub, or none that this token may see (it would be called "
            f"{pair_repo_id(source, target)}); look for a chain with find_route, or train one and push it"
        )
    scored = [(score, adapter) for adapter in found if (score := _fit(adapter, models)) is not None]
    if not scored:
        listed = "; ".join(f"{adapter.repo_id} for {_weights(_specs(adapter))}" for adapter in found[:5])
        wanted = _weights([ModelSpec.of(model) for model in models if isinstance(model, (ModelSpec, Mapping))])
        raise MismatchError(
            f"the adapters for {name} are for other weights than yours ({wanted}): {listed}; use the LLMs they are "
            "for, or train an adapter for yours"
        )
    current = [(score, adapter) for score, adapter in scored if adapter.new_version is None]
    best = max(score for score, _ in current or scored)
    fitting = sorted((adapter for score, adapter in current or scored if score == best), key=quality)
    if len(fitting) > 1 and fitting[0].loss is None:
        names = ", ".join(adapter.repo_id for adapter in fitting[:5])
        raise ConfigurationError(
            f"{len(fitting)} adapters for {name} fit equally and none reports a comparable evaluation: {names}; name "
            "one in PumaAdapter.from_pretrained, or give namespace="
        )
    if not current:
        logger.warning(
            "%s is superseded, and no other adapter for %s fits: its publisher names %s as its new version; look "
            "whether that one is for your LLMs",
            fitting[0].repo_id,
            name,
            fitting[0].new_version,
        )
    return fitting[0]


def _specs(adapter: PublishedAdapter) -> list[ModelSpec]:
    return [*adapter.sources, adapter.target]


def _fit(adapter: PublishedAdapter, models: Sequence[Model]) -> int | None:
    """Add 2 for each model with the same fingerprint, 1 for the same revision; None if one has other weights."""
    score = 0
    for model, theirs in zip(models, _specs(adapter)):
        if not isinstance(model, (ModelSpec, Mapping)):
            continue
        ours = ModelSpec.of(model)
        if ours.fingerprint and theirs.fingerprint:
            if ours.fingerprint != theirs.fingerprint:
                return None
            score += 2
        elif ours.revision and ours.revision == theirs.revision:
            score += 1
    return score


def _weights(specs: Sequence[ModelSpec]) -> str:
    return ", ".join(f"{spec.model_id} fingerprint {spec.fingerprint or 'not recorded'}" for spec in specs)


def _require_pair(adapter: PumaAdapter, source: Models, target: Model, repo_id: str) -> None:
    theirs = [*adapter.config.sources, adapter.config.require_pair()]
    models = [*model_list(source), target]
    if [spec.model_id for spec in theirs] != [model_id(model) for model in models]:
        raise MismatchError(
            f"{repo_id} says it is for this pair, but its config maps "
            f"{' + '.join(spec.model_id for spec in theirs[:-1])} -> {theirs[-1].model_id}; its publisher must correct "
            "the card"
        )
    for model, spec in zip(models, theirs):
        if isinstance(model, (ModelSpec, Mapping)):
            ModelSpec.of(model).require_same(spec, f"the adapter {repo_id}")
