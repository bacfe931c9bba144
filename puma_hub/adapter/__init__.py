"""The trained map between the prompt spaces of two language models."""

from transformers import AutoConfig, AutoModel

from puma_hub.adapter.config import ARCHITECTURES, PumaConfig
from puma_hub.adapter.model import PumaAdapter, PumaAdapterOutput
from puma_hub.adapter.warm_start import warm_start

# This package is imported in the midst of transformers' own import, maybe puma_hub.scorer's too: of other packages it
# imports only modules that need neither.
AutoConfig.register(PumaConfig.model_type, PumaConfig, exist_ok=True)
AutoModel.register(PumaConfig, PumaAdapter, exist_ok=True)

__all__ = ["ARCHITECTURES", "PumaAdapter", "PumaAdapterOutput", "PumaConfig", "warm_start"]
