"""The deployment file: read whole, changed in one step, and noticed when it is changed."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from puma_hub.errors import ConfigurationError, StorageError, shown
from puma_hub.serving.rollout.deployment import Deployment
from puma_hub.serving.rollout.version import Version
from puma_hub.storage import read_json, write_json
from puma_hub.storage.layout import resolved
from puma_hub.storage.locking import alone

Stamp: TypeAlias = tuple[int, int, int, int]
"""What tells one state of the file from the next: device, inode, size and time of its last change."""

_MOST_BYTES = 64 * 2**20


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
        return self.path.is_file()

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
            StorageError: there is no such file, or it is no JSON object.
            ConfigurationError: it holds something else.
        """
        if not self.exists:
            raise StorageError(f"there is no deployment file {self._shown}; make one with puma-hub rollout --add NAME")
        if self.path.stat().st_size > _MOST_BYTES:
            raise StorageError(f"{self._shown} is larger than {_MOST_BYTES} bytes, which no deployment file is")
        data = read_json(self.path)
        try:
            return Deployment.from_dict(data)
        except ConfigurationError as error:
            raise ConfigurationError(f"{self._shown}: {error}; correct the file or make it again") from error

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
        """The version with its folders as they are found from the current one."""
        adapter = None if version.adapter is None else self._place(version.adapter)
        return replace(version, model=self._place(version.model), bank=self._place(version.bank), adapter=adapter)

    def _place(self, name: str) -> str:
        if not name.startswith((".", "/")):
            return name
        place = os.path.normpath(self.path.parent / name)
        if not os.path.isdir(place):
            raise StorageError(f"{self._shown} names the folder {shown(name)}, which is not there")
        return place
