"""Migration: an adapter, or a chain of them, applied to banks."""

from puma_hub.migration.chain import chain
from puma_hub.migration.migrate import migrate, migrate_to

__all__ = ["chain", "migrate", "migrate_to"]
