"""Several adapters one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

from puma_hub.adapter import PumaAdapter
from puma_hub.bank import PromptBank
from puma_hub.errors import ConfigurationError, MismatchError
from puma_hub.migration.migrate import migrate
from puma_hub.migration.plan import check_banks


@runtime_checkable
class Loadable(Protocol):
    """An adapter that is loaded later, such as a step of a route."""

    def load(self) -> PumaAdapter: ...


def chain(
    bank: PromptBank | Sequence[PromptBank],
    adapters: Iterable[PumaAdapter | Loadable],
    *,
    batch_size: int = 4096,
    mean: Any = None,
) -> PromptBank:
    """Migrate a bank through several adapters, or along a route of :func:`puma_hub.find_route`.

    All links are checked before the first prompt is moved. The result's history lists every bank on the way.

    Args:
        mean: of ``bank``, see :func:`puma_hub.migrate`; each adapter records the mean of the prompts it makes.

    Raises:
        ConfigurationError: there is no adapter.
        MismatchError: an adapter does not take what the one before it gives.
    """
    steps = [step if isinstance(step, PumaAdapter) else step.load() for step in adapters]
    if not steps:
        raise ConfigurationError("a chain needs at least one adapter; none was given")
    check_banks(steps[0], [bank] if isinstance(bank, PromptBank) else list(bank))
    check_links(steps)
    current = migrate(steps[0], bank, batch_size=batch_size, mean=mean)
    for step in steps[1:]:
        current = migrate(step, current, batch_size=batch_size)
    return current


def check_links(steps: Sequence[PumaAdapter]) -> None:
    """Raise MismatchError unless each adapter takes exactly what the one before it gives."""
    for number, (before, after) in enumerate(pairwise(steps), 2):
        given, taken = before.config, after.config
        if len(taken.sources) != 1:
            raise MismatchError(
                f"adapter {number} of the chain joins {len(taken.sources)} sources; only the first may take "
                "several banks"
            )
        taken.sources[0].require_same(given.require_pair(), f"adapter {number} of the chain")
        if taken.prompt_length != given.prompt_length:
            raise MismatchError(
                f"adapter {number} of the chain takes prompts of length {taken.prompt_length}, the one before gives "
                f"length {given.prompt_length}"
            )
        if taken.owners != given.owners:
            raise MismatchError(
                f"adapter {number} of the chain was trained for prompts of {taken.owners}, the one before for those of "
                f"{given.owners}; take adapters of one kind"
            )
        if taken.scored_task != given.scored_task:
            raise MismatchError(
                f"adapter {number} of the chain was trained for {taken.scored_task}, the one before for "
                f"{given.scored_task}; take adapters of one task"
            )
