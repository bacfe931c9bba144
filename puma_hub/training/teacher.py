"""The source LLM as the teacher of an adapter: what it says of each training row, in the rows themselves."""

from __future__ import annotations

import copy
import math

import datasets
import numpy as np
import torch

from puma_hub.bank import BankStatistics, PromptBank
from puma_hub.bank.filling import head_of
from puma_hub.bank.fit import require_scorer
from puma_hub.data import check_interactions, of_users
from puma_hub.data.held_out import row_hashes
from puma_hub.data.rows import column, numbers
from puma_hub.errors import BankError, ConfigurationError, InteractionsError
from puma_hub.scorer import PersonalizedLM
from puma_hub.scorer.batches import predict_rows
from puma_hub.training.encoded_rows import EncodedInteractions
from puma_hub.training.extension import base_of

TEACHER_COLUMNS = PREDICTION, PROBABILITIES = "source_prediction", "source_probabilities"
PROMPT = "source_prompt"
# Prompts overfit their training labels, and the teacher is asked about those very rows: prompts shrunk towards their
# mean and logits sharpened predict held-out labels better.
OFFSET_SHARE, SPREAD = 0.75, 1.15
# Users of one training differ in few directions, and users of another training partly in others. With noise added, the
# adapter learns from the LLM what any direction means.
NOISE = 2.0
MEAN_ANSWERS = "mean_answers"  # among the details of a bank's provenance


def with_source_predictions(
    lm: PersonalizedLM,
    bank: PromptBank,
    interactions: datasets.Dataset,
    *,
    offset_share: float = OFFSET_SHARE,
    spread: float | None = None,
    noise: float = NOISE,
    seed: int = 42,
    batch_size: int = 256,
    given: PromptBank | None = None,
) -> datasets.Dataset:
    """Return the rows of the bank's users with what the source LLM predicts from the user's own prompt.

    :class:`AdapterTrainer` learns such rows from the predictions (knowledge distillation), and with ``teacher_weight``
    below 1 from the labels too: predictions have none of the labels' noise, so fewer steps do. What is said of a row
    does not depend on the other rows.

    Args:
        lm: the scorer of the bank's LLM.
        offset_share: shrinkage of the prompts towards the bank's mean prompt; 1 does not shrink them.
        spread: sharpening of the answer logits: a factor on their distance from the mean logits that the bank records;
            1 does not sharpen them. 1.15 by default, or 1 if the bank records no mean.
        noise: standard deviation of Gaussian noise on each row's prompt, in spreads of the bank. The adapter then also
            learns prompts unlike those of its training users, as other banks have. 0 adds none.
        seed: of the noise, which is the same for a row whichever rows come with it.
        given: the source's prompts of the other kind, which stand in their slot as they are; for a bank of items the
            bank of its users.

    Returns:
        A dataset with two more columns: ``source_prediction``, a rating or the probability of a click, and
        ``source_probabilities``, one for each answer; and with noise ``source_prompt``, the prompt of the row before
        ``offset_share``.

    Raises:
        ConfigurationError: ``offset_share`` or ``spread`` is not above 0, ``noise`` is negative, or the bank records no
            mean to spread around.
        MismatchError: the bank belongs to another LLM, template or task.
        InteractionsError: rows are malformed, or none belongs to a user of the bank.
        NotFiniteError: the LLM's answers to some rows are not finite.
    """
    _require_in_range(offset_share, spread, noise)
    require_scorer(bank, lm, "the teacher", given)
    spread, mean_answers = _spread(bank, lm, spread)
    owners = bank.owners
    rows = of_users(check_interactions(interactions, lm.task, labels=False), bank.user_ids, owners.column)
    if not len(rows):
        raise InteractionsError(
            f"none of {len(interactions)} rows belongs to the {owners.name} of the bank; check the column "
            f"{owners.column}"
        )
    row_of = {user: row for row, user in enumerate(bank.user_ids)}
    encoded = EncodedInteractions.build(lm, rows, row_of, bank.shape[0], owners, given)
    mean_prompt = base_of(bank)
    prompts, prompt_of = torch.from_numpy(bank.prompts.copy()), encoded.users
    if noise:
        spread_of_users = (bank.statistics or BankStatistics.alone(bank.prompts)).spread
        prompts = prompts[prompt_of] + noise * spread_of_users * _normal(rows, bank.shape, seed)
        prompt_of = torch.arange(len(rows))
    asked = (mean_prompt + offset_share * (prompts - mean_prompt)).to(lm.device)
    with torch.no_grad():
        logits = predict_rows(lm, encoded.rows, asked, prompt_of, batch_size)
        logits = mean_answers + spread * (logits - mean_answers)
        head = head_of(bank, given)
        head = copy.deepcopy(head).to(logits.device) if head is not None else None
        predictions = lm.task.predict(logits, head).double().cpu().numpy()
        probabilities = logits.softmax(-1).double().cpu().numpy()
    rows = rows.remove_columns([name for name in (*TEACHER_COLUMNS, PROMPT) if name in rows.column_names])
    rows = rows.add_column(PREDICTION, predictions).add_column(PROBABILITIES, list(probabilities))
    return rows.add_column(PROMPT, list(prompts.flatten(1).numpy())) if noise else rows


def _require_in_range(offset_share: float, spread: float | None, noise: float) -> None:
    for name, value in (("offset_share", offset_share), ("spread", spread)):
        if value is not None and not 0 < value < math.inf:
            raise ConfigurationError(f"{name} must be greater than 0, got {value!r}; 1 leaves the source as it is")
    if not 0 <= noise < math.inf:
        raise ConfigurationError(f"noise must not be negative, got {noise!r}; 0 asks with the users' own prompts")


def _normal(rows: datasets.Dataset, shape: tuple[int, int], seed: int) -> torch.Tensor:
    """Standard normal noise ``(N, l, d)``, each row's by what the row says."""
    drawn = [np.random.default_rng([seed, key]).standard_normal(shape, np.float32) for key in row_hashes(rows).tolist()]
    return torch.from_numpy(np.stack(drawn))


def _spread(bank: PromptBank, lm: PersonalizedLM, spread: float | None) -> tuple[float, torch.Tensor]:
    """The factor, and the mean logits ``(answers,)`` around which logits are spread."""
    recorded = bank.provenance.details.get(MEAN_ANSWERS)
    if recorded is None:
        if spread not in (None, 1.0):
            raise ConfigurationError(
                f"spread={spread} needs the mean answers that a bank of PromptTrainer records; this bank has none, "
                "leave spread out"
            )
        return 1.0, torch.zeros(len(lm.task.answers), device=lm.device)
    answers = len(lm.task.answers)
    numbers = isinstance(recorded, (list, tuple)) and all(isinstance(number, (int, float)) for number in recorded)
    if not numbers or len(recorded) != answers or not np.isfinite(recorded).all():
        raise BankError(f"the bank's {MEAN_ANSWERS} must be {answers} numbers; train the bank again")
    return (SPREAD if spread is None else spread), torch.tensor(recorded, dtype=torch.float32, device=lm.device)


def source_predictions(rows: datasets.Dataset, answers: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The teacher's columns as float32 tensors ``(N,)`` and ``(N, answers)``.

    Raises:
        InteractionsError: one column is missing, or the values are of another task or not finite.
    """
    present = [name for name in TEACHER_COLUMNS if name in rows.column_names]
    if len(present) == 1:
        raise InteractionsError(
            f"rows have {present[0]} but not the other of {PREDICTION} and {PROBABILITIES}; make both with "
            "with_source_predictions, or remove it"
        )
    predictions = numbers(rows, PREDICTION).astype(np.float32)
    lists = column(rows, PROBABILITIES).to_pylist()
    sizes = {len(values) for values in lists}
    if sizes != {answers}:
        raise InteractionsError(
            f"{PROBABILITIES} must hold {answers} numbers a row, found {sorted(sizes)}; make it with the same task"
        )
    probabilities = np.asarray(lists, dtype=np.float32)
    bad = ~(np.isfinite(predictions) & np.isfinite(probabilities).all(1))
    if bad.any():
        raise InteractionsError(f"{int(bad.sum())} of {len(rows)} source predictions are NaN or infinite; drop them")
    return torch.from_numpy(predictions), torch.from_numpy(probabilities)


def asked_prompts(rows: datasets.Dataset, shape: tuple[int, int]) -> torch.Tensor | None:
    """The prompts ``(N, l, d)`` that the teacher was asked with, float32; None where they are the users' own.

    Raises:
        InteractionsError: they are of another shape, or not finite.
    """
    if PROMPT not in rows.column_names:
        return None
    values = column(rows, PROMPT).combine_chunks().flatten().to_numpy(zero_copy_only=False)
    if len(values) != len(rows) * shape[0] * shape[1] or not np.isfinite(values).all():
        raise InteractionsError(
            f"{PROMPT} must hold {shape[0] * shape[1]} finite numbers a row for one bank of prompts {shape}; make it "
            "with with_source_predictions and this bank"
        )
    return torch.from_numpy(values.astype(np.float32).reshape(len(rows), *shape))
