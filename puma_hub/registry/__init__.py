"""Published adapters: finding them, choosing one for a pair, and routes through several."""
