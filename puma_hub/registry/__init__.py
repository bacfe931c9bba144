"""Published adapters: find them, choose one for a pair, find a route through several."""
