"""The deployment file: read whole, changed in one step, and noticed when it is changed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from puma_hub.errors import ConfigurationError, StorageError, first_line, shown
from puma_hub.serving.rollout.deployment import Deployment
from puma_hub.serving.rollout.version import Version
from puma_hub.storage import write_json
from puma_hub.storage.layout import resolved
from puma_hub.storage.locking import alone

Stamp: TypeAlias = tuple[int, int, int, int]
"""What tells one state of the file from the next: device, inode, size and time of its last change."""

_MOST_BYTES = 64 * 2**20
_FOLDERS = (".", "/")  # what names of folders begin with


class DeploymentFile:
    """A deployment in a JSON file.

    Args:
        path: of the file, or of a symbolic link to it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(os.path.abspath(path))
        self._shown = os.fspath(path)

    @property
    def exists(self) -> bool:
        return os.path.isfile(self.path)

    def stamp(self) -> Stamp | None:
        """The file's present state; None if there is none."""
        try:
            found = os.stat(self.path)
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns

    def read(self) -> Deployment:
        """The deployment.

        Raises:
            StorageError: there is no such file, or it cannot be read.
            ConfigurationError: it holds something else.
        """
        text = self._text()
        try:
            return Deployment.from_dict(_parsed(text))
        except ConfigurationError as error:
            raise ConfigurationError(f"{self._shown}: {error}; correct the file or make it again") from error

    def _text(self) -> bytes:
        try:
            with open(self.path, "rb") as file:
                text = file.read(_MOST_BYTES + 1)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise StorageError(
                f"there is no deployment file {self._shown}; make one with puma-hub rollout --add NAME"
            ) from error
        except OSError as error:
            raise StorageError(f"cannot read {self._shown}: {error.strerror or error}") from error
        if len(text) > _MOST_BYTES:
            raise StorageError(f"{self._shown} is larger than {_MOST_BYTES} bytes, which no deployment file is")
        return text

    def write(self, deployment: Deployment) -> None:
        """Replace the file in one step. Raises StorageError: it cannot be written."""
        write_json(self.path, deployment.to_dict())

    def change(self, how: Callable[[Deployment], Deployment]) -> Deployment:
        """Read the deployment, change it and write it, while other processes that change it wait.

        The file is not written if nothing changes.

        Raises:
            StorageError, ConfigurationError: as :meth:`read`, or it cannot be changed so. The file is as before.
        """
        with alone(resolved(self.path)):
            before = self.read()
            after = how(before)
            if after != before:
                self.write(after)
        return after

    def named(self, place: str) -> str:
        """A folder, given from the current one, as the file has it; anything else as it is."""
        if not os.path.isdir(place):
            return place
        if os.path.isabs(place):
            return os.path.abspath(place)
        relative = os.path.relpath(place, self.path.parent)
        return relative if relative.startswith("..") else os.path.join(".", relative)

    def found(self, version: Version) -> Version:
        """The version with its folders as they are found from the current one.

        Raises:
            StorageError: the LLM's folder or the bank's is not there. (Nothing is loaded from the adapter's.)
        """
        adapter = None if version.adapter is None else self._place(version.adapter)
        return replace(version, model=self._folder(version.model), bank=self._folder(version.bank), adapter=adapter)

    def _folder(self, name: str) -> str:
        place = self._place(name)
        if name.startswith(_FOLDERS) and not os.path.isdir(place):
            raise StorageError(f"{self._shown} names {shown(name)}, and there is no such folder")
        return place

    def _place(self, name: str) -> str:
        return os.path.normpath(self.path.parent / name) if name.startswith(_FOLDERS) else name


def _parsed(text: bytes) -> Any:
    """The JSON in a file that may have been edited by hand: with a byte order mark, or with a field twice.

    Raises:
        ConfigurationError: it is no JSON, or has a field twice, of which one would be left without effect.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise ConfigurationError(f"the field {shown(twice)} is there twice")
        return found

    try:
        return json.loads(text.decode("utf-8-sig"), object_pairs_hook=once)
    except ConfigurationError:
        raise
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"this is no UTF-8 text ({error.reason} at byte {error.start})") from error
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"this is not valid JSON ({first_line(error)})") from error
