"""What a back end is: it scores rows and continues texts with users' prompts."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from puma_hub.errors import ConfigurationError
from puma_hub.extensions import SERVING_BACKENDS

if TYPE_CHECKING:
    from puma_hub.scorer import PersonalizedLM
    from puma_hub.serving.prompts import Prompts
    from puma_hub.serving.service.limits import ServiceLimits
    from puma_hub.serving.service.meters import Meters
    from puma_hub.tasks import Task

Row: TypeAlias = Mapping[str, Any]
"""``user_id``, ``item_text``, and where the template or the task reads them ``history`` and the offset's column."""
Scored: TypeAlias = dict[str, Any]
"""``score``, ``distribution``, ``cold_start`` if unknown users have the mean prompt, ``version`` with a deployment."""
Text: TypeAlias = str | list[dict[str, str]]
"""A text to continue, or the messages of a chat."""
Finish: TypeAlias = Literal["stop", "length"]


@dataclass(frozen=True)
class Sampling:
    """How new tokens are drawn.

    Args:
        max_tokens: most new tokens of a text.
        temperature: 0 takes the most likely token.
        top_p: draw from the most likely tokens that together have this probability.
        stop: texts before which the answer ends.
        seed: of the draws; a text's answers are then the same each time.
        n: answers for each text.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    n: int = 1


@dataclass(frozen=True)
class TextRequest:
    """Texts to continue with one user's prompt; answer ``i * n + k`` is the ``k``-th of text ``i``."""

    user_id: str
    texts: tuple[Text, ...]
    sampling: Sampling


@dataclass(frozen=True)
class Piece:
    """The next part of answer ``index``. The last one has ``finish``, and the number of all its new tokens."""

    index: int
    text: str
    finish: Finish | None = None
    tokens: int = 0


@dataclass(frozen=True)
class TextStream:
    """Answers while they are written.

    Attributes:
        prompt_tokens: positions of the texts and prompts.
        cold_start: whether the user had the mean prompt; None if unknown users are refused.
        pieces: of all answers, until each has ended.
        fingerprint: of the LLM.
        version: that answers, where there are several.
    """

    prompt_tokens: int
    cold_start: bool | None
    pieces: AsyncIterator[Piece]
    fingerprint: str | None = None
    version: str | None = None


@dataclass(frozen=True)
class BackendSetting:
    """What back ends are made from.

    Args:
        load_lm: loads the LLM as a scorer.
        prompts: of the users.
        limits: of the service.
        meters: what is counted.
        unknown_users: ``error`` or ``mean``.
        model, template, task, dtype, truncate_items: the LLM, a folder or id, and what else ``load_lm`` goes by; for
            back ends that need only a part of it.
    """

    load_lm: Callable[[], PersonalizedLM]
    prompts: Prompts
    limits: ServiceLimits
    meters: Meters
    unknown_users: str = "error"
    model: str = ""
    template: str | None = None
    task: Task | None = None
    dtype: str = "auto"
    truncate_items: bool = False


class Backend(ABC):
    """Scores rows and continues texts. All methods are called in one event loop."""

    offset_column: str | None = None
    """The column that the task adds to its predictions."""

    def begin(self) -> None:  # noqa: B027 (most have nothing to begin)
        """Called once, in the event loop, before the first request."""

    @abstractmethod
    async def score(self, rows: Sequence[Row]) -> list[Scored | Exception]:
        """The score of each row, in order, or the error of a row that has none.

        A row's prompt is its own user's, whatever else is scored at the time. If the call is cancelled, rows that
        still wait are dropped.

        Raises:
            Refusal: too many rows wait already.
        """

    @abstractmethod
    async def stream(self, request: TextRequest) -> TextStream:
        """Start to continue texts. Closing ``pieces`` before their end stops the writing.

        Raises:
            Refusal: too many texts wait already.
            UnknownUserError, TemplateError, MismatchError: a text cannot be continued.
        """

    @abstractmethod
    def waiting(self) -> dict[str, int]:
        """How many rows and texts wait, by queue."""

    def standing(self) -> dict[str, Any] | None:
        """The versions that are served and who gets which; None where there is one version."""
        return None

    @abstractmethod
    async def close(self, seconds: float = 0.0) -> None:
        """End. What is still waiting or being written after ``seconds`` is refused with status 503."""


def bound_backend(name: str, options: Mapping[str, Any]) -> Callable[[BackendSetting], Backend]:
    """What makes the back end of that name with these options.

    Raises:
        ConfigurationError: there is no such back end, or an option is unknown or missing.
    """
    make = SERVING_BACKENDS.bound(name, options)
    needed = [
        p.name for p in inspect.signature(make).parameters.values() if p.kind is p.KEYWORD_ONLY and p.default is p.empty
    ]
    if needed:
        raise ConfigurationError(f"the back end {name!r} needs the option {needed[0]}; give --option {needed[0]}=VALUE")
    return make
