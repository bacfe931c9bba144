"""Filling the templates of cards."""

from __future__ import annotations

from importlib.resources import as_file, files
from typing import Any, TypeVar

from huggingface_hub import CardData, RepoCard

from puma_hub._version import __version__

_FOLDER = "puma_hub.hub_templates"
_Card = TypeVar("_Card", bound=RepoCard)


def filled(kind: type[_Card], template: str, data: CardData, /, **values: Any) -> _Card:
    """The card of this kind; every template also knows ``version`` and ``citation``."""
    citation = files(_FOLDER).joinpath("citation.md").read_text(encoding="utf-8").rstrip("\n")
    with as_file(files(_FOLDER).joinpath(template)) as path:
        card: _Card = kind.from_template(
            data, template_path=str(path), version=__version__, citation=citation, **values
        )
    return card
