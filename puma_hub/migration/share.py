"""Which files of a bank one of several processes migrates."""

from __future__ import annotations

import re
from dataclasses import dataclass

from puma_hub.errors import ConfigurationError, shown


@dataclass(frozen=True)
class Share:
    """Process ``number``, from 1, of ``of`` processes: every ``of``-th file.

    Raises:
        ConfigurationError: ``number`` is not one of 1 to ``of``.
    """

    number: int
    of: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise ConfigurationError(f"share {self.number}/{self.of} must be one of 1/{self.of} to {self.of}/{self.of}")

    @classmethod
    def parse(cls, text: str) -> Share:
        """Read ``"2/8"``.

        Raises:
            ConfigurationError: it is no such text.
        """
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
        if found is None:
            raise ConfigurationError(f"a share is a number out of so many, such as 2/8, got {shown(text)}")
        return cls(int(found[1]), int(found[2]))

    def has(self, file: int) -> bool:
        """Whether the file of that number, from 0, is among these."""
        return file % self.of == self.number - 1


ALL = Share(1, 1)
