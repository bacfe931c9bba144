"""Migration: an adapter, or a chain of them, applied to banks."""

from puma_hub.migration.chain import chain, chain_to
from puma_hub.migration.migrate import migrate, migrate_to

__all__ = ["chain", "chain_to", "migrate", "migrate_to"]
