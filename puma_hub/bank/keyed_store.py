"""Users' prompts in an LMDB file, for look-ups by many serving processes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import numpy as np

from puma_hub.bank.keyed_environment import StoreFiles, data_path, identity_of, open_files
from puma_hub.bank.keyed_records import key_of
from puma_hub.bank.merge import same_head
from puma_hub.bank.provenance import Provenance
from puma_hub.bank.users import require_known, user_list
from puma_hub.errors import BankError, CheckpointError, MismatchError, StorageError, UnknownUserError
from puma_hub.identity import ModelSpec
from puma_hub.tasks import RatingHead
from puma_hub.tasks.owners import Owners, owners_of


class KeyedStore:
    """The prompts of many users, found by user id. Written by :meth:`puma_hub.PromptBank.to_lmdb`.

    It opens in milliseconds, however many users it has, and a look-up reads one prompt. Any number of processes and
    threads may share a folder, which may be read-only. A store that was opened before a fork works in the child.

    Files are replaced and never changed. Each look-up sees whether the folder has been replaced, and uses the new
    files: a user who was deleted is gone with the next look-up, in every process. If the folder is missing, the open
    files stay in use.

    The store keeps hashes of the ids, so users cannot be listed.

    Args:
        folder: of the store, or a symbolic link to one.

    Raises:
        StorageError: there is no store, or it cannot be read.
        CheckpointError: it is damaged.
        BankError: it has a newer format.
        MissingDependencyError: LMDB is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        if not isinstance(folder, (str, os.PathLike)):
            raise StorageError(f"give a keyed store's folder as text or path, got {type(folder).__name__}")
        self._folder = Path(os.path.abspath(folder))
        self._data = data_path(self._folder)
        self._files: StoreFiles | None = open_files(self._folder)

    # Contents. Each raises the errors of a look-up.

    @property
    def provenance(self) -> Provenance:
        return self._newest().provenance

    @property
    def head(self) -> RatingHead | None:
        """The rating head trained with the prompts, if any."""
        return self._newest().head

    @property
    def shape(self) -> tuple[int, int]:
        """``(prompt length l, hidden size d)``."""
        return self._newest().packing.shape

    @property
    def model(self) -> ModelSpec:
        return self.provenance.model

    @property
    def owners(self) -> Owners:
        """Whose prompts these are, users' or items'."""
        return owners_of(self.provenance.owners)

    @property
    def dtype(self) -> str:
        """Of the stored values: ``float32``, ``float16`` or ``bfloat16``. Prompts are given as float32."""
        return self._newest().packing.dtype

    def __len__(self) -> int:
        return self._newest().users

    def __contains__(self, user_id: object) -> bool:
        return isinstance(user_id, str) and not self._newest().missing([key_of(user_id)])

    def __getitem__(self, user_id: str) -> np.ndarray:
        """The prompt of one user, float32 ``(l, d)``.

        Raises:
            UnknownUserError: the store has no such user.
            BankError: ``user_id`` is not a string.
            CheckpointError: the store is damaged.
            MismatchError: the folder was replaced by a store of another LLM, template, task or head.
            StorageError: the store is closed.
        """
        prompt = self.get(user_id)
        if prompt is None:
            raise UnknownUserError(f"this user is not among the {len(self)} users of this store; give one of its users")
        return prompt

    def get(self, user_id: str) -> np.ndarray | None:
        """As ``store[user_id]``, but None if the store has no such user."""
        if not isinstance(user_id, str):
            raise BankError(
                f"a store takes the id of one user, a string, got {type(user_id).__name__}; prompts_of takes several"
            )
        prompt = self._newest().prompt(key_of(user_id))
        if prompt is not None:
            prompt.setflags(write=False)
        return prompt

    def prompts_of(self, user_ids: Iterable[str]) -> np.ndarray:
        """The prompts of several users, in that order, float32 ``(n, l, d)``; all of one state of the store.

        Raises:
            UnknownUserError: some users are not in the store. The message only counts them, since ids are personal.
            BankError: some ids are not strings.
            CheckpointError, MismatchError, StorageError: as for one user.
        """
        files, users = self._newest(), user_list(user_ids)
        prompts, missing = files.prompts([key_of(user) for user in users])
        require_known(missing, len(users), files.users)
        return prompts

    def __iter__(self) -> NoReturn:
        raise BankError(
            "a keyed store holds hashes of ids and cannot list its users; take the bank it was written from"
        )

    def verify(self) -> None:
        """Read all of the data and compare its hash with what was written, for instance after copying a store.

        Without it, each look-up checks the prompt that it reads.

        Raises:
            CheckpointError: the store is damaged.
            StorageError: it is closed, or cannot be read.
        """
        while True:
            files = self._newest()
            try:
                return files.description.verify(self._folder)
            except CheckpointError:
                if self._newest() is files:  # not replaced meanwhile
                    raise

    # Changes

    def update(self, bank: Any) -> None:
        """Add the users of a :class:`~puma_hub.PromptBank` of the same training, or replace their prompts.

        All files are written anew, and replace the old ones in one step.

        Raises:
            MismatchError: ``bank`` has another LLM, template, task, head or base; see :meth:`PromptBank.update`.
            BankError: prompt lengths differ, or a value is too large for the store's dtype.
            StorageError: the files cannot be written. The store is unchanged then.
        """
        from puma_hub.bank.keyed_writer import update_store

        update_store(self._folder, bank)

    def delete(self, user_ids: Iterable[str]) -> None:
        """Delete users. No byte of their prompts or keys is left in the folder.

        All files are written anew, without these users, and replace the old ones in one step. The disk gives the old
        ones' space free when every process that has them open has looked a user up, or ended.

        Raises:
            UnknownUserError: some users are not in the store. Then nothing is deleted.
            StorageError: the files cannot be written. The store is unchanged then.
        """
        from puma_hub.bank.keyed_writer import delete_users

        delete_users(self._folder, user_ids)

    # Open and closed

    def close(self) -> None:
        """Let go of the files. Look-ups of other threads that have begun still end well."""
        self._files = None

    def __enter__(self) -> KeyedStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __reduce__(self) -> tuple[type[KeyedStore], tuple[str]]:
        return KeyedStore, (str(self._folder),)

    def __repr__(self) -> str:
        files = self._files
        if files is None:
            return "KeyedStore(closed)"
        (length, size), facts = files.packing.shape, files.provenance
        return (
            f"KeyedStore({files.users} {facts.owners}, prompts {length} x {size} as {files.packing.dtype}, "
            f"model {facts.model.model_id!r})"
        )

    def _newest(self) -> StoreFiles:
        """The files that are in the folder now."""
        files = self._files
        if files is None:
            raise StorageError(f"the keyed store {self._folder} is closed; open it again")
        identity = identity_of(self._data)
        return files if identity in (None, files.identity) else self._replacement(files)

    def _replacement(self, old: StoreFiles) -> StoreFiles:
        try:
            new = open_files(self._folder)
        except StorageError:
            if identity_of(self._data) is None:  # gone while it was being opened
                return old
            raise
        differs = [name for name in ("template", "task", "owners") if _fact(new, name) != _fact(old, name)]
        if not old.provenance.model.is_same(new.provenance.model) or new.packing.shape != old.packing.shape:
            differs.insert(0, "LLM or prompt length")
        if not same_head(old.head, new.head):
            differs.append("rating head")
        if differs:
            raise MismatchError(
                f"the keyed store {self._folder} was replaced by one with another {', '.join(differs)}; what was read "
                "of the old one does not fit it: open it again"
            )
        if self._files is old:
            self._files = new
        return new


def _fact(files: StoreFiles, name: str) -> Any:
    return getattr(files.provenance, name)
