"""Several adapters one after the other."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

from puma_hub.adapter import PumaAdapter
from puma_hub.bank import PromptBank
from puma_hub.bank.rounding import WHOLE
from puma_hub.errors import ConfigurationError
from puma_hub.migration.checks import check_banks, check_links
from puma_hub.migration.files import into_files
from puma_hub.migration.missing import LEAVE_OUT
from puma_hub.migration.plan import MigrationPlan
from puma_hub.migration.run import ChosenEngine, in_memory


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
    missing: str = LEAVE_OUT,
    engine: str = "torch",
    **options: Any,
) -> PromptBank:
    """Migrate a bank through several adapters, or along a route of :func:`puma_hub.find_route`.

    The first adapter may have several sources, with a bank for each. All links are checked before the first prompt is
    moved. A batch goes through all adapters before the next one is read, so no bank on the way is ever whole in memory.
    The result's history lists all of them.

    Args:
        mean, missing: of ``bank``, see :func:`puma_hub.migrate`; each adapter records the mean of the prompts it makes.
            That of an adapter that was not trained is computed, which moves the prompts three times.
        engine: of all adapters.

    Raises:
        ConfigurationError: there is no adapter, or see :func:`puma_hub.migrate`.
        MismatchError: an adapter does not take what the one before it gives.
        BankError: see :func:`puma_hub.migrate`.
    """
    chosen = ChosenEngine.of(engine, batch_size, options)
    return in_memory(_plan(bank, adapters, mean, missing, chosen), chosen)


def chain_to(
    save_directory: str | os.PathLike[str],
    bank: PromptBank | Sequence[PromptBank],
    adapters: Iterable[PumaAdapter | Loadable],
    *,
    batch_size: int = 4096,
    mean: Any = None,
    missing: str = LEAVE_OUT,
    engine: str = "torch",
    max_shard_size: int | str | None = None,
    dtype: str = WHOLE,
    **options: Any,
) -> PromptBank:
    """As :func:`chain` and ``save_pretrained``, file by file: for banks larger than memory; see :func:`migrate_to`.

    Raises:
        ConfigurationError, MismatchError, BankError: see :func:`chain`.
        StorageError: the folder holds anything but a bank, or cannot be written.
    """
    chosen = ChosenEngine.of(engine, batch_size, options)
    plan = _plan(bank, adapters, mean, missing, chosen).in_order_of_users()
    found = into_files(save_directory, plan, chosen, max_shard_size, dtype=dtype)
    assert found is not None  # nothing is left to others
    return found


def _plan(
    bank: PromptBank | Sequence[PromptBank],
    adapters: Iterable[PumaAdapter | Loadable],
    mean: Any,
    missing: str,
    engine: ChosenEngine,
) -> MigrationPlan:
    steps = [step if isinstance(step, PumaAdapter) else step.load() for step in adapters]
    if not steps:
        raise ConfigurationError("a chain needs at least one adapter; none was given")
    check_banks(steps[0], [bank] if isinstance(bank, PromptBank) else list(bank))
    check_links(steps)
    plan = MigrationPlan.of(steps[0], bank, mean, missing)
    for step in steps[1:]:
        plan = plan.followed_by(step, engine.batch_size, engine.run)
    return plan
