"""One published adapter, from its entry on the Hub, which strangers write and which is therefore read strictly."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from puma_hub.adapter.facts import Evaluation, prediction_labels
from puma_hub.errors import ConfigurationError, PumaHubError, shown
from puma_hub.hub.card_parts import new_version, require_license
from puma_hub.hub.markup import visible
from puma_hub.hub.naming import BLOCK
from puma_hub.identity import ModelSpec
from puma_hub.limits import MAX_PROMPT_LENGTH, MAX_SOURCES, require_text, require_whole

if TYPE_CHECKING:
    from puma_hub.adapter import PumaAdapter

_USERS = "users"  # as of puma_hub.tasks.owners, which imports torch

logger = logging.getLogger(__name__)

_LONGEST_NAME = 200
_MOST_FIGURES = 1000


@dataclass(frozen=True)
class PublishedAdapter:
    """An adapter on the Hub, as its card describes it. ``revision`` is the commit that was described.

    ``new_version`` is the repository that its publisher names as its successor. Nothing follows that name: it may be of
    another pair, or of nothing.
    """

    repo_id: str
    revision: str | None
    sources: tuple[ModelSpec, ...]
    target: ModelSpec
    prompt_length: int
    task: str | None = None
    evaluations: tuple[Evaluation, ...] = ()
    license: str | None = None
    downloads: int = 0
    likes: int = 0
    private: bool = False
    gated: bool = False
    new_version: str | None = None

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
            "license": self.license,
            "downloads": self.downloads,
            "likes": self.likes,
            "private": self.private,
            "gated": self.gated,
            "new_version": self.new_version,
        }


def read_listing(entry: Mapping[str, Any]) -> PublishedAdapter | None:
    """The adapter of a model's entry in the Hub's list; None if its card is not one of ours, or malformed.

    Args:
        entry: the JSON of the Hub's API, unchecked. The reason for leaving it out is logged at level DEBUG.
    """
    try:
        return _published(entry)
    except PumaHubError as error:
        name = entry.get("id") if isinstance(entry, Mapping) else None
        logger.debug("%s is left out: %s", shown(name), error)
        return None


def _published(entry: Mapping[str, Any]) -> PublishedAdapter:
    card = _mapping(_mapping(entry, "the entry").get("cardData"), "the card's metadata")
    block = _mapping(card.get(BLOCK), f"the card's block {BLOCK}, which puma-hub push writes,")
    if block.get("owners", _USERS) != _USERS:
        raise ConfigurationError("it migrates prompts of others than users")
    sources = block.get("sources")
    if not isinstance(sources, list) or not 1 <= len(sources) <= MAX_SOURCES:
        raise ConfigurationError(f"sources must be 1 to {MAX_SOURCES} models, got {shown(sources)}")
    task, commit, license = block.get("task"), entry.get("sha"), card.get("license")
    repo_id = require_text(entry.get("id"), "the repository's id", _LONGEST_NAME)
    return PublishedAdapter(
        repo_id=repo_id,
        revision=None if commit is None else require_text(commit, "the commit", _LONGEST_NAME),
        sources=tuple(_spec(spec) for spec in sources),
        target=_spec(block.get("target")),
        prompt_length=require_whole(block.get("prompt_length", 1), "prompt_length", MAX_PROMPT_LENGTH),
        task=None if task is None else require_text(task, "task", _LONGEST_NAME),
        evaluations=tuple(read_evaluations(card.get("model-index") or entry.get("model-index"))),
        license=license if _is_license(license) else None,
        downloads=_count(entry.get("downloads")),
        likes=_count(entry.get("likes")),
        private=entry.get("private") is True,
        gated=bool(entry.get("gated")),
        new_version=new_version(card, repo_id),
    )


def read_evaluations(index: object) -> Iterator[Evaluation]:
    """The evaluations in a card's ``model-index``; what is malformed, not finite or not ours is left out.

    Raises:
        ConfigurationError: it states more figures than any adapter has.
    """
    grouped: dict[tuple[str, str, int, int], dict[str, dict[str, float]]] = {}
    for number, (dataset, metric) in enumerate(_figures(index)):
        if number >= _MOST_FIGURES:
            raise ConfigurationError(f"model-index states more than {_MOST_FIGURES} figures")
        whose, name, value = _get(metric.get("args"), "predictions"), metric.get("type"), metric.get("value")
        if not isinstance(whose, str) or whose not in prediction_labels() or not isinstance(name, str):
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        sizes = dataset.get("args")
        key = (
            _text(dataset.get("name")),
            _text(dataset.get("split")),
            _count(_get(sizes, "rows")),
            _count(_get(sizes, "users")),
        )
        grouped.setdefault(key, {}).setdefault(whose, {})[_text(name)] = value
    for key, metrics in grouped.items():
        try:
            yield Evaluation(*key, metrics)
        except ConfigurationError as error:
            logger.debug("an evaluation is left out: %s", error)


def _figures(index: object) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Each metric with the data set it was computed on."""
    for model in _items(index):
        for result in _items(_get(model, "results")):
            dataset = _get(result, "dataset")
            for metric in _items(_get(result, "metrics")):
                if isinstance(metric, Mapping):
                    yield dataset if isinstance(dataset, Mapping) else {}, metric


def _items(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _get(value: object, key: str) -> Any:
    return value.get(key) if isinstance(value, Mapping) else None


def _mapping(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{what} must be a mapping, got {shown(value)}")
    return value


def _spec(value: object) -> ModelSpec:
    spec = ModelSpec.of(_mapping(value, "a model"))
    require_text(spec.model_id, "model_id", _LONGEST_NAME)
    return spec


def _text(value: object) -> str:
    return visible(value)[:_LONGEST_NAME] if isinstance(value, str) else ""


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63 else 0


def _is_license(value: object) -> bool:
    try:
        require_license(value)
    except ConfigurationError:
        return False
    return value is not None
