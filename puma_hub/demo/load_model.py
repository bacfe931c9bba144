"""Fetched models as scorers, by their short names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from puma_hub.demo.fetch import fetch
from puma_hub.demo.settings import DemoSettings, compute_dtype
from puma_hub.demo.sources import SOURCES
from puma_hub.scorer import PersonalizedLM


def load_model(
    name: str, settings: DemoSettings, say: Callable[[str], None], device: str | None = None
) -> PersonalizedLM:
    """Load a model of the demo by its name in ``SOURCES``, fetching it first where it is not in the cache."""
    source, dtype = SOURCES[name], compute_dtype(settings.dtype)
    assert source.hub_id is not None
    if settings.models == "hub":
        say(f"loading {source.hub_id}")
        return PersonalizedLM.from_pretrained(source.hub_id, dtype=dtype, device=device)
    folder, identity = fetched_model(name, say)
    say(f"loading {name}")
    return PersonalizedLM.from_pretrained(folder, dtype=dtype, device=device, **identity)


def fetched_model(name: str, say: Callable[[str], None]) -> tuple[str, dict[str, Any]]:
    """The folder of a model in ``SOURCES``, fetched where it is not in the cache, and what its scorer goes by.

    The rounded weights have a revision of their own; the name is the Hub id of the model they were made from.
    """
    source = SOURCES[name]
    return str(fetch(name, say)), {"model_id": source.hub_id, "revision": source.revision}
