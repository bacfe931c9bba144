"""Adapters and banks on the Hub: names, cards, publishing, finding. Heavy imports stay inside its modules."""
