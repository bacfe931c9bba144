"""Text templates of the cards that go with adapters and banks."""
