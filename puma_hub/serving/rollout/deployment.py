"""What is served: one version, or two between which users are split. A way back stays until a version is retired."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from puma_hub._version import __version__, too_new
from puma_hub.errors import ConfigurationError, shown
from puma_hub.limits import MAX_FORMAT, require_text, require_whole
from puma_hub.serving.rollout.split import Split
from puma_hub.serving.rollout.version import Version

_FORMAT = 1
_LONGEST_NAME = 200
_FIELDS = {"deployment_format", "puma_hub_version", "name", "stable", "candidate", "split", "shadow"}


@dataclass(frozen=True)
class Deployment:
    """The versions that are served, and who gets which. Changes give a new one.

    Args:
        name: the LLM's name in requests, which stays while versions change.
        stable: the version of all users whom the candidate does not answer.
        candidate: the version that may follow it.
        split: which users the candidate answers.
        shadow: score rows with both versions, and compare.

    Raises:
        ConfigurationError: both versions have one name, or a field is not what it must be.
    """

    name: str
    stable: Version
    candidate: Version | None = None
    split: Split = field(default_factory=Split)
    shadow: bool = False

    def __post_init__(self) -> None:
        require_text(self.name, "the name of a deployment", _LONGEST_NAME)
        if not isinstance(self.shadow, bool):
            raise ConfigurationError(f"shadow must be true or false, got {shown(self.shadow)}")
        if self.candidate is None:
            if not self.split.nobody or self.shadow:
                raise ConfigurationError(
                    "a share, a list and shadow are about a candidate, and there is none; add one with puma-hub "
                    "rollout --add"
                )
        elif self.candidate.name == self.stable.name:
            raise ConfigurationError(f"two versions are called {self.stable.name!r}; choose another name")

    @property
    def versions(self) -> tuple[Version, ...]:
        return (self.stable,) if self.candidate is None else (self.stable, self.candidate)

    def version_of(self, user_id: str) -> Version:
        """The version that answers this user."""
        candidate = self.candidate
        return candidate if candidate is not None and self.split.takes(user_id) else self.stable

    # Changes

    def add(self, version: Version) -> Deployment:
        """Add a candidate, which answers nobody yet. Another candidate draws other users at the same share.

        Raises:
            ConfigurationError: there is a candidate.
        """
        if self.candidate is not None:
            raise ConfigurationError(
                f"there are two versions already, {self.stable.name} and {self.candidate.name}; retire one before you "
                "add another"
            )
        return replace(self, candidate=version, split=Split())

    def with_share(self, share: float) -> Deployment:
        """Give the candidate this share of all users, in per cent. Raises ConfigurationError: there is none."""
        self._require_candidate()
        return replace(self, split=replace(self.split, share=share))

    def with_users(self, user_ids: Iterable[str]) -> Deployment:
        """Let the candidate answer these users, in place of those listed before, whatever its share is.

        Raises:
            ConfigurationError: there is no candidate, or there are too many users.
        """
        self._require_candidate()
        return replace(self, split=replace(self.split, listed=self.split.marks(user_ids)))

    def with_shadow(self, shadow: bool) -> Deployment:
        """Score rows with both versions, or stop it. Raises ConfigurationError: there is no candidate."""
        self._require_candidate()
        return replace(self, shadow=shadow)

    def promote(self) -> Deployment:
        """Let the candidate answer everyone. The stable version stays, as a way back."""
        return self.with_share(100.0)

    def roll_back(self) -> Deployment:
        """Let the stable version answer everyone. The candidate stays; a share gives it the same users again."""
        return self.with_share(0.0).with_users(())

    def retire(self) -> tuple[Deployment, Version]:
        """Leave out the version that answers nobody, and give it.

        Raises:
            ConfigurationError: both answer users, or there is one version alone.
        """
        candidate = self._require_candidate()
        if self.split.everyone:
            return Deployment(self.name, candidate), self.stable
        if self.split.nobody:
            return Deployment(self.name, self.stable), candidate
        raise ConfigurationError(
            f"both {self.stable.name} and {candidate.name} answer users; promote the candidate or roll it back first"
        )

    def _require_candidate(self) -> Version:
        if self.candidate is None:
            raise ConfigurationError(
                f"{self.stable.name} is the only version; add another with puma-hub rollout --add NAME"
            )
        return self.candidate

    # As data

    @classmethod
    def from_dict(cls, data: object) -> Deployment:
        """Read what :meth:`to_dict` made.

        Raises:
            ConfigurationError: it is something else, or of a newer format.
        """
        if not isinstance(data, Mapping):
            raise ConfigurationError(f"a deployment is a mapping, got {shown(data)}")
        found = require_whole(data.get("deployment_format"), "deployment_format", MAX_FORMAT)
        if found > _FORMAT:
            raise ConfigurationError(too_new("this deployment", found, _FORMAT, data.get("puma_hub_version")))
        unknown = [shown(key) for key in data if key not in _FIELDS]
        if unknown:
            raise ConfigurationError(f"a deployment has no field {', '.join(unknown[:3])}")
        candidate = data.get("candidate")
        return cls(
            require_text(data.get("name"), "the name of a deployment", _LONGEST_NAME),
            Version.from_dict(data.get("stable")),
            None if candidate is None else Version.from_dict(candidate),
            Split.from_dict(data.get("split")),
            data.get("shadow", False),
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "deployment_format": _FORMAT,
            "puma_hub_version": __version__,
            "name": self.name,
            "stable": self.stable.to_dict(),
            "candidate": None if self.candidate is None else self.candidate.to_dict(),
            "split": self.split.to_dict(),
            "shadow": self.shadow,
        }
