"""One version of what is served: an LLM, its users' prompts, and the adapter that made them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from puma_hub.errors import ConfigurationError, shown
from puma_hub.limits import require_text

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MOST_OPTIONS = 100


@dataclass(frozen=True)
class Version:
    """What ``puma-hub serve`` loads for one version.

    Folders begin with ``.`` or ``/``; the former are relative to the deployment file. Everything else is a Hub id, or
    the name of a fetched model. The LLM needs no revision: prompts know its weights, and others are refused.

    Args:
        name: what answers call the version: up to 64 letters, digits, dots, dashes and underscores.
        model: the LLM.
        bank: the prompts: a bank, or the folder of a keyed store.
        bank_revision: the commit of a bank on the Hub.
        adapter: the adapter that migrated the bank, if it is known.
        adapter_revision: its commit on the Hub.
        backend: a name in :data:`puma_hub.extensions.SERVING_BACKENDS`.
        options: of the back end.

    Raises:
        ConfigurationError: a field is not what it must be.
    """

    name: str
    model: str
    bank: str
    bank_revision: str | None = None
    adapter: str | None = None
    adapter_revision: str | None = None
    backend: str = "local"
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise ConfigurationError(
                "a version's name must be up to 64 letters, digits, dots, dashes and underscores, and begin with a "
                f"letter or digit, got {shown(self.name)}"
            )
        for name in ("model", "bank", "backend"):
            require_text(getattr(self, name), f"{name} of version {self.name}")
        for name in ("bank_revision", "adapter", "adapter_revision"):
            value = getattr(self, name)
            if value is not None:
                require_text(value, f"{name} of version {self.name}")
        options = self.options
        plain = isinstance(options, Mapping) and len(options) <= _MOST_OPTIONS
        if not plain or not all(isinstance(key, str) and key.isidentifier() for key in options):
            raise ConfigurationError(
                f"options of version {self.name} must be values by the names of options, got {shown(options)}"
            )

    @classmethod
    def from_dict(cls, data: object) -> Version:
        """Read what :meth:`to_dict` made.

        Raises:
            ConfigurationError: it is something else.
        """
        known = {one.name for one in fields(cls)}
        if not isinstance(data, Mapping) or not {"name", "model", "bank"} <= set(data) <= known:
            raise ConfigurationError(
                f"a version is a mapping with name, model and bank, and may have {', '.join(sorted(known))}; got "
                f"{shown(data)}"
            )
        return cls(**data)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, without the fields that have their usual values."""
        plain = Version(self.name, self.model, self.bank)
        needed = ("name", "model", "bank")
        found = {one.name: getattr(self, one.name) for one in fields(self)}
        return {
            key: dict(value) if key == "options" else value
            for key, value in found.items()
            if key in needed or value != getattr(plain, key)
        }
