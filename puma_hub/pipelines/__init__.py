"""Pipelines for ``transformers.pipeline``: migrated prompts, personalised scores and personalised text."""

from typing import Any

from transformers.pipelines import PIPELINE_REGISTRY

from puma_hub.pipelines.batch_pipeline import Deferred
from puma_hub.pipelines.generation import PersonalizedTextGenerationPipeline
from puma_hub.pipelines.migration import PromptMigrationPipeline
from puma_hub.pipelines.scoring import PersonalizedScoringPipeline

TASKS: dict[str, Any] = {
    "prompt-migration": PromptMigrationPipeline,
    "personalized-scoring": PersonalizedScoringPipeline,
    "personalized-text-generation": PersonalizedTextGenerationPipeline,
}

# This package is imported at the end of transformers.pipelines' own import: of other packages it imports, at first,
# only modules that do not need the pipelines.
for _name, _kind in TASKS.items():
    PIPELINE_REGISTRY.register_pipeline(_name, _kind, pt_model=Deferred)

__all__ = [
    "TASKS",
    "PersonalizedScoringPipeline",
    "PersonalizedTextGenerationPipeline",
    "PromptMigrationPipeline",
]
