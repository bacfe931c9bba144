"""Names and tags of a pair: the repository an adapter is published in, and the tags it is found by."""

from __future__ import annotations

import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from puma_hub.errors import ConfigurationError
from puma_hub.identity import ModelSpec

Model: TypeAlias = "str | os.PathLike[str] | ModelSpec | Mapping[str, Any]"
Models: TypeAlias = "Model | Sequence[Model]"

LIBRARY = "puma-hub"
"""The library's name on the Hub, and the first tag of every card."""
BLOCK = "puma_hub"
"""The key of our own block in a card's metadata."""
_COMMON_TAGS = (LIBRARY, "soft-prompt", "prompt-migration")
_BANK_TAGS = (LIBRARY, "soft-prompt", "prompt-bank")
_LONGEST = 96
_DIGITS = 12
_FOLDER = re.compile(r"^([/~.\\]|[A-Za-z]:[/\\])|\\|/.*/")


def model_id(model: Model) -> str:
    """The id of a model given as id, folder, spec or dict.

    Raises:
        ConfigurationError: it is something else, or empty.
    """
    if isinstance(model, (ModelSpec, Mapping)):
        return ModelSpec.of(model).model_id
    if not isinstance(model, (str, os.PathLike)) or not os.fspath(model).strip():
        raise ConfigurationError(f"a model is named by its id, folder or ModelSpec, got {model!r}")
    return os.fspath(model)


def model_list(models: Models) -> list[Model]:
    """One model or several, as a list.

    Raises:
        ConfigurationError: there is none.
    """
    found: list[Model] = [*models] if isinstance(models, (list, tuple)) else [models]  # type: ignore[list-item]
    if not found:
        raise ConfigurationError("a pair needs at least one source; none was given")
    return found


def is_folder(name: str) -> bool:
    """Whether an id can only be a folder's path. The disk is not read, so names do not depend on it."""
    return bool(_FOLDER.search(name))


def is_hub_id(name: str) -> bool:
    """Whether an id can be a repository's name on the Hub."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return not is_folder(name)


def public_id(name: str) -> str:
    """The id as cards show it: a Hub id as it is; for anything else, such as a folder, a name without the path."""
    return name if is_hub_id(name) else f"{slug(name)}@{_digest(name)}"


def slug(name: str) -> str:
    """The last part of an id, in the characters that repository names may have."""
    last = re.split(r"[/\\]", name.rstrip("/\\"))[-1]
    ascii_only = unicodedata.normalize("NFKD", last).encode("ascii", "ignore").decode()
    text = re.sub(r"[^A-Za-z0-9._-]+", "-", ascii_only)
    return re.sub(r"([._-])[._-]+", r"\1", text).strip("._-") or "model"


def pair_repo_id(source: Models, target: Model, namespace: str | None = None) -> str:
    """The repository name of a pair: ``puma-<source>-to-<target>-<hash>``, at most 96 characters.

    The hash covers the exact ids, in order, so two pairs never share a name. Revisions and fingerprints are not part of
    it: adapters of one pair for other weights are revisions of one repository.

    Args:
        source: id, folder or spec of the source LLM; a list of them for aggregation.
        namespace: user or organisation to put before the name.

    Raises:
        ConfigurationError: an id is empty, or the namespace is not one.
    """
    sources, goal = [model_id(model) for model in model_list(source)], model_id(target)
    end = f"-{_digest([sources, goal])}"
    room = _LONGEST - len("puma--to-") - len(end)
    ours, theirs = "-and-".join(slug(name) for name in sources), slug(goal)
    # The shorter one keeps its whole name.
    for_ours = max(room // 2, room - len(theirs))
    ours = ours[:for_ours].strip("._-")
    theirs = theirs[: room - len(ours)].strip("._-")
    name = f"puma-{ours}-to-{theirs}{end}"
    if namespace is None:
        return name
    if "/" in namespace or not is_hub_id(f"{namespace}/{name}"):
        raise ConfigurationError(f"namespace must be the name of a user or organisation, got {namespace!r}")
    return f"{namespace}/{name}"


def source_tag(source: Model) -> str:
    """The tag of every adapter with ``source`` among its sources."""
    return f"puma-source-{_digest(model_id(source))}"


def target_tag(target: Model) -> str:
    """The tag of every adapter to ``target``."""
    return f"puma-target-{_digest(model_id(target))}"


def pair_tag(source: Models, target: Model) -> str:
    """The tag of every adapter of exactly this pair, with these sources in this order."""
    return f"puma-pair-{_digest([[model_id(model) for model in model_list(source)], model_id(target)])}"


def pair_tags(source: Models, target: Model) -> list[str]:
    """All tags of an adapter's card: the library's, readable ones, and the exact ones above."""
    sources = model_list(source)
    readable = [f"from-{slug(model_id(model)).lower()}" for model in sources] + [f"to-{slug(model_id(target)).lower()}"]
    exact = [*(source_tag(model) for model in sources), target_tag(target), pair_tag(sources, target)]
    return list(dict.fromkeys([*_COMMON_TAGS, *readable, *exact]))


def bank_tags(model: Model) -> list[str]:
    """All tags of a bank's card; the last one marks banks of exactly this LLM's id."""
    name = model_id(model)
    return [*_BANK_TAGS, f"of-{slug(name).lower()}", f"puma-model-{_digest(name)}"]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:_DIGITS]
