"""Migration: an adapter, or a chain of them, applied to banks."""

from puma_hub.migration.chain import chain, chain_to
from puma_hub.migration.migrate import migrate, migrate_changes, migrate_share, migrate_to
from puma_hub.migration.remote import migrate_between
from puma_hub.migration.share import Share
from puma_hub.migration.table import TableMigration

__all__ = [
    "Share",
    "TableMigration",
    "chain",
    "chain_to",
    "migrate",
    "migrate_between",
    "migrate_changes",
    "migrate_share",
    "migrate_to",
]
