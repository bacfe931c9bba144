"""The lineage of a bank: the banks it was made from, and those before them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from puma_hub.errors import BankError, shown

PARENTS = "parents"
"""In a step: the numbers of the steps it was made from, counted from 0 in the history."""


def checked_parents(parents: Any, steps_before: int) -> tuple[int, ...]:
    """Numbers of earlier steps.

    Raises:
        BankError: they are none.
    """
    whole = isinstance(parents, (list, tuple)) and all(type(number) is int for number in parents)
    if not whole or not all(0 <= number < steps_before for number in parents):
        raise BankError(
            f"the parents of step {steps_before + 1} of a bank's history must be numbers of earlier steps, got "
            f"{shown(parents)}; restore bank.json or make the bank again"
        )
    return tuple(parents)


def joined_histories(
    lineages: Sequence[Sequence[Mapping[str, Any]]],
) -> tuple[tuple[dict[str, Any], ...], tuple[int, ...]]:
    """The history of a bank that is made from others, and its parents.

    A step that several banks have before them, with the same steps before it, is listed once.

    Args:
        lineages: for each bank, its history and the bank itself as the last step; see ``Provenance.lineage``.

    Returns:
        The steps, each after those it was made from; and for each bank the number of its own step.
    """
    history: list[dict[str, Any]] = []
    places: dict[str, int] = {}
    parents = []
    for lineage in lineages:
        here: list[int] = []  # where each step of this lineage stands in the joined history
        for step in lineage:
            moved = {**step, PARENTS: [here[number] for number in step.get(PARENTS, ())]}
            key = json.dumps(moved, sort_keys=True, default=str)
            if key not in places:
                places[key] = len(history)
                history.append(moved)
            here.append(places[key])
        parents.append(here[-1])
    return tuple(history), tuple(parents)


def lineage_lines(lineage: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line a step, such as ``3. migrated from 1 and 2: google/gemma-3-270m``."""
    lines = []
    for number, step in enumerate(lineage, 1):
        model = step.get("model")
        name = model.get("model_id") if isinstance(model, Mapping) else None
        origin = " and ".join(str(parent + 1) for parent in step.get(PARENTS, ()))
        made = f"{step.get('made_by', 'not recorded')}{f' from {origin}' if origin else ''}"
        lines.append(f"{number}. {made}: {name or 'LLM not recorded'}")
    return lines
