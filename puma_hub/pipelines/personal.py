"""The base class of pipelines with an LLM: it holds the LLM, its tokenizer and the users' prompts."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from transformers import PreTrainedModel

from puma_hub.adapter import PumaAdapter
from puma_hub.errors import ConfigurationError
from puma_hub.identity import ModelSpec
from puma_hub.pipelines.batch_pipeline import BatchPipeline, Deferred, place_of, require_dtype
from puma_hub.pipelines.prompt_sources import UNKNOWN_USERS, UserPrompts, bank_for, load_adapter, load_banks
from puma_hub.scorer import PersonalizedLM
from puma_hub.scorer.inputs import ModelInputs
from puma_hub.scorer.loading import load_causal_lm, load_tokenizer
from puma_hub.scorer.models import has_hooks, plain_model, text_model
from puma_hub.scorer.shared import sharing_weights


class PersonalizedPipeline(BatchPipeline):
    """An LLM with the prompts of its users.

    Args:
        model: id or folder of a causal LM, a model with ``tokenizer=``, or a :class:`~puma_hub.PersonalizedLM`.
        bank: the users' prompts, as a :class:`~puma_hub.PromptBank`, its folder or its repository. For an adapter with
            several sources, a list of these. Without a bank, every input needs its own prompt.
        adapter: an adapter for a bank of another LLM, as a :class:`~puma_hub.PumaAdapter`, its folder or its
            repository. A bank of this LLM, by fingerprint or else by name, is not migrated.

    Raises:
        MismatchError: bank, adapter and LLM do not belong together.
        ConfigurationError: an argument cannot be used.
        StorageError, CheckpointError, HubError: something cannot be loaded.
    """

    def __init__(
        self,
        model: Deferred | PreTrainedModel | PersonalizedLM,
        tokenizer: Any = None,
        *,
        bank: Any = None,
        adapter: Any = None,
        device: Any = None,
        **kwargs: Any,
    ) -> None:
        options = model.options() if isinstance(model, Deferred) else {}
        token = options.get("token")
        self.source_banks = load_banks(bank, token) if bank is not None else []
        self.adapter: PumaAdapter | None = load_adapter(adapter, token) if adapter is not None else None
        self.lm: PersonalizedLM | None = None
        self._names: dict[str, Any] = {}
        if isinstance(model, Deferred):
            self._names = {"model_id": model.name, "revision": options.get("revision")}
            llm, own = load_causal_lm(model.name, **options)
            tokenizer, device = tokenizer or own, place_of(llm, device, options)
        elif isinstance(model, PersonalizedLM):
            _require_place(model, device)
            self.lm, llm, tokenizer, device = model, model.model, model.tokenizer, model.device
        else:
            llm = model
        if isinstance(llm, torch.nn.Module):
            llm = plain_model(llm)
        if not isinstance(llm, PreTrainedModel) or tokenizer is None:
            raise ConfigurationError(
                "this pipeline needs model=, the id or folder of a causal LM, a loaded one with tokenizer=, or a "
                f"PersonalizedLM; got {type(llm).__name__} {'without' if tokenizer is None else 'with'} a tokenizer"
            )
        if not isinstance(model, Deferred):
            require_dtype(llm, kwargs.get("dtype"))
        if isinstance(tokenizer, str):
            tokenizer = load_tokenizer(tokenizer, token=token)
        if self.lm is None:  # the mode and the device of the caller's model are not changed
            llm = text_model(sharing_weights(llm))
        kept = has_hooks(llm)  # accelerate has placed it
        super().__init__(model=llm, tokenizer=tokenizer, device=_given_place(llm) if kept else device, **kwargs)
        if kept:
            self.device = ModelInputs(llm).device
        self.bank = bank_for(self.spec, self.source_banks, self.adapter) if self.source_banks else None
        if self.adapter is not None:
            self.spec.require_same(self.adapter.config.require_pair(), "the adapter's target")
        embeddings: Any = llm.get_input_embeddings()
        self.prompts = UserPrompts(int(embeddings.weight.shape[1]), self.bank)

    @cached_property
    def spec(self) -> ModelSpec:
        return self.lm.spec if self.lm is not None else ModelSpec.from_model(self.model, **self._names)


def checked_unknown_users(unknown_users: str) -> str:
    """Check the argument ``unknown_users`` of a pipeline, and return it.

    Raises:
        ConfigurationError: it is not one of the choices.
    """
    if unknown_users not in UNKNOWN_USERS:
        raise ConfigurationError(f"unknown_users must be one of {', '.join(UNKNOWN_USERS)}, got {unknown_users!r}")
    return unknown_users


def _given_place(llm: PreTrainedModel) -> Any:
    """The device argument with which transformers does not move a model."""
    return None if getattr(llm, "hf_device_map", None) is not None else llm.device


def _require_place(lm: PersonalizedLM, device: Any) -> None:
    """Check that a scorer is on ``device``. It is not moved, since others may be using it."""
    if device is None or device == -1:
        return
    if isinstance(device, int):
        accelerator = torch.accelerator.current_accelerator()
        wanted = torch.device(accelerator.type, device) if accelerator is not None else torch.device("cpu")
    else:
        wanted = torch.device(device)
    if wanted.type != lm.device.type or (wanted.index is not None and wanted.index != lm.device.index):
        raise ConfigurationError(
            f"this PersonalizedLM is on {lm.device}, not on {wanted} as device={device} says; move it first with "
            f".to({str(wanted)!r})"
        )
