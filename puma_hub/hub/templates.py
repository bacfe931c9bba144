"""Filling the templates of cards."""

from __future__ import annotations

from importlib.abc import Traversable
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import CardData, RepoCard

from puma_hub._version import __version__

_FOLDER = "hub_templates"
_Card = TypeVar("_Card", bound=RepoCard)


def templates() -> Traversable:
    """The folder of the templates: within the package where that is installed, beside it in a checkout."""
    installed = files("puma_hub").joinpath(_FOLDER)
    return installed if installed.is_dir() else Path(__file__).parents[2] / _FOLDER


def filled(kind: type[_Card], template: str, data: CardData, /, **values: Any) -> _Card:
    """The card of this kind; every template also knows ``version`` and ``citation``."""
    folder = templates()
    citation = folder.joinpath("citation.md").read_text(encoding="utf-8").rstrip("\n")
    with as_file(folder.joinpath(template)) as path:
        card: _Card = kind.from_template(
            data, template_path=str(path), version=__version__, citation=citation, **values
        )
    return card
