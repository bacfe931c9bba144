"""Rows for an adapter to learn from that nobody left: users of a bank and items of a catalogue, paired at random."""

from __future__ import annotations

import datasets
import numpy as np

from puma_hub.bank import PromptBank
from puma_hub.data.catalogue import check_catalogue
from puma_hub.data.rows import texts
from puma_hub.errors import BankError, ConfigurationError

ROWS = 2048
"""As many as the adapter is solved for from, see ``start_rows`` of :class:`puma_hub.PumaTrainingArguments`."""
ITEMS = 240
"""Both LLMs read each item's text once, which is most of the cost; the experiment ``label-free`` compares numbers."""
_HISTORY = 5  # titles of a drawn history


def draw_rows(
    bank: PromptBank,
    catalogue: datasets.Dataset,
    rows: int = ROWS,
    *,
    items: int = ITEMS,
    users: list[str] | None = None,
    history: bool = False,
    seed: int = 42,
) -> datasets.Dataset:
    """Draw rows ``user_id, item_id, item_text`` without labels, for :func:`puma_hub.with_source_predictions`.

    The source LLM predicts what each user would answer about each item, so an adapter can be trained without labels
    and without anyone's history. All drawn items come equally often, and so do all users, up to one row. Users and
    items are paired at random.

    Args:
        bank: the source bank.
        catalogue: items with ``item_text``, see :func:`puma_hub.data.load_catalogue`.
        items: of the catalogue, drawn at random; all where it has fewer. The LLMs read each of them once.
        users: whom to draw from; all users of the bank by default.
        history: also draw a history of five titles from the catalogue for each row, for templates that show one.

    Raises:
        BankError: the bank is empty.
        UnknownUserError: some of ``users`` are not in the bank.
        InteractionsError: the catalogue is malformed.
        ConfigurationError: ``rows`` or ``items`` is below 1.
    """
    for name, value in (("rows", rows), ("items", items)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigurationError(f"{name} must be a whole number >= 1, got {value!r}")
    if not len(bank):
        raise BankError("the bank is empty; there are no users to draw rows for")
    names = bank.user_ids if users is None else users
    bank.rows(names)
    whole = check_catalogue(catalogue)
    generator = np.random.default_rng(seed)
    chosen = np.sort(generator.permutation(len(whole))[:items])
    user_of, item_of = (_in_turn(size, rows, generator) for size in (len(names), len(chosen)))
    columns = {name: np.array(texts(whole, name), dtype=object)[chosen] for name in ("item_id", "item_text")}
    drawn = {"user_id": [names[number] for number in user_of]}
    drawn |= {name: values[item_of].tolist() for name, values in columns.items()}
    if history:
        titles = generator.integers(len(chosen), size=(rows, _HISTORY))
        drawn["history"] = columns["item_text"][titles].tolist()
    return datasets.Dataset.from_dict(drawn)


def _in_turn(size: int, count: int, generator: np.random.Generator) -> np.ndarray:
    """``count`` numbers below ``size``: permutations one after the other, so that all come equally often, up to one."""
    turns = [generator.permutation(size) for _ in range(-(-count // size))]
    return np.concatenate(turns)[:count]
