"""Find adapters on the Hub by the tags and metadata of their cards."""

from __future__ import annotations

import logging

from puma_hub.hub.failures import hub_errors
from puma_hub.hub.naming import (
    LIBRARY,
    Model,
    Models,
    model_id,
    model_list,
    pair_tag,
    public_id,
    source_tag,
    target_tag,
)
from puma_hub.registry.listing import listed
from puma_hub.registry.published import PublishedAdapter, read_listing

logger = logging.getLogger(__name__)


def find_adapters(
    source: Models | None = None,
    target: Model | None = None,
    *,
    namespace: str | None = None,
    token: str | bool | None = None,
) -> list[PublishedAdapter]:
    """The adapters on the Hub that this token may see, the best evaluated first, superseded ones last.

    Args:
        source: a source LLM of the adapter, which may have others; a list for exactly these, in order.
        target: its target LLM.
        namespace: only of this user or organisation.

    Raises:
        HubError: the Hub cannot be reached, or refuses.
    """
    tags = [LIBRARY]
    if target is not None:
        tags.append(target_tag(target))
    exactly = isinstance(source, (list, tuple))
    if source is not None and target is not None and exactly:
        tags.append(pair_tag(source, target))
    elif source is not None:
        tags += [source_tag(model) for model in model_list(source)]
    with hub_errors("search the Hub for adapters"):
        entries = listed(tags, namespace, token)
    read = [read_listing(entry) for entry in entries]
    found = [adapter for adapter in read if adapter is not None]
    if len(found) < len(read):
        logger.warning(
            "%d of %d entries on the Hub are left out: their cards are not as puma-hub push writes them (log level "
            "DEBUG gives the reasons)",
            len(read) - len(found),
            len(read),
        )
    # Anyone can write a tag, so the models must also be those of the card's own block.
    wanted = [public_id(model_id(model)) for model in model_list(source)] if source is not None else []
    goal = public_id(model_id(target)) if target is not None else None
    fitting = [
        adapter
        for adapter in found
        if (adapter.source_ids == wanted if exactly else set(wanted) <= set(adapter.source_ids))
        and goal in (None, adapter.target.model_id)
    ]
    return sorted(fitting, key=quality)


def quality(adapter: PublishedAdapter) -> tuple[bool, float, int, str]:
    """The sort key of adapters: superseded last, then reported loss (without a report last), downloads and name."""
    loss = float("inf") if adapter.loss is None else adapter.loss
    return adapter.new_version is not None, loss, -adapter.downloads, adapter.repo_id
