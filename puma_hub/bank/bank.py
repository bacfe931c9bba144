"""The soft prompts of many users of one language model."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from puma_hub.bank.arrays import as_float32
from puma_hub.bank.columns import dataset_of_arrays, to_dataset
from puma_hub.bank.folder import write_bank
from puma_hub.bank.index import UserIndex
from puma_hub.bank.merge import aligned, updated_provenance
from puma_hub.bank.on_the_hub import HubExchange
from puma_hub.bank.provenance import Provenance
from puma_hub.bank.shards import DEFAULT_SHARD_SIZE, shard_rows
from puma_hub.bank.statistics import BankStatistics
from puma_hub.bank.stored_rows import BankRows, TableRows
from puma_hub.bank.users import require_distinct, require_known, user_list
from puma_hub.errors import BankError, ConfigurationError, StorageError, UnknownUserError
from puma_hub.identity import ModelSpec
from puma_hub.tasks import RatingHead
from puma_hub.tasks.owners import Owners, owners_of


class PromptBank(HubExchange):
    """The soft prompts of many users of one LLM: ``user_id``, ``prompt`` of shape ``(l, d)``, and provenance.

    A bank made from arrays or a data set is in memory. A loaded bank stays in its files. Looking up a user reads half a
    megabyte. Iterating and :meth:`batches` read piece by piece. Only :attr:`prompts` and :attr:`dataset` read all of
    it. All values must be finite. Values in memory are checked at once, values in files when they are read.

    Args:
        dataset: a ``datasets.Dataset`` of the columns ``user_id: string`` and ``prompt``, lists of ``l * d`` floats,
            in any order. Further columns are kept as they are.
        provenance: the LLM the prompts belong to and how they were made.
        head: the rating head trained with the prompts, if any.

    Raises:
        BankError: a column is missing or has the wrong type, ids are empty or repeated, values are not finite, or the
            head belongs to another task.
    """

    def __init__(self, dataset: datasets.Dataset, provenance: Provenance, head: RatingHead | None = None) -> None:
        shape = provenance.prompt_length, provenance.model.hidden_size
        self._init(TableRows(dataset, shape), provenance, head)

    def _init(self, rows: BankRows, provenance: Provenance, head: RatingHead | None) -> None:
        self.provenance = provenance
        self.head = head
        provenance.require_head(head)
        self.stored = rows
        self.index = UserIndex(rows.ids())

    @classmethod
    def of_rows(cls, rows: BankRows, provenance: Provenance, head: RatingHead | None = None) -> PromptBank:
        """A bank of rows from another bank. Raises the same errors as the class."""
        bank = cls.__new__(cls)
        bank._init(rows, provenance, head)
        return bank

    @classmethod
    def from_arrays(
        cls,
        user_ids: Iterable[str],
        prompts: Any,
        model: ModelSpec | Mapping[str, Any],
        *,
        head: RatingHead | None = None,
        **provenance: Any,
    ) -> PromptBank:
        """Build a bank from ids and prompts ``(N, l, d)``: an array or tensor of any real dtype, or a list of these.

        The prompts are copied unless the array is read-only. Statistics are computed from these prompts. If they are
        only a part of a training, pass the statistics of the whole training as ``statistics``.

        Raises:
            BankError: as for the class; or lengths or shapes do not match.
        """
        spec = ModelSpec.of(model)
        array = as_float32(prompts)
        if array.ndim != 3 or array.shape[2] != spec.hidden_size or array.shape[1] < 1:
            flat = array.ndim == 2 and array.shape[1] and array.shape[1] % spec.hidden_size == 0
            raise BankError(
                f"prompts must have shape (users, length, {spec.hidden_size}) for {spec.model_id}, got {array.shape}"
                + (f"; give prompts.reshape({len(array)}, -1, {spec.hidden_size})" if flat else "")
            )
        ids = user_list(user_ids)
        if len(ids) != len(array):
            raise BankError(f"{len(ids)} user ids for {len(array)} prompts; give one id for each prompt")
        if "statistics" not in provenance and np.isfinite(array).all():
            provenance["statistics"] = BankStatistics.of_prompts(array)
        if isinstance(prompts, (list, tuple)) or (isinstance(prompts, np.ndarray) and prompts.dtype != np.float32):
            array.setflags(write=False)  # a new array of our own, which nobody else can change
        return cls(dataset_of_arrays(ids, array), Provenance(spec, array.shape[1], **provenance), head)

    @classmethod
    def from_batches(
        cls,
        save_directory: str | os.PathLike[str],
        batches: Iterable[tuple[Iterable[str], Any]],
        provenance: Provenance,
        head: RatingHead | None = None,
        *,
        max_shard_size: int | str = DEFAULT_SHARD_SIZE,
    ) -> PromptBank:
        """Write a bank from batches and open its files. Memory holds at most a batch and the end of a shard.

        The folder is replaced in one step after the last batch. After an error it is left unchanged.

        Args:
            batches: pairs of user ids and prompts ``(n, l, d)``. Ids must be sorted, within and across batches, in
                Python's order of strings.
            provenance: if it has no statistics, they are computed from these prompts.
            max_shard_size: the size of a file, such as ``"500MB"``.

        Raises:
            BankError: ids are not sorted, shapes are wrong, values are not finite, or the head belongs to another task.
            ConfigurationError: ``max_shard_size`` is not a size, or too small.
            StorageError: the folder holds something other than a bank, or cannot be written.
        """
        from puma_hub.bank.batch_writer import write_batches

        write_batches(Path(save_directory), batches, provenance, head, max_shard_size)
        return cls.from_pretrained(save_directory)

    # Contents

    @property
    def shape(self) -> tuple[int, int]:
        """``(prompt length l, hidden size d)``."""
        return self.provenance.prompt_length, self.provenance.model.hidden_size

    @property
    def model(self) -> ModelSpec:
        return self.provenance.model

    @property
    def owners(self) -> Owners:
        """Whose prompts these are, users' or items'; :attr:`user_ids` are the ids of these."""
        return owners_of(self.provenance.owners)

    @property
    def statistics(self) -> BankStatistics | None:
        """Mean and spread of the training these prompts come from; None if they are not known."""
        return self.provenance.statistics

    @cached_property
    def dataset(self) -> datasets.Dataset:
        """All rows as a data set. A bank in files is read into memory."""
        return self.stored.dataset

    @property
    def user_ids(self) -> list[str]:
        return self.index.names

    @cached_property
    def prompts(self) -> np.ndarray:
        """All prompts, read-only float32 ``(N, l, d)``. There is no copy if Arrow holds them in one chunk.

        Prompts in files are read into memory and stay there; :meth:`batches` and :meth:`prompts_at` read fewer.
        """
        whole = self.stored.prompts()
        whole.setflags(write=False)
        return whole

    def prompts_at(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """The prompts of some rows, see :meth:`rows`; float32 ``(n, l, d)``. Little more than these is read."""
        return self.stored.prompts_at(np.asarray(rows, np.int64))

    def batches(self, batch_size: int = 4096) -> Iterator[tuple[list[str], np.ndarray]]:
        """All users in batches, in order: their ids, and their prompts float32 ``(n, l, d)``."""
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ConfigurationError(f"batch_size must be a whole number >= 1, got {batch_size!r}")
        for start in range(0, len(self), batch_size):
            ids = self.index.ids.slice(start, batch_size).to_pylist()
            yield ids, self.prompts_at(np.arange(start, start + len(ids)))

    def __len__(self) -> int:
        return len(self.stored)

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        """Pairs of user id and prompt float32 ``(l, d)``."""
        for ids, prompts in self.stored:
            yield from zip(ids, prompts)

    def __contains__(self, user_id: object) -> bool:
        return self.index.row(user_id) >= 0

    def __getitem__(self, user_id: str) -> np.ndarray:
        """The prompt of one user, float32 ``(l, d)``.

        Raises:
            UnknownUserError: the bank has no such user.
            BankError: ``user_id`` is not a string, or the prompt is not finite.
        """
        if not isinstance(user_id, str):
            raise BankError(
                f"bank[...] takes the id of one user, a string, got {type(user_id).__name__}; bank.select takes several"
            )
        row = self.index.row(user_id)
        if row < 0:
            raise UnknownUserError(f"this user is not among the {len(self)} users of this bank; give one of its users")
        prompt = self.prompts_at([row])[0]
        prompt.setflags(write=False)
        return prompt

    def __repr__(self) -> str:
        (length, size), owners = self.shape, self.provenance.owners
        return f"PromptBank({len(self)} {owners}, prompts {length} x {size}, model {self.model.model_id!r})"

    # Making other banks

    def rows(self, user_ids: Iterable[str]) -> list[int]:
        """Row numbers of ``user_ids``.

        Raises:
            UnknownUserError: some users are not in the bank. The message only counts them, since ids are personal.
            BankError: some ids are not strings.
        """
        users = user_list(user_ids)
        rows = self.index.rows(users)
        require_known(np.flatnonzero(rows < 0).tolist(), len(users), len(self))
        found: list[int] = rows.tolist()
        return found

    def select(self, user_ids: Iterable[str]) -> PromptBank:
        """A bank with only ``user_ids``, in that order. Each may be given once."""
        users = user_list(user_ids)
        require_distinct(users)
        return self._take(np.asarray(self.rows(users), np.int64))

    def remove(self, user_ids: Iterable[str]) -> PromptBank:
        """The bank without ``user_ids``."""
        return self._take(np.delete(np.arange(len(self)), self.rows(user_ids)))

    def update(self, other: PromptBank) -> PromptBank:
        """The bank with the users of ``other`` added. Users of both banks get the prompts of ``other``.

        Both banks must come from one training: prompts belong to a template, a task, a head and a base.
        ``PromptTrainer(lm, rows, args, bank=existing)`` trains such prompts for new users.

        Raises:
            MismatchError: ``other`` holds prompts of another LLM, template, task, head or base.
            BankError: prompt lengths or columns differ.
        """
        if not isinstance(other, PromptBank):
            raise BankError(f"bank.update takes a PromptBank, got {type(other).__name__}")
        provenance = updated_provenance(self.provenance, self.head, other.provenance, other.head, "bank.update")
        kept = self.stored.take(np.flatnonzero(~self.index.is_in(other.index)))
        table = pa.concat_tables([kept.table, aligned(other.stored, self.stored)])
        rows = TableRows(to_dataset(table, self.stored.features), self.shape, checked=True)
        return PromptBank.of_rows(rows, provenance, self.head)

    def with_provenance(self, **changes: Any) -> PromptBank:
        """A bank of the same prompts with ``changes`` to the fields of its provenance."""
        provenance = replace(self.provenance, **changes)
        if (provenance.prompt_length, provenance.model.hidden_size) != self.shape:
            return PromptBank(self.dataset, provenance, self.head)
        return PromptBank.of_rows(self.stored, provenance, self.head)

    def _take(self, rows: np.ndarray) -> PromptBank:
        return PromptBank.of_rows(self.stored.take(rows), self.provenance, self.head)

    # On disk

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        *,
        max_shard_size: int | str = DEFAULT_SHARD_SIZE,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        **options: Any,
    ) -> None:
        """Write the bank in the format of the Hub: Parquet, ``bank.json``, and the head in safetensors.

        Rows are sorted by user id. The folder is replaced in one step, so a reader never sees an incomplete bank.

        Args:
            max_shard_size: the size of a file, such as ``"500MB"``.
            push_to_hub: publish the bank too, with the ``options`` of :meth:`push_to_hub`. Its name is ``repo_id``, or
                the folder's name.

        Raises:
            ConfigurationError: ``max_shard_size`` is not a size.
            BankError: values are not finite.
            StorageError: the folder cannot be written.
            HubError: the Hub refuses, or cannot be reached.
        """
        if not push_to_hub and (repo_id is not None or options):
            raise ConfigurationError("repo_id and other options of the Hub need push_to_hub=True; add it or drop them")
        write_bank(Path(save_directory), self, shard_rows(self.stored, max_shard_size))
        if push_to_hub:
            name = Path(save_directory).resolve().name
            self.push_to_hub(repo_id or name, max_shard_size=max_shard_size, **options)

    def to_lmdb(self, save_directory: str | os.PathLike[str], *, dtype: str = "float32") -> None:
        """Write a :class:`~puma_hub.bank.keyed_store.KeyedStore` for look-ups, with values of ``dtype``.

        Raises:
            ConfigurationError, BankError, StorageError: see :func:`~puma_hub.bank.keyed_writer.write_store`.
        """
        from puma_hub.bank.keyed_writer import write_store

        write_store(Path(save_directory), self, dtype)

    # On the Hub

    @classmethod
    def from_pretrained(
        cls,
        repo_or_dir: str | os.PathLike[str],
        *,
        users: Iterable[str] | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        force_download: bool = False,
    ) -> PromptBank:
        """Load a bank from a folder or from the Hub. Its prompts stay in their files.

        Args:
            repo_or_dir: a folder, a repository, or the address ``hf://buckets/namespace/name`` of a bucket or of a
                folder in it.
            users: load only these users, in this order. From the Hub, little more than their rows is read, and no
                prompt is kept on disk.
            revision: a branch, tag or commit. All files come from one commit. A bucket has none.
            cache_dir: a folder for the downloads, in place of the Hub's cache.

        Raises:
            ConfigurationError: a revision of a bucket is asked for, or its address is none.
            UnknownUserError: one of ``users`` is not in the bank.
            BankError: the bank has a newer format, or is malformed.
            CheckpointError: a file is damaged, or files do not belong together.
            StorageError: the folder does not exist, and the name cannot be a repository's.
            HubError: the files cannot be read.
        """
        from puma_hub.bank.download import load_bank

        if not isinstance(repo_or_dir, (str, os.PathLike)):
            raise StorageError(f"give a bank's folder or repository as text or path, got {type(repo_or_dir).__name__}")
        return load_bank(
            os.fspath(repo_or_dir),
            users=users,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            force_download=force_download,
        )
