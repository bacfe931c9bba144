"""The demo's two LLMs as scorers."""

from __future__ import annotations

from collections.abc import Callable

from puma_hub.demo.fetch import fetch
from puma_hub.demo.settings import DemoSettings, compute_dtype
from puma_hub.demo.sources import SOURCES
from puma_hub.scorer import PersonalizedLM


def load_model(name: str, settings: DemoSettings, say: Callable[[str], None]) -> PersonalizedLM:
    """Load a model of the demo by its name in ``SOURCES``, fetching it first where it is not in the cache."""
    source, dtype = SOURCES[name], compute_dtype(settings.dtype)
    assert source.hub_id is not None
    if settings.models == "hub":
        say(f"loading {source.hub_id}")
        return PersonalizedLM.from_pretrained(source.hub_id, dtype=dtype)
    folder = str(fetch(name, say))
    say(f"loading {name}")
    return PersonalizedLM.from_pretrained(folder, dtype=dtype, model_id=source.hub_id, revision=source.revision)
