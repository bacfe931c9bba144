"""Statistics of the banks an adapter was trained on: they show how similar another bank's prompts are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from puma_hub.errors import ConfigurationError, first_line, shown
from puma_hub.limits import MAX_USERS, require_number, require_text, require_whole


@dataclass(frozen=True)
class SourceBank:
    """One source bank: the id of its base, its spread and its number of users."""

    base_id: str
    spread: float
    users: int


@dataclass(frozen=True)
class TrainedOn:
    """The source banks of an adapter, in its order, and the target bank it makes of them.

    ``farthest``: the largest root mean square of a standardised prompt, over all users of these banks; 1 is usual.
    ``target_spread``: the root mean square of one coordinate of the migrated prompts minus their mean.
    ``mean_answers``: the target LLM's mean answer logits at that mean; None in adapters of earlier versions.

    Raises:
        ConfigurationError: a value is out of range.
    """

    sources: tuple[SourceBank, ...]
    farthest: float
    target_spread: float
    target_users: int
    mean_answers: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        numbers = [self.farthest, self.target_spread, *(bank.spread for bank in self.sources)]
        answers = self.mean_answers or ()
        counts = [self.target_users, *(bank.users for bank in self.sources)]
        in_range = all(math.isfinite(n) and n >= 0 for n in numbers) and all(map(math.isfinite, answers))
        if not self.sources or not in_range or min(counts) < 1:
            raise ConfigurationError(
                f"an adapter cannot have been trained on {shown(self)}; train or download it again"
            )

    def to_dict(self) -> dict[str, Any]:
        answers = None if self.mean_answers is None else list(self.mean_answers)
        return asdict(self) | {"sources": [asdict(bank) for bank in self.sources], "mean_answers": answers}

    @classmethod
    def of(cls, data: TrainedOn | Mapping[str, Any] | None) -> TrainedOn | None:
        """Rebuild from :meth:`to_dict`; None, for an adapter that was not trained, stays None.

        Raises:
            ConfigurationError: a part is missing or malformed.
        """
        if data is None or isinstance(data, TrainedOn):
            return data
        try:
            banks = tuple(
                SourceBank(
                    require_text(bank["base_id"], "base_id"),
                    require_number(bank["spread"], "spread"),
                    require_whole(bank["users"], "users", MAX_USERS),
                )
                for bank in data["sources"]
            )
            farthest, spread = (require_number(data[name], name) for name in ("farthest", "target_spread"))
            answers = data.get("mean_answers")
            mean = None if answers is None else tuple(require_number(one, "mean_answers", -math.inf) for one in answers)
            return cls(banks, farthest, spread, require_whole(data["target_users"], "target_users", MAX_USERS), mean)
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            if isinstance(error, ConfigurationError):
                raise
            raise ConfigurationError(
                f"trained_on of the adapter's config is malformed ({type(error).__name__}: {first_line(error)}); train "
                "or download the adapter again"
            ) from error
