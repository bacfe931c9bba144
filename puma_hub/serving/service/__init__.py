"""The HTTP service: requests carry a user's id and an item or a chat, never a prompt."""
