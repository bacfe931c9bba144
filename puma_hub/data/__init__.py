"""Interactions: who rated or clicked what, and when."""

from puma_hub.data.biases import with_biases
from puma_hub.data.catalogue import catalogue_of, load_catalogue
from puma_hub.data.clicks import with_negatives
from puma_hub.data.likes import with_likes
from puma_hub.data.load import load_interactions
from puma_hub.data.schema import check_interactions, of_users, rows_by_user
from puma_hub.data.split import chronological_split, most_recent, sample_users

__all__ = [
    "catalogue_of",
    "check_interactions",
    "chronological_split",
    "load_catalogue",
    "load_interactions",
    "most_recent",
    "of_users",
    "rows_by_user",
    "sample_users",
    "with_biases",
    "with_likes",
    "with_negatives",
]
