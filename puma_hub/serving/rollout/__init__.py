"""Two versions of an LLM with its prompts: which users each answers, and the file that says so."""

from puma_hub.serving.rollout.deployment import Deployment
from puma_hub.serving.rollout.file import DeploymentFile
from puma_hub.serving.rollout.split import Split
from puma_hub.serving.rollout.version import Version

__all__ = ["Deployment", "DeploymentFile", "Split", "Version"]
