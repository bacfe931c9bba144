"""Prompts for the engines that models run in."""

from puma_hub.serving.requests import PromptRequests

__all__ = ["PromptRequests"]
