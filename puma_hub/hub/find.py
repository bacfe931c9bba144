"""Adapters on the Hub, found by the tags and the metadata of their cards."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from puma_hub.errors import ConfigurationError, PumaHubError
from puma_hub.hub.errors import hub_errors
from puma_hub.hub.facts import PREDICTIONS, Evaluation
from puma_hub.hub.naming import (
    LIBRARY,
    Model,
    Models,
    model_id,
    model_list,
    pair_tag,
    public_id,
    source_tag,
    target_tag,
)
from puma_hub.identity import ModelSpec

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData
    from huggingface_hub.hf_api import ModelInfo

    from puma_hub.adapter import PumaAdapter

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PublishedAdapter:
    """An adapter on the Hub, as its card describes it. ``revision`` is the commit that was described."""

    repo_id: str
    revision: str | None
    sources: tuple[ModelSpec, ...]
    target: ModelSpec
    prompt_length: int
    task: str | None = None
    evaluations: tuple[Evaluation, ...] = ()
    licence: str | None = None
    downloads: int = 0
    likes: int = 0
    private: bool = False
    gated: bool = False

    @property
    def source_ids(self) -> list[str]:
        return [spec.model_id for spec in self.sources]

    @property
    def pair(self) -> str:
        return f"{' + '.join(self.source_ids)} -> {self.target.model_id}"

    @property
    def loss(self) -> float | None:
        """The largest relative loss of quality it reports; None where it reports none."""
        return max((e.loss for e in self.evaluations if e.loss is not None), default=None)

    def load(self, token: str | bool | None = None) -> PumaAdapter:
        """Download and load exactly this commit.

        Raises:
            HubError: it cannot be downloaded.
            CheckpointError: it is damaged.
        """
        from puma_hub.adapter import PumaAdapter

        adapter: PumaAdapter = PumaAdapter.from_pretrained(self.repo_id, revision=self.revision, token=token)
        return adapter

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for reports."""
        return {
            "repo_id": self.repo_id,
            "revision": self.revision,
            "sources": [spec.to_dict() for spec in self.sources],
            "target": self.target.to_dict(),
            "prompt_length": self.prompt_length,
            "task": self.task,
            "loss": self.loss,
            "evaluations": [
                {"dataset": e.dataset, "split": e.split, "rows": e.rows, "users": e.users, "metrics": dict(e.metrics)}
                for e in self.evaluations
            ],
            "licence": self.licence,
            "downloads": self.downloads,
            "likes": self.likes,
            "private": self.private,
            "gated": self.gated,
        }


def find_adapters(
    source: Models | None = None,
    target: Model | None = None,
    *,
    namespace: str | None = None,
    token: str | bool | None = None,
) -> list[PublishedAdapter]:
    """The adapters on the Hub that this token may see, the best evaluated first.

    Args:
        source: a model the adapter takes prompts of, alone or among others; a list for exactly these, in order.
        target: the model it maps to.
        namespace: of this user or organisation alone.

    Raises:
        HubError: the Hub cannot be asked.
    """
    tags = [LIBRARY]
    if target is not None:
        tags.append(target_tag(target))
    exactly = isinstance(source, (list, tuple))
    if source is not None and target is not None and exactly:
        tags.append(pair_tag(source, target))
    elif source is not None:
        tags += [source_tag(model) for model in model_list(source)]
    with hub_errors("search the Hub for adapters"):
        found = [adapter for info in _listed(tags, namespace, token) if (adapter := read_listing(info)) is not None]
    # Anyone can write a tag: the models must be the ones of the card's own block too.
    wanted = [public_id(model_id(model)) for model in model_list(source)] if source is not None else []
    goal = public_id(model_id(target)) if target is not None else None
    fitting = [
        adapter
        for adapter in found
        if (adapter.source_ids == wanted if exactly else set(wanted) <= set(adapter.source_ids))
        and goal in (None, adapter.target.model_id)
    ]
    return sorted(fitting, key=quality)


def quality(adapter: PublishedAdapter) -> tuple[float, int, str]:
    """Sorts adapters: by reported loss, those without a report last, then by downloads and name."""
    return float("inf") if adapter.loss is None else adapter.loss, -adapter.downloads, adapter.repo_id


def read_listing(info: ModelInfo) -> PublishedAdapter | None:
    """The adapter behind a model's entry on the Hub; None, with a word in the log, if its card is not one of ours."""
    card = info.card_data
    try:
        block = card.get(LIBRARY) if card is not None else None
        if card is None or not isinstance(block, Mapping) or not block.get("sources"):
            raise ConfigurationError(f"its card has no block {LIBRARY}; puma-hub push writes it")
        return PublishedAdapter(
            repo_id=info.id,
            revision=info.sha,
            sources=tuple(ModelSpec.of(spec) for spec in block["sources"]),
            target=ModelSpec.of(block.get("target") or {}),
            prompt_length=int(block.get("prompt_length", 1)),
            task=block.get("task"),
            evaluations=tuple(read_evaluations(_results(info, card))),
            licence=card.get("license"),
            downloads=info.downloads or 0,
            likes=info.likes or 0,
            private=bool(info.private),
            gated=bool(info.gated),
        )
    except (PumaHubError, TypeError, ValueError, AttributeError, KeyError) as error:
        logger.info("%s is left out: %s", info.id, error)
        return None


def read_evaluations(results: list[EvalResult]) -> Iterator[Evaluation]:
    """The evaluations in a card's ``model-index``; what is not finite or not ours is left out."""
    grouped: dict[tuple[str, str, int, int], dict[str, dict[str, float]]] = {}
    for result in results:
        sizes = result.dataset_args if isinstance(result.dataset_args, Mapping) else {}
        whose = result.metric_args.get("predictions") if isinstance(result.metric_args, Mapping) else None
        if whose not in PREDICTIONS or not isinstance(result.metric_value, (int, float)):
            continue
        key = (
            str(result.dataset_name),
            str(result.dataset_split or ""),
            int(sizes.get("rows", 0)),
            int(sizes.get("users", 0)),
        )
        grouped.setdefault(key, {}).setdefault(whose, {})[result.metric_type] = float(result.metric_value)
    for key, metrics in grouped.items():
        try:
            yield Evaluation(*key, metrics)
        except ConfigurationError as error:
            logger.info("an evaluation on %s is left out: %s", key[0], error)


def _results(info: ModelInfo, card: ModelCardData) -> list[EvalResult]:
    from huggingface_hub.repocard_data import model_index_to_eval_results

    # The Hub gives the index within the card's data, or beside it.
    given: list[EvalResult] = card.get("eval_results") or []
    return given or (model_index_to_eval_results(list(info.model_index))[1] if info.model_index else [])


def _listed(tags: list[str], namespace: str | None, token: str | bool | None) -> list[ModelInfo]:
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    try:
        return list(api.list_models(filter=tags, author=namespace, full=True, cardData=True))
    except (TypeError, AttributeError, ValueError) as error:
        # The client parses all cards of a page at once: one that it cannot read hides the others.
        logger.info("a card cannot be parsed (%s); reading them one by one", error)
    found = []
    for entry in api.list_models(filter=tags, author=namespace, full=True):
        try:
            found.append(api.model_info(entry.id))
        except (TypeError, AttributeError, ValueError) as error:
            logger.info("%s is left out: its card cannot be parsed (%s)", entry.id, error)
    return found
