"""The source LLM as the teacher of an adapter (knowledge distillation): its predictions as columns of the rows."""

from __future__ import annotations

import copy
import math

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from puma_hub.bank import BankStatistics, PromptBank
from puma_hub.bank.filling import head_of
from puma_hub.bank.fit import require_scorer
from puma_hub.bank.provenance import MEAN_ANSWERS
from puma_hub.data import check_interactions, of_users
from puma_hub.data.held_out import row_hashes
from puma_hub.data.rows import column, numbers
from puma_hub.errors import BankError, ConfigurationError, InteractionsError
from puma_hub.scorer import PersonalizedLM
from puma_hub.scorer.batches import predict_rows
from puma_hub.tasks import RatingHead, Task
from puma_hub.training.calibration import slope_of
from puma_hub.training.encoded_rows import EncodedInteractions
from puma_hub.training.extension import base_of
from puma_hub.training.posterior import recorded_noise

TEACHER_COLUMNS = PREDICTION, PROBABILITIES = "source_prediction", "source_probabilities"
PROMPT = "source_prompt"
# Prompts trained by gradient descent overfit their training labels, and the teacher predicts those same rows. Shrunk
# towards their mean they predict held-out labels better. So do sharpened logits, on the users by whom this was chosen.
OFFSET_SHARE, SPREAD = 0.75, 1.15
# An adapter averages out the errors of the teacher's predictions. So its own are spread less, and predict held-out
# labels better when stretched by so much, on the users by whom this was chosen.
AVERAGED = 1.1
# The prompts of one training differ in few directions, and those of another training partly in other directions. With
# noise added, the adapter learns from the LLM what every direction means.
NOISE = 2.0


def with_source_predictions(
    lm: PersonalizedLM,
    bank: PromptBank,
    interactions: datasets.Dataset,
    *,
    offset_share: float | None = None,
    spread: float | None = None,
    noise: float = NOISE,
    seed: int = 42,
    batch_size: int = 256,
    given: PromptBank | None = None,
) -> datasets.Dataset:
    """Return the rows of the bank's users with the source LLM's predictions for them, made with the users' prompts.

    Given such rows, :class:`AdapterTrainer` learns from the predictions (knowledge distillation). With
    ``teacher_weight`` below 1 it learns from the labels too. Predictions do not have the noise of labels, so fewer
    steps are enough. A row's prediction does not depend on the other rows.

    Args:
        lm: the scorer of the bank's LLM.
        offset_share: shrinkage of the prompts towards the bank's mean prompt; 1 does not shrink them. By default 1 for
            prompts that are shrunk already, as posterior means and migrated prompts are, and 0.75 for others.
        spread: sharpening of the answer logits: a factor on their distance from the mean logits that the bank records;
            1 does not sharpen them. By default 1.1 times the calibration slope that a bank of posterior means
            records, 1.1 for migrated prompts, and 1.15 for other trained prompts; 1 if the bank records no mean.
        noise: standard deviation of the Gaussian noise added to each row's prompt, in spreads of the bank. The adapter
            then also learns to map prompts unlike those of its training users, as other banks have. 0 adds no noise.
        seed: seed of the noise. A row's noise does not depend on other rows, unless they say the same. For an adapter
            of several sources, give each source another seed and join the rows with :func:`puma_hub.combine_teachers`.
        given: the source's prompts of the other kind, which fill their slot; for a bank of items the bank of its users.

    Returns:
        A dataset with the columns ``source_prediction``, a rating or the probability of a click, and
        ``source_probabilities``, one for each answer. With noise also ``source_prompt``, the row's noisy
        prompt ``(l, d)`` before shrinkage.

    Raises:
        ConfigurationError: ``offset_share`` or ``spread`` is not above 0, ``noise`` is negative, or ``spread`` is given
            and the bank records no mean logits.
        MismatchError: the bank belongs to another LLM, template or task.
        InteractionsError: rows are malformed, or none belongs to a user of the bank.
        NotFiniteError: the LLM's answers to some rows are not finite.
    """
    _require_in_range(offset_share, spread, noise)
    require_scorer(bank, lm, "the teacher", given)
    if offset_share is None:
        offset_share = 1.0 if _shrunk_already(bank) else OFFSET_SHARE
    spread, mean_answers = _spread(bank, lm, spread)
    rows = _rows_of(bank, interactions, lm.task)
    row_of = {user: row for row, user in enumerate(bank.user_ids)}
    encoded = EncodedInteractions.build(lm, rows, row_of, bank.shape[0], bank.owners, given)
    prompts, prompt_of = torch.from_numpy(bank.prompts.copy()), encoded.users
    if noise:
        prompts = prompts[prompt_of] + noise * _spread_of_users(bank) * _normal(rows, bank.shape, seed)
        prompt_of = torch.arange(len(rows))
    mean_prompt = base_of(bank)
    shrunk = (mean_prompt + offset_share * (prompts - mean_prompt)).to(lm.device)
    with torch.no_grad():
        logits = predict_rows(lm, encoded.rows, shrunk, prompt_of, batch_size)
        logits = mean_answers + spread * (logits - mean_answers)
    return _with_columns(rows, lm.task, logits, head_of(bank, given), prompts if noise else None)


def _rows_of(bank: PromptBank, interactions: datasets.Dataset, task: Task) -> datasets.Dataset:
    """The rows of the bank's users."""
    owners = bank.owners
    rows = of_users(check_interactions(interactions, task, labels=False), bank.user_ids, owners.column)
    if not len(rows):
        raise InteractionsError(
            f"none of {len(interactions)} rows belongs to the {owners.name} of the bank; check the column "
            f"{owners.column}"
        )
    return rows


def _spread_of_users(bank: PromptBank) -> float:
    return (bank.statistics or BankStatistics.alone(bank.prompts)).spread


def _with_columns(
    rows: datasets.Dataset, task: Task, logits: torch.Tensor, head: RatingHead | None, prompts: torch.Tensor | None
) -> datasets.Dataset:
    """The rows with the teacher's columns: from its ``logits (N, answers)``, and its ``prompts (N, l, d)`` if any."""
    with torch.no_grad():
        head = copy.deepcopy(head).to(logits.device) if head is not None else None
        predictions = task.predict(logits, head).double().cpu().numpy()
        probabilities = logits.softmax(-1).double().cpu().numpy()
    rows = rows.remove_columns([name for name in (*TEACHER_COLUMNS, PROMPT) if name in rows.column_names])
    rows = rows.add_column(PREDICTION, predictions).add_column(PROBABILITIES, list(probabilities))
    return rows if prompts is None else with_prompts(rows, prompts.numpy())


def _require_in_range(offset_share: float | None, spread: float | None, noise: float) -> None:
    for name, value in (("offset_share", offset_share), ("spread", spread)):
        if value is not None and not 0 < value < math.inf:
            raise ConfigurationError(f"{name} must be greater than 0, got {value!r}; 1 changes nothing")
    if not 0 <= noise < math.inf:
        raise ConfigurationError(f"noise must not be negative, got {noise!r}; 0 adds no noise to the prompts")


def _shrunk_already(bank: PromptBank) -> bool:
    """Whether prompts, or those they come from, were solved for around their mean, or an adapter made them."""
    return bank.provenance.made_by == "migrated" or recorded_noise(bank) is not None


def _normal(rows: datasets.Dataset, shape: tuple[int, int], seed: int) -> torch.Tensor:
    """Standard normal noise ``(N, l, d)``, seeded by the row's content, and by how often that has come before."""
    hashes = row_hashes(rows)
    order = np.argsort(hashes, kind="stable")
    new = np.concatenate([[True], hashes[order][1:] != hashes[order][:-1]])
    before = np.empty(len(hashes), dtype=np.int64)
    before[order] = np.arange(len(order)) - np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))
    seeds = [[seed, key, again] if again else [seed, key] for key, again in zip(hashes.tolist(), before.tolist())]
    return torch.from_numpy(np.stack([np.random.default_rng(one).standard_normal(shape, np.float32) for one in seeds]))


def _spread(bank: PromptBank, lm: PersonalizedLM, spread: float | None) -> tuple[float, torch.Tensor]:
    """The sharpening factor, and the mean logits ``(answers,)`` around which the logits are sharpened."""
    recorded = bank.provenance.details.get(MEAN_ANSWERS)
    if recorded is None:
        if spread not in (None, 1.0):
            raise ConfigurationError(
                f"spread={spread} needs the mean answer logits that PromptTrainer records in its banks; this bank has "
                "none, leave spread out"
            )
        return 1.0, torch.zeros(len(lm.task.answers), device=lm.device)
    answers = len(lm.task.answers)
    numbers = isinstance(recorded, (list, tuple)) and all(isinstance(number, (int, float)) for number in recorded)
    if not numbers or len(recorded) != answers or not np.isfinite(recorded).all():
        raise BankError(f"the bank's {MEAN_ANSWERS} must be {answers} numbers; train the bank again")
    if spread is None:
        slope = slope_of(bank.provenance.details)
        if slope is None and bank.provenance.made_by == "migrated":
            slope = 1.0  # the adapter learnt from answers that were sharpened already
        spread = SPREAD if slope is None else AVERAGED * slope
    return spread, torch.tensor(recorded, dtype=torch.float32, device=lm.device)


def source_predictions(rows: datasets.Dataset, answers: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The teacher's columns as float32 tensors ``(N,)`` and ``(N, answers)``.

    Raises:
        InteractionsError: a column is missing, or values belong to another task or are not finite.
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


def with_prompts(rows: datasets.Dataset, prompts: np.ndarray) -> datasets.Dataset:
    """The rows with the teacher's prompts ``(N, l, d)``."""
    return rows.add_column(PROMPT, [list(prompt) for prompt in prompts.astype(np.float32)])


def prompts_of(rows: datasets.Dataset) -> np.ndarray | None:
    """The prompts float32 ``(N, l, d)`` of the teacher; None if the column holds something else."""
    found = column(rows, PROMPT).combine_chunks()
    shape = [len(rows)]
    while pa.types.is_list(found.type) or pa.types.is_large_list(found.type):
        sizes = pc.unique(pc.list_value_length(found)).to_pylist()
        if len(sizes) != 1 or not sizes[0]:
            return None
        shape.append(sizes[0])
        found = found.flatten()
    if len(shape) != 3 or not pa.types.is_floating(found.type):
        return None
    return found.to_numpy(zero_copy_only=False).astype(np.float32).reshape(shape)


def noisy_prompts(rows: datasets.Dataset, shape: tuple[int, int]) -> torch.Tensor | None:
    """The teacher's noisy prompts, float32 ``(N, l, d)``; None if it used the users' own prompts.

    Args:
        shape: ``(l, d)``, of several sources with the sum of their sizes.

    Raises:
        InteractionsError: the prompts have another shape, or are not finite.
    """
    if PROMPT not in rows.column_names:
        return None
    values = prompts_of(rows)
    if values is None or values.shape[1:] != shape or not np.isfinite(values).all():
        raise InteractionsError(
            f"{PROMPT} must hold finite prompts {shape}, those of all sources side by side; make it with "
            "with_source_predictions and these banks, for several sources with combine_teachers"
        )
    return torch.from_numpy(values)
