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


def in_order(parts: Iterable[Part]) -> list[Part]:
    """``parts`` in an order in which each comes after those it needs, and LLMs change seldom.

    Seed after seed. As long as a part is ready that takes the LLM in memory, or none, it is next. Otherwise it is the
    one that most others wait for.
    """
    left = list(parts)
    waiting_for = _waiting(left)
    ordered: list[Part] = []
    model: str | None = None
    seed: int | None = None
    while left:
        waiting = {part.key for part in left}
        ready = [part for part in left if not any(needed.key in waiting for needed in part.needs)]
        same_seed = [part for part in ready if part.setup.seed == seed] or ready
        if same_seed[0].setup.seed != seed:
            seed, model = same_seed[0].setup.seed, None
            continue
        fitting = [part for part in same_seed if part.model in (None, model)]
        staying = (part for part in fitting if part.leaves in (None, model))
        chosen = next(staying, None) or next(iter(fitting), None)
        if chosen is None:
            chosen = max(same_seed, key=lambda part: waiting_for[part.key])
        model = chosen.leaves or model
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


def planned_work(parts: Iterable[Part], context: Context) -> Mapping[str, float]:
    """The work of each part by its key, in their order; whoever brings an LLM into memory reads the items' texts."""
    work: dict[str, float] = {}
    loaded: Any = None
    for part in parts:
        sizes = context.rows(part.setup).sizes
        work[part.key] = part.work(sizes)
        if part.model is not None and (part.setup.seed, part.model) != loaded:
            work[part.key] += TEXT * sizes.texts
        if part.leaves is not None:
            loaded = part.setup.seed, part.leaves
    return work


def compute(wanted: Iterable[Part], store: Store, context: Context, say: Any) -> int:
    """Compute what is missing of ``wanted``; return how many parts that were."""
    parts = in_order(missing_parts(wanted, store))
    stages = Stages(say, planned_work(parts, context))
    for part in parts:
        with stages.stage(part.key, f"seed {part.setup.seed}: {part.about}"):
            store.make(part, lambda folder, part=part: part.make(context, folder))  # type: ignore[misc]
    context.forget_lm()
    return len(parts)
