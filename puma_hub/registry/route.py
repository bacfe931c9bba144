"""The route between two LLMs, through published adapters, with the smallest estimated loss."""

from __future__ import annotations

import heapq
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING, Any

from puma_hub.errors import ConfigurationError, HubNotFoundError
from puma_hub.hub.naming import Model, model_id, public_id
from puma_hub.identity import ModelSpec
from puma_hub.registry.find import find_adapters
from puma_hub.registry.published import PublishedAdapter

if TYPE_CHECKING:
    from puma_hub.adapter import PumaAdapter

logger = logging.getLogger(__name__)

UNREPORTED_LOSS = 0.10
"""The loss that is assumed for an adapter without a comparable evaluation."""
_MOST = 500.0  # the logarithm of a loss that a float still holds


@dataclass(frozen=True)
class Route:
    """Adapters to apply one after the other; iterating gives them, :func:`puma_hub.chain` applies them."""

    adapters: tuple[PublishedAdapter, ...]

    def __iter__(self) -> Iterator[PublishedAdapter]:
        return iter(self.adapters)

    def __len__(self) -> int:
        return len(self.adapters)

    @property
    def is_chain(self) -> bool:
        """Whether it has several steps, over other LLMs."""
        return len(self.adapters) > 1

    @property
    def loss(self) -> float:
        """Estimated relative loss of quality: the losses of the steps, compounded."""
        steps = sum(math.log1p(step_loss(adapter)) for adapter in self.adapters)
        return math.expm1(min(steps, _MOST))

    def load(self, token: str | bool | None = None) -> list[PumaAdapter]:
        """All adapters, each at the commit the route was made from."""
        return [adapter.load(token) for adapter in self.adapters]

    def to_dict(self) -> dict[str, Any]:
        return {
            "is_chain": self.is_chain,
            "loss": self.loss,
            "adapters": [adapter.to_dict() | {"step_loss": step_loss(adapter)} for adapter in self.adapters],
        }

    def __str__(self) -> str:
        names = [self.adapters[0].sources[0].model_id, *(adapter.target.model_id for adapter in self.adapters)]
        kind = f"a chain of {len(self)} adapters" if self.is_chain else "one direct adapter"
        repositories = ", ".join(adapter.repo_id for adapter in self.adapters)
        return f"{' -> '.join(names)}: {kind} ({repositories}), estimated loss {self.loss:.1%}"


def step_loss(adapter: PublishedAdapter) -> float:
    """The loss an adapter reports, or ``UNREPORTED_LOSS``."""
    return UNREPORTED_LOSS if adapter.loss is None else adapter.loss


def find_route(source: Model, target: Model, *, namespace: str | None = None, token: str | bool | None = None) -> Route:
    """The route from ``source`` to ``target`` with the smallest estimated loss; of equal ones the shortest.

    An adapter's loss is relative: how much worse the RMSE of its migrated prompts is than that of retrained prompts, on
    the same rows. Where retraining was not reported, the source's prompts take its place. Of several evaluations the
    worst counts; without any, 10 % is assumed. Losses compound along a chain.

    Superseded adapters are avoided: of the routes with the fewest of them, the one with the smallest loss is taken.

    Two steps fit if the LLM between them has the same id, if its fingerprints do not differ, and if prompt length and
    task are the same. Adapters of several sources are not used.

    Args:
        source: id or spec; a spec's fingerprint must fit.
        namespace: only adapters of this user or organisation.

    Raises:
        ConfigurationError: source and target are the same.
        HubNotFoundError: there is no route.
        HubError: the Hub cannot be asked.
    """
    start, goal = _spec(source), _spec(target)
    if _same(start, goal):
        raise ConfigurationError(f"source and target are both {model_id(source)}; there is nothing to migrate")
    published = find_adapters(namespace=namespace, token=token)
    single = [adapter for adapter in published if len(adapter.sources) == 1]
    route = cheapest(single, start, goal)
    if route is None:
        raise HubNotFoundError(_no_route(single, start, goal))
    logger.info("route: %s", route)
    if route.is_chain:
        _say_why_not_direct([adapter for adapter in single if _ends(adapter, start, goal)])
    for adapter in route:
        if adapter.new_version is not None:
            logger.warning(
                "%s is superseded, and no route does without it: its publisher names %s as its new version; look "
                "whether that one is for your LLMs",
                adapter.repo_id,
                adapter.new_version,
            )
    return route


def _say_why_not_direct(direct: list[PublishedAdapter]) -> None:
    best = min(direct, key=lambda adapter: (adapter.new_version is not None, step_loss(adapter)), default=None)
    if best is None:
        return
    if best.new_version is not None:
        logger.info("the direct adapter %s is superseded by %s, so it was not taken", best.repo_id, best.new_version)
    else:
        logger.info("the direct adapter %s loses more, %.1f %%", best.repo_id, 100 * step_loss(best))


def cheapest(adapters: list[PublishedAdapter], start: ModelSpec, goal: ModelSpec) -> Route | None:
    """Dijkstra's algorithm over adapters: which may follow depends on the whole adapter before, not only its target.

    The cost of a way is how many of its adapters are superseded, then its loss, then its length.
    """
    number = count()
    heap: list[tuple[int, float, int, int, tuple[PublishedAdapter, ...]]] = []

    def push(superseded: int, loss: float, way: tuple[PublishedAdapter, ...]) -> None:
        last = way[-1]
        cost = (superseded + (last.new_version is not None), loss + math.log1p(step_loss(last)))
        heapq.heappush(heap, (*cost, len(way), next(number), way))

    for adapter in adapters:
        if _same(adapter.sources[0], start):
            push(0, 0.0, (adapter,))
    done: set[tuple[str, str | None]] = set()
    while heap:
        superseded, loss, _, _, way = heapq.heappop(heap)
        if _same(way[-1].target, goal):
            return Route(way)
        if (way[-1].repo_id, way[-1].revision) in done:
            continue
        done.add((way[-1].repo_id, way[-1].revision))
        for adapter in adapters:
            if (adapter.repo_id, adapter.revision) not in done and _follows(way[-1], adapter):
                push(superseded, loss, (*way, adapter))
    return None


def _no_route(adapters: list[PublishedAdapter], start: ModelSpec, goal: ModelSpec) -> str:
    other = cheapest(adapters, replace(start, fingerprint=None), replace(goal, fingerprint=None))
    if other is not None:
        return (
            f"the published adapters from {start.model_id} to {goal.model_id} ({other}) are for other weights: source "
            f"fingerprint {other.adapters[0].sources[0].fingerprint}, target {other.adapters[-1].target.fingerprint}, "
            f"yours {start.fingerprint} and {goal.fingerprint}; use those LLMs, or train an adapter for yours"
        )
    reached = sorted({adapter.target.model_id for adapter in adapters if _same(adapter.sources[0], start)})
    known = f"from the source there are adapters to {', '.join(reached)}" if reached else "none takes the source"
    return (
        f"no chain of the {len(adapters)} published adapters leads from {start.model_id} to {goal.model_id}; {known}; "
        "train the missing step (puma-hub train) and publish it (puma-hub push)"
    )


def _spec(model: Model) -> ModelSpec:
    given = ModelSpec.of(model) if isinstance(model, (ModelSpec, Mapping)) else None
    # Hidden sizes are not compared here; the id decides and, where known, the fingerprint.
    return ModelSpec(public_id(model_id(model)), 1, fingerprint=given.fingerprint if given else None)


def _same(first: ModelSpec, second: ModelSpec) -> bool:
    known = first.fingerprint is not None and second.fingerprint is not None
    return first.model_id == second.model_id and not (known and first.fingerprint != second.fingerprint)


def _ends(adapter: PublishedAdapter, start: ModelSpec, goal: ModelSpec) -> bool:
    return _same(adapter.sources[0], start) and _same(adapter.target, goal)


def _follows(before: PublishedAdapter, after: PublishedAdapter) -> bool:
    return (
        _same(before.target, after.sources[0])
        and before.target.hidden_size == after.sources[0].hidden_size
        and before.prompt_length == after.prompt_length
        and (before.task is None or after.task is None or before.task == after.task)
    )
