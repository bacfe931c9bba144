"""Migration: an adapter applied to banks."""

from puma_hub.migration.migrate import migrate

__all__ = ["migrate"]
