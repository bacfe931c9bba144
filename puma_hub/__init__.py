"""Migrate personalised soft prompts from one language model to another."""

from puma_hub.adapter import PumaAdapter, PumaAdapterOutput, PumaConfig, warm_start
from puma_hub.bank import PromptBank
from puma_hub.errors import PumaHubError
from puma_hub.evaluation import compare_banks, evaluate_bank
from puma_hub.identity import ModelSpec
from puma_hub.migration import migrate
from puma_hub.scorer import ClickTask, PersonalizedLM, PromptTemplate, RatingTask
from puma_hub.selection import select_users
from puma_hub.training import AdapterTrainer, PromptTrainer, PumaTrainingArguments
