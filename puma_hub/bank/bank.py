"""The soft prompts of many users of one language model."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import pyarrow as pa

from puma_hub.bank.provenance import Provenance
from puma_hub.bank.statistics import BankStatistics
from puma_hub.bank.storage import read_bank, write_bank
from puma_hub.bank.users import require_distinct, require_known, user_list
from puma_hub.data.held_out import TrainedRows
from puma_hub.data.rows import flat, take_rows
from puma_hub.errors import BankError, UnknownUserError
from puma_hub.identity import ModelSpec
from puma_hub.scorer import RatingHead

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

_ROWS_AT_ONCE = 65_536


class PromptBank:
    """A ``datasets.Dataset`` of ``user_id: string`` and ``prompt: float32 list of l * d``, with provenance.

    Further columns are kept as they are. The dataset may be memory-mapped: looking up a user reads one row.

    Args:
        dataset: the columns above, in any order.
        provenance: the LLM the prompts belong to and how they were made.
        head: the rating head trained along with the prompts, if any.

    Raises:
        BankError: a column is missing or of another type, ids are empty or repeated, values are not finite, or the head
            is another task's.
    """

    def __init__(self, dataset: datasets.Dataset, provenance: Provenance, head: RatingHead | None = None) -> None:
        self.provenance = provenance
        self.head = head
        if head is not None and head.answers != provenance.answers:
            raise BankError(
                f"the head takes {head.answers} answers, the bank's task has {provenance.answers}; give the bank "
                "the task the head was trained for"
            )
        self.dataset = _checked_dataset(dataset, self.shape)
        self._check_ids()
        self._check_values()

    @classmethod
    def from_arrays(
        cls,
        user_ids: Sequence[str],
        prompts: np.ndarray,
        model: ModelSpec | Mapping[str, Any],
        *,
        head: RatingHead | None = None,
        **provenance: Any,
    ) -> PromptBank:
        """Build a bank from ids and an array ``(N, l, d)`` of any float dtype.

        Statistics are those of these prompts, unless ``statistics`` gives the ones of the training they are a part of.

        Raises:
            BankError: as for the class, or lengths and shapes disagree.
        """
        spec = ModelSpec.of(model)
        array = np.asarray(prompts)
        if array.ndim != 3 or array.shape[2] != spec.hidden_size or array.shape[1] < 1:
            raise BankError(
                f"prompts must have shape (users, length, {spec.hidden_size}) for {spec.model_id}, got {array.shape}"
            )
        ids = user_list(user_ids)
        if len(ids) != len(array):
            raise BankError(f"{len(ids)} user ids for {len(array)} prompts; give one id for each prompt")
        if "statistics" not in provenance and np.isfinite(array).all():
            provenance["statistics"] = BankStatistics.of_prompts(array.astype(np.float32, copy=False))
        return cls(_to_dataset(ids, array), Provenance(spec, array.shape[1], **provenance), head)

    # What it holds

    @property
    def shape(self) -> tuple[int, int]:
        """``(prompt length l, hidden size d)``."""
        return self.provenance.prompt_length, self.provenance.model.hidden_size

    @property
    def model(self) -> ModelSpec:
        return self.provenance.model

    @property
    def statistics(self) -> BankStatistics | None:
        """Mean and spread of the training these prompts come from; None where they are not known."""
        return self.provenance.statistics

    @cached_property
    def user_ids(self) -> list[str]:
        return [str(user) for user in self.dataset.data.column("user_id").to_pylist()]

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {user: row for row, user in enumerate(self.user_ids)}

    @property
    def prompts(self) -> np.ndarray:
        """All prompts, read-only float32 ``(N, l, d)``; no copy where Arrow holds them in one piece."""
        chunks = [self._chunk(chunk) for chunk in self.dataset.data.column("prompt").chunks]
        whole = chunks[0] if len(chunks) == 1 else np.concatenate(chunks or [np.zeros((0, *self.shape), np.float32)])
        whole.setflags(write=False)
        return whole

    def _chunk(self, chunk: pa.FixedSizeListArray) -> np.ndarray:
        return chunk.flatten().to_numpy(zero_copy_only=True).reshape(-1, *self.shape)

    def __len__(self) -> int:
        return int(self.dataset.num_rows)

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        for chunk_ids, chunk in zip(
            self.dataset.data.column("user_id").chunks, self.dataset.data.column("prompt").chunks
        ):
            yield from zip(chunk_ids.to_pylist(), self._chunk(chunk))

    def __contains__(self, user_id: object) -> bool:
        return user_id in self._row_of

    def __getitem__(self, user_id: str) -> np.ndarray:
        """The prompt of one user, float32 ``(l, d)``.

        Raises:
            UnknownUserError: the bank has no such user.
        """
        if user_id not in self._row_of:
            raise UnknownUserError(f"the user asked for is not among the {len(self)} users of this bank")
        row = self.dataset.data.column("prompt").slice(self._row_of[user_id], 1)
        return self._chunk(row.combine_chunks() if row.num_chunks != 1 else row.chunk(0))[0]

    def __repr__(self) -> str:
        length, size = self.shape
        return f"PromptBank({len(self)} users, prompts {length} x {size}, model {self.model.model_id!r})"

    # Other banks from it

    def rows(self, user_ids: Sequence[str]) -> list[int]:
        """Row numbers of ``user_ids``.

        Raises:
            UnknownUserError: some are not in the bank; the message counts them, ids are personal.
        """
        require_known(user_ids, self._row_of, len(self))
        return [self._row_of[user] for user in user_ids]

    def select(self, user_ids: Sequence[str]) -> PromptBank:
        """The bank of ``user_ids`` alone, in that order, each once."""
        users = list(user_ids)
        require_distinct(users)
        return self._take(self.rows(users))

    def remove(self, user_ids: Sequence[str]) -> PromptBank:
        """The bank without ``user_ids``."""
        gone = set(self.rows(list(user_ids)))
        return self._take([row for row in range(len(self)) if row not in gone])

    def update(self, other: PromptBank) -> PromptBank:
        """The bank with the users of ``other`` added, or replaced where they were in it already.

        Raises:
            MismatchError: ``other`` holds prompts of another LLM.
            BankError: prompt lengths or columns differ.
        """
        self.model.require_same(other.model, "bank.update")
        if self.shape != other.shape or self.dataset.features != other.dataset.features:
            raise BankError(
                f"the banks differ: prompts {self.shape} and {other.shape}, columns {self.dataset.column_names} and "
                f"{other.dataset.column_names}; make them alike first"
            )
        kept = [row for row, user in enumerate(self.user_ids) if user not in other]
        table = pa.concat_tables([take_rows(self.dataset, kept).data.table, other.dataset.data.table])
        trained = TrainedRows.of_all(bank.provenance.trained_rows for bank in (self, other))
        provenance = replace(self.provenance, trained_rows=trained)
        return PromptBank(datasets.Dataset(table, info=self.dataset.info), provenance, self.head)

    def with_provenance(self, **changes: Any) -> PromptBank:
        """The same prompts with other facts about them."""
        return PromptBank(self.dataset, replace(self.provenance, **changes), self.head)

    def _take(self, rows: list[int]) -> PromptBank:
        return PromptBank(take_rows(self.dataset, rows), self.provenance, self.head)

    # On disk

    def save_to_disk(self, folder: str | Path) -> None:
        """Write the bank; the folder is replaced as a whole, so a reader never sees half of it."""
        write_bank(folder, self.dataset, self.provenance, self.head)

    @classmethod
    def load_from_disk(cls, folder: str | Path) -> PromptBank:
        """Read a bank written by :meth:`save_to_disk`, memory-mapped."""
        return cls(*read_bank(folder))

    # On the Hub

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = True,
        token: str | bool | None = None,
        revision: str | None = None,
        commit_message: str | None = None,
        license: str | None = None,
        max_shard_size: int | str = "500MB",
    ) -> CommitInfo:
        """Publish prompts, provenance, head and card in one commit that replaces what the repository held.

        Rows are sorted by user id, so that a part of the users can be read without the rest.

        Args:
            private: false is needed to publish in a repository that anyone can read. One that is there already
                keeps its visibility.
            revision: a branch, made if there is none.
            license: an identifier of the Hub, such as ``cc-by-4.0``; never guessed.
            max_shard_size: of a file, such as ``"500MB"``.

        Returns:
            The commit, with ``repo_url``, ``commit_url`` and ``oid``.

        Raises:
            ConfigurationError: the repository is public and ``private`` is true, or an argument cannot be used.
            HubError: the Hub refused, or cannot be reached; its newest revision is whole in any case.
        """
        from puma_hub.hub.bank_publish import publish_bank

        return publish_bank(
            self,
            repo_id,
            private=private,
            token=token,
            revision=revision,
            commit_message=commit_message,
            licence=license,
            max_shard_size=max_shard_size,
        )

    @classmethod
    def from_pretrained(
        cls,
        repo_or_dir: str | os.PathLike[str],
        *,
        users: Sequence[str] | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        force_download: bool = False,
    ) -> PromptBank:
        """Load a bank from a folder or from the Hub, memory-mapped.

        Args:
            users: these users alone, in this order. From the Hub, little more than their rows is then read, and no
                prompt is kept on disk.
            revision: a branch, tag or commit; all files are of the one commit it stands for.
            cache_dir: for the downloads and their memory-mapped copy, instead of the usual caches.

        Raises:
            UnknownUserError: one of ``users`` is not in the bank.
            BankError: the bank is of a newer format, or malformed.
            CheckpointError: a file is damaged, or files do not belong together.
            StorageError: there is no such folder, and it cannot be a repository.
            HubError: the files cannot be read.
        """
        from puma_hub.hub.bank_download import load_bank

        return load_bank(
            os.fspath(repo_or_dir),
            users=users,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            force_download=force_download,
        )

    # Checks

    def _check_ids(self) -> None:
        empty = [row for row, user in enumerate(self.dataset.data.column("user_id").to_pylist()) if not user]
        if empty:
            raise BankError(f"{len(empty)} user ids are empty (the first in row {empty[0]}); give every user an id")
        if len(self._row_of) != len(self):
            first = next(row for row, user in enumerate(self.user_ids) if self._row_of[user] != row)
            raise BankError(
                f"{len(self) - len(self._row_of)} user ids are duplicates (one stands in rows {first} and "
                f"{self._row_of[self.user_ids[first]]}); keep one prompt for each user"
            )

    def _check_values(self) -> None:
        prompts = self.prompts
        for start in range(0, len(prompts), _ROWS_AT_ONCE):
            finite = np.isfinite(prompts[start : start + _ROWS_AT_ONCE]).all(axis=(1, 2))
            if not finite.all():
                raise BankError(
                    f"the prompt in row {start + int(np.argmin(finite))} holds NaN or infinite values; "
                    "remove that user or train the prompt again"
                )


def _to_dataset(ids: list[str], prompts: np.ndarray) -> datasets.Dataset:
    _, length, size = prompts.shape
    flat = np.ascontiguousarray(prompts, dtype=np.float32).reshape(-1)
    column = pa.FixedSizeListArray.from_arrays(pa.array(flat), length * size)
    features = datasets.Features(
        {"user_id": datasets.Value("string"), "prompt": datasets.List(datasets.Value("float32"), length=length * size)}
    )
    table = pa.table({"user_id": pa.array(ids, pa.string()), "prompt": column})
    return datasets.Dataset(table, info=datasets.DatasetInfo(features=features))


def _checked_dataset(dataset: datasets.Dataset, shape: tuple[int, int]) -> datasets.Dataset:
    missing = [name for name in ("user_id", "prompt") if name not in dataset.column_names]
    if missing:
        raise BankError(
            f"a bank needs the columns user_id and prompt; {', '.join(missing)} missing in {dataset.column_names}"
        )
    dataset = flat(dataset)
    wanted = {
        "user_id": datasets.Value("string"),
        "prompt": datasets.List(datasets.Value("float32"), length=shape[0] * shape[1]),
    }
    for name, feature in wanted.items():
        found = dataset.features[name]
        if found != feature:
            raise BankError(
                f"column {name!r} must be {feature} for prompts of shape {shape}, found {found}; cast the column or "
                "use PromptBank.from_arrays"
            )
    if dataset.data.column("prompt").null_count or dataset.data.column("user_id").null_count:
        raise BankError("the columns user_id and prompt must not hold nulls; drop those rows")
    return dataset
