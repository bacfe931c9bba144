"""Whether a migration is good: figures with intervals, as JSON and as one page."""
