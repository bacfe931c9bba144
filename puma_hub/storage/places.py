"""Folders anywhere: on a disk, or what fsspec knows by an address, such as a bucket."""

from __future__ import annotations

import posixpath
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec

from puma_hub.errors import MissingDependencyError, PumaHubError, StorageError, without_secrets

_WRITING = ".writing"


def is_address(name: str) -> bool:
    """Whether a name is an address, such as ``s3://bucket/bank``, and no path."""
    return "://" in name


@dataclass(frozen=True)
class Place:
    """A folder of a file system. Its text is the path without the address's user and password.

    Names in it are relative, with ``/`` between parts.
    """

    files: Any
    path: str

    @classmethod
    def of(cls, address: str) -> Place:
        """The folder at a path or an address.

        Raises:
            MissingDependencyError: fsspec needs a package for such addresses.
            StorageError: there is no such kind of address.
        """
        try:
            files, path = fsspec.core.url_to_fs(address)
        except ImportError as error:
            raise MissingDependencyError(without_secrets(f"{error}")) from error
        except ValueError as error:
            raise StorageError(without_secrets(f"{error}; give a folder or an address that fsspec knows")) from error
        return cls(files, path.rstrip("/"))

    def __str__(self) -> str:
        return without_secrets(self.path)

    def names(self) -> list[str]:
        """The names of all files in the folder and below; none if it does not exist."""
        with self._errors("read"):
            self.files.invalidate_cache(self.path)
            return [posixpath.relpath(name, self.path) for name in self.files.find(self.path)]

    def has(self, name: str) -> bool:
        with self._errors("read"):
            self.files.invalidate_cache(posixpath.dirname(self._full(name)))
            return bool(self.files.isfile(self._full(name)))

    def stamp(self, name: str) -> str:
        """Text that changes when the file does, as far as the file system tells."""
        with self._errors("read"):
            return str(self.files.ukey(self._full(name)))

    def read(self, name: str) -> bytes:
        with self._errors("read"):
            return bytes(self.files.cat_file(self._full(name)))

    def write(self, name: str, content: bytes) -> None:
        with self._errors("write"):
            self.files.makedirs(posixpath.dirname(self._full(name)), exist_ok=True)
            self.files.pipe_file(self._full(name), content)

    def get(self, name: str, file: Path) -> None:
        """Copy a file of the folder to this machine."""
        with self._errors("read"):
            self.files.get_file(self._full(name), str(file))

    def put(self, file: Path, name: str) -> None:
        """Copy a file of this machine into the folder. It gets its name when it is whole."""
        final = self._full(name)
        staged = f"{final}.{secrets.token_hex(4)}{_WRITING}"
        with self._errors("write"):
            self.files.makedirs(posixpath.dirname(final), exist_ok=True)
            try:
                self.files.put_file(str(file), staged)
                self.files.mv(staged, final)
            except BaseException:
                with suppress(Exception):  # what stopped the copy is what to tell
                    self.files.rm_file(staged)
                raise

    def remove_unfinished(self) -> None:
        """Remove what killed processes left of files that were not whole."""
        for name in self.names():
            if name.endswith(_WRITING):
                self.remove(name)

    def remove(self, name: str) -> None:
        with self._errors("write"):
            self.files.rm_file(self._full(name))

    def _full(self, name: str) -> str:
        return f"{self.path}/{name}"

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except PumaHubError:
            raise
        except Exception as error:  # each file system has errors of its own
            reason = without_secrets(f"{type(error).__name__}: {error}")[:300]
            raise StorageError(f"cannot {what} {self}: {reason}") from error
