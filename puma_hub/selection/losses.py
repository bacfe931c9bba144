"""The source LLM's loss on each user's rows, by which several strategies tell users apart."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import datasets
import numpy as np
import torch

from puma_hub.bank import PromptBank
from puma_hub.bank.fit import require_scorer
from puma_hub.data import check_interactions, of_users
from puma_hub.data.biases import offsets_of
from puma_hub.data.rows import codes, column, numbers
from puma_hub.errors import ConfigurationError, SelectionError
from puma_hub.scorer import PersonalizedLM
from puma_hub.scorer.batches import predict_rows


def user_losses(
    lm: PersonalizedLM, bank: PromptBank, interactions: datasets.Dataset, *, batch_size: int = 256
) -> dict[str, float]:
    """The task's mean loss on each user's rows, with the user's own prompt and the bank's head.

    Args:
        lm: the scorer of the bank's LLM.
        interactions: labelled rows; those of other users are left out.
        batch_size: rows at once through the LLM.

    Returns:
        A loss for each user of the bank who has rows. ``select_users(..., losses=...)`` takes it, so that several
        selections need one pass through the LLM.

    Raises:
        MismatchError: the bank belongs to another LLM, template or task.
        SelectionError: none of the users has a row.
        NotFiniteError: the LLM's answers to some rows are NaN or infinite.
    """
    require_scorer(bank, lm, "losses for a selection")
    rows = of_users(check_interactions(interactions, lm.task), bank.user_ids)
    if not len(rows):
        raise SelectionError("none of the bank's users has rows in the interactions; check the user ids")
    user_of, names = codes(column(rows, "user_id"))
    encoded = lm.encode(rows.select_columns(lm.template.columns(rows.column_names)), bank.shape[0])
    prompts = torch.from_numpy(bank.prompts_at(bank.index.rows(names))).to(lm.device)
    logits = predict_rows(lm, encoded, prompts, torch.from_numpy(user_of), batch_size)
    known = offsets_of(rows, lm.task)
    labels = torch.from_numpy((numbers(rows, "label") - known).astype(np.float32)).to(logits.device)
    head = copy.deepcopy(bank.head).to(logits.device) if bank.head is not None else None
    order = torch.from_numpy(np.argsort(user_of, kind="stable"))
    parts = order.split(np.bincount(user_of).tolist())
    with torch.no_grad():
        losses = torch.stack([lm.task.loss(logits[part], labels[part], head) for part in parts])
    return dict(zip(names, losses.tolist()))


def required_scorer(lm: object, reason: str) -> PersonalizedLM:
    """``lm``, if it is a scorer; ``reason`` says what it is asked for.

    Raises:
        ConfigurationError: it is none.
    """
    if not isinstance(lm, PersonalizedLM):
        given = "" if lm is None else f", got {type(lm).__name__}"
        raise ConfigurationError(
            f"this strategy goes by the source LLM's {reason}: give lm=, the PersonalizedLM of the bank's LLM (--model "
            f"on the command line){given}"
        )
    return lm


def loss_values(
    bank: PromptBank,
    interactions: datasets.Dataset,
    lm: PersonalizedLM | None,
    losses: Mapping[str, float] | None,
) -> np.ndarray:
    """Losses float64 ``(N,)`` in the bank's order, computed with ``lm`` or looked up; 0 for users without any.

    Raises:
        ConfigurationError: neither or both of ``lm`` and ``losses`` are given, or they are of another kind.
        SelectionError: there is a loss for none of the users.
    """
    if losses is None:
        losses = user_losses(required_scorer(lm, "loss on each user's rows"), bank, interactions)
    elif lm is not None:
        raise ConfigurationError("lm= and losses= are both given; leave one out")
    return _in_order(bank, losses)


def _in_order(bank: PromptBank, losses: Mapping[str, float]) -> np.ndarray:
    if not isinstance(losses, Mapping):
        raise ConfigurationError(f"losses must map user ids to numbers, got {type(losses).__name__}")
    place = bank.index.rows(list(losses))
    known = place >= 0
    if not known.any():
        raise SelectionError(f"none of the bank's users is among the {len(losses)} users of losses; check the user ids")
    found = np.array(list(losses.values()), dtype=np.float64)[known]
    if not np.isfinite(found).all():
        raise ConfigurationError(
            f"{int((~np.isfinite(found)).sum())} of {len(found)} losses are NaN or infinite; leave these users out"
        )
    values = np.zeros(len(bank))
    values[place[known]] = found
    return values
