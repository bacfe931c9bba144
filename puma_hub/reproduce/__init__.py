"""The paper's tables and figures, and ours, on any models and interactions: ``puma-hub reproduce``."""
