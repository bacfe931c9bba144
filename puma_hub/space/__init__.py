"""An app for the browser that shows a migration: that of the demo, or, as a Space, one from the Hub."""

from puma_hub.space.app import build_app
from puma_hub.space.launch import launch
from puma_hub.space.variables import content_from_variables

__all__ = ["build_app", "content_from_variables", "launch"]
