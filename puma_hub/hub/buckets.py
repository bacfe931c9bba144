"""Folders of the Hub's Storage Buckets: files without history, each written or deleted for itself."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from puma_hub.errors import (
    ConfigurationError,
    HubAccessError,
    HubUnavailableError,
    MissingDependencyError,
    without_secrets,
)
from puma_hub.hub.failures import hub_errors
from puma_hub.hub.markup import visible
from puma_hub.hub.naming import is_hub_id

if TYPE_CHECKING:
    from huggingface_hub import BucketFile, BucketUrl, HfApi

SCHEME = "hf://buckets/"
_REFUSED = re.compile(r"HTTP status client error \(40[13]")


def is_bucket(name: str) -> bool:
    """Whether a name is the address of a bucket, or of a folder in one."""
    return name.startswith(SCHEME)


def require_no_revision(revision: str | None, address: str) -> None:
    """Refuse a revision of a bucket.

    Raises:
        ConfigurationError: one is given.
    """
    if revision is not None:
        raise ConfigurationError(
            f"{address} is in a bucket, which keeps no revisions, so {revision!r} cannot be one; leave the revision "
            "out, or publish in a repository"
        )


@dataclass(frozen=True)
class BucketFolder:
    """A folder of a bucket, or all of the bucket where ``path`` is empty. Its text is its address."""

    bucket: str
    path: str
    token: str | bool | None = None

    @classmethod
    def of(cls, address: str, token: str | bool | None = None) -> BucketFolder:
        """The folder at ``hf://buckets/namespace/name/folder``.

        Raises:
            ConfigurationError: this is no such address.
        """
        parts = address.removeprefix(SCHEME).rstrip("/").split("/")
        bucket, path = "/".join(parts[:2]), parts[2:]
        if not is_bucket(address) or len(parts) < 2 or not is_hub_id(bucket) or {"", ".", ".."} & {*path}:
            raise ConfigurationError(
                f"{without_secrets(visible(address))} is not the address of a bucket or of a folder in one; give "
                f"{SCHEME}namespace/name or {SCHEME}namespace/name/folder"
            )
        return cls(bucket, "/".join(path), token)

    def __str__(self) -> str:
        return f"{SCHEME}{self._full('').rstrip('/')}"

    @property
    def api(self) -> HfApi:
        from huggingface_hub import HfApi

        return HfApi(token=self.token)

    @property
    def url(self) -> BucketUrl:
        from huggingface_hub import BucketUrl

        endpoint = self.api.endpoint
        return BucketUrl(f"{endpoint}/buckets/{self.bucket}", endpoint=endpoint)

    def info(self, names: Iterable[str]) -> dict[str, BucketFile]:
        """What the bucket knows of these files of the folder, without those that are not there.

        Raises:
            HubError: the bucket cannot be read.
        """
        wanted = {self._inside(name): name for name in names}
        with hub_errors(f"read {self}"):
            return {wanted[file.path]: file for file in self.api.get_bucket_paths_info(self.bucket, list(wanted))}

    def names(self) -> list[str]:
        """The names of all files in the folder and below it.

        Raises:
            HubError: the bucket cannot be read.
        """
        start = self._inside("")
        with hub_errors(f"read {self}"):
            # The prefix is text: for "bank", there are also files of "bank-2".
            found = self.api.list_bucket_tree(self.bucket, prefix=self.path or None, recursive=True)
            return [
                entry.path[len(start) :] for entry in found if entry.type == "file" and entry.path.startswith(start)
            ]

    def fetch(self, files: Mapping[str, BucketFile], folder: Path) -> None:
        """Copy files of :meth:`info` into a folder of this machine.

        Raises:
            HubError: the bucket cannot be read.
        """
        wanted: list[tuple[str | BucketFile, str | Path]] = [(file, folder / name) for name, file in files.items()]
        for _, path in wanted:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        with hub_errors(f"read {self}"), _storage_errors(f"read {self}"):
            self.api.download_bucket_files(self.bucket, wanted)

    def put(self, folder: Path, names: Iterable[str]) -> None:
        """Copy files of a folder of this machine into this one.

        Raises:
            HubError: the bucket cannot be written.
        """
        added: list[tuple[str | Path | bytes, str]] = [(folder / name, self._inside(name)) for name in names]
        with hub_errors(f"write {self}"), _storage_errors(f"write {self}"):
            self.api.batch_bucket_files(self.bucket, add=added)

    def delete(self, names: Iterable[str]) -> None:
        """Delete files, for good.

        Raises:
            HubError: the bucket cannot be written.
        """
        with hub_errors(f"write {self}"):
            self.api.batch_bucket_files(self.bucket, delete=[self._inside(name) for name in names])

    def _inside(self, name: str) -> str:
        return f"{self.path}/{name}" if self.path else name

    def _full(self, name: str) -> str:
        return f"{self.bucket}/{self._inside(name)}"


@contextmanager
def _storage_errors(doing: str) -> Iterator[None]:
    """Say what the storage behind buckets did not do; its client has errors of Python's own kinds."""
    try:
        yield
    except ImportError as error:
        raise MissingDependencyError("files in buckets need the package hf-xet: pip install hf-xet") from error
    except Exception as error:
        if type(error) not in (RuntimeError, ConnectionError) and type(error).__module__ != "hf_xet":
            raise
        reason = without_secrets(visible(str(error)))[:300]
        if _REFUSED.search(reason):
            raise HubAccessError(
                f"cannot {doing}: this token lacks the right ({reason}); use one with that right or another namespace"
            ) from error
        raise HubUnavailableError(f"cannot {doing}: the bucket's storage failed ({reason}); try again later") from error
