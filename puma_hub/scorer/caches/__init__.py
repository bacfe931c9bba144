"""What is kept of the text before the first soft slot: the kinds of states, and which prefixes are held."""

# A model is tried with the kinds in this order.
from puma_hub.scorer.caches.kinds import CacheKind, States, cache_kinds, register_cache_kind  # isort: skip
from puma_hub.scorer.caches.key_values import KeyValues  # isort: skip
from puma_hub.scorer.caches.hybrid import HybridStates  # isort: skip
from puma_hub.scorer.caches.packing import CACHE_DTYPES, Packing
from puma_hub.scorer.caches.policy import PrefixCache, PrefixCacheReport, require_options

__all__ = [
    "CACHE_DTYPES",
    "CacheKind",
    "HybridStates",
    "KeyValues",
    "Packing",
    "PrefixCache",
    "PrefixCacheReport",
    "States",
    "cache_kinds",
    "register_cache_kind",
    "require_options",
]
