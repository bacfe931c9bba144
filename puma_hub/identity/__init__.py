"""Which language model a prompt belongs to."""

from puma_hub.identity.spec import ModelSpec, fingerprint

__all__ = ["ModelSpec", "fingerprint"]
