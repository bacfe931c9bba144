"""In which order parts are computed: what is needed first, and one LLM after the other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from puma_hub.demo.stages import Stages
from puma_hub.reproduce.context import Context
from puma_hub.reproduce.part import TEXT, Part
from puma_hub.reproduce.store import Store


def missing_parts(wanted: Iterable[Part], store: Store) -> list[Part]:
    """The parts that are still to be computed for ``wanted``, each once, and before those that need it.

    A part that is done needs nothing any more.
    """
    found: dict[str, Part] = {}

    def visit(part: Part) -> None:
        if part.key in found or store.has(part):
            return
        for needed in part.needs:
            visit(needed)
        found[part.key] = part

    for part in wanted:
        visit(part)
    return list(found.values())


class Memory:
    """Which LLMs of a seed are in memory, ``room`` at most."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.seed: int | None = None
        self._names: list[str] = []  # the one used last at the end

    def holds(self, model: str | None) -> bool:
        return model is None or model in self._names

    def use(self, part: Part) -> None:
        """Remember which LLMs computing ``part`` takes and leaves."""
        if part.setup.seed != self.seed:
            self.seed, self._names = part.setup.seed, []
        for model in (part.model, part.leaves):
            if model is not None:
                self._names = [*(name for name in self._names if name != model), model][-self.room :]


def in_order(parts: Iterable[Part], llms_at_once: int = 1) -> list[Part]:
    """``parts`` in an order in which each comes after those it needs, and LLMs change seldom.

    Seed after seed. As long as a part is ready that takes an LLM in memory, or none, it is next. Otherwise it is the
    one that most others wait for.
    """
    left = list(parts)
    waiting_for = _waiting(left)
    ordered: list[Part] = []
    memory = Memory(llms_at_once)
    while left:
        waiting = {part.key for part in left}
        ready = [part for part in left if not any(needed.key in waiting for needed in part.needs)]
        same_seed = [part for part in ready if part.setup.seed == memory.seed]
        if not same_seed:
            same_seed = [part for part in ready if part.setup.seed == ready[0].setup.seed]
            memory = Memory(llms_at_once)
        fitting = [part for part in same_seed if memory.holds(part.model)]
        staying = (part for part in fitting if memory.holds(part.leaves))
        chosen = next(staying, None) or next(iter(fitting), None)
        if chosen is None:
            chosen = max(same_seed, key=lambda part: waiting_for[part.key])
        memory.use(chosen)
        ordered.append(chosen)
        left.remove(chosen)
    return ordered


def _waiting(parts: list[Part]) -> dict[str, int]:
    """How many parts need each part, directly or by way of others."""
    found = {part.key: 0 for part in parts}
    for part in parts:
        needed: dict[str, Part] = {}
        open_parts = list(part.needs)
        while open_parts:
            one = open_parts.pop()
            if one.key in found and one.key not in needed:
                needed[one.key] = one
                open_parts += one.needs
        for key in needed:
            found[key] += 1
    return found


def planned_work(parts: Iterable[Part], context: Context, llms_at_once: int = 1) -> Mapping[str, float]:
    """The work of each part by its key, in their order; whoever brings an LLM into memory reads the items' texts."""
    work: dict[str, float] = {}
    memory = Memory(llms_at_once)
    for part in parts:
        sizes = context.rows(part.setup).sizes
        work[part.key] = part.work(sizes)
        if part.model is not None and not (part.setup.seed == memory.seed and memory.holds(part.model)):
            work[part.key] += TEXT * sizes.texts
        memory.use(part)
    return work


def compute(wanted: Iterable[Part], store: Store, context: Context, say: Any, llms_at_once: int = 1) -> int:
    """Compute what is missing of ``wanted``; return how many parts that were."""
    parts = in_order(missing_parts(wanted, store), llms_at_once)
    stages = Stages(say, planned_work(parts, context, llms_at_once))
    for part in parts:
        with stages.stage(part.key, f"seed {part.setup.seed}: {part.about}"):
            store.make(part, lambda folder, part=part: part.make(context, folder))  # type: ignore[misc]
    context.forget_lms()
    return len(parts)
