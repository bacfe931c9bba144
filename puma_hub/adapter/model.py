"""The adapter: a small trained map from the prompts of one LLM, or several, to those of another."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from puma_hub.adapter import checkpoint
from puma_hub.adapter.config import PumaConfig
from puma_hub.adapter.networks import build_network
from puma_hub.errors import MismatchError
from puma_hub.scorer import RatingHead
from puma_hub.storage import replace_files

if TYPE_CHECKING:
    from puma_hub.bank import PromptBank


@dataclass
class PumaAdapterOutput(ModelOutput):
    """``target_prompts``: float tensor ``(B, l, d_target)``."""

    target_prompts: torch.Tensor | None = None


class PumaAdapter(PreTrainedModel):
    """Maps soft prompts ``(B, l, sum of source sizes)`` to ``(B, l, d_target)``.

    ``target = output_scale * (base + network((source - input_mean) / input_scale))``: the network sees
    standardised offsets from the source bank's mean, and what all users share lies in ``base``. Mean and scales
    are fixed before training; untouched, they are 0 and 1 and the map is the plain network plus ``base``.
    """

    config_class = PumaConfig
    base_model_prefix = "puma"
    main_input_name = "source_prompts"
    input_mean: torch.Tensor
    input_scale: torch.Tensor
    output_scale: torch.Tensor

    def __init__(self, config: PumaConfig) -> None:
        target = config.require_pair()
        super().__init__(config)
        size_in, size_out = config.source_size, target.hidden_size
        assert config.hidden_size is not None  # set with the target
        self.network = build_network(config.architecture, size_in, size_out, config.hidden_size, config.dropout)
        self.base = nn.Parameter(torch.zeros(config.prompt_length, size_out))
        self.register_buffer("input_mean", torch.zeros(config.prompt_length, size_in))
        self.register_buffer("input_scale", torch.ones(size_in))
        self.register_buffer("output_scale", torch.ones(()))
        self.head = RatingHead(len(config.scored_task.answers)) if config.rating_head else None
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        # Only ever called for parts that were not loaded; the strict loader refuses those.
        if isinstance(module, nn.Linear):
            module.reset_parameters()

    def forward(
        self, source_prompts: torch.Tensor, return_dict: bool = True
    ) -> PumaAdapterOutput | tuple[torch.Tensor]:
        """Map prompts.

        Args:
            source_prompts: ``(B, l, sum of source sizes)``; for several sources concatenated in their order.

        Raises:
            MismatchError: the prompts have another length or size.
        """
        prompts = self.output_scale * (self.base + self.offsets(source_prompts))
        return PumaAdapterOutput(target_prompts=prompts) if return_dict else (prompts,)

    def offsets(self, source_prompts: torch.Tensor) -> torch.Tensor:
        """What is the user's own in the target prompts, ``(B, l, d_target)`` in units of ``output_scale``.

        Raises:
            MismatchError: the prompts have another length or size.
        """
        expected = (self.config.prompt_length, self.config.source_size)
        if source_prompts.ndim != 3 or tuple(source_prompts.shape[1:]) != expected:
            raise MismatchError(
                f"this adapter takes prompts (users, {expected[0]}, {expected[1]}), got {tuple(source_prompts.shape)}"
            )
        standardised = (source_prompts.to(self.base.dtype) - self.input_mean) / self.input_scale
        return self.network(standardised)

    @torch.no_grad()
    def standardize(self, source_prompts: torch.Tensor, output_scale: float) -> None:
        """Fix the input mean and scale from prompts ``(N, l, sum of sizes)`` and the scale of the output.

        Each source is divided by one number, the RMS of its offsets, so that directions in which users differ
        little stay small. ``output_scale`` is the target's RMS of input embeddings. The linear residual, where
        there is one, is rescaled so that the map stays what it was, up to the base.
        """
        prompts = source_prompts.to(self.input_mean.device, torch.float32)
        offsets = prompts - prompts.mean(0)
        rms = [
            part.square().mean().sqrt().clamp(min=1e-8).expand(part.shape[-1])
            for part in offsets.split([spec.hidden_size for spec in self.config.sources], dim=-1)
        ]
        scale = torch.cat(rms)
        residual: Any = getattr(self.network, "residual", None)
        if residual is not None:
            residual.weight.mul_((scale / self.input_scale)[None] * (self.output_scale / output_scale))
        self.base.mul_(self.output_scale / output_scale)
        self.input_mean.copy_(prompts.mean(0))
        self.input_scale.copy_(scale)
        self.output_scale.fill_(output_scale)

    def migrate(self, bank: PromptBank | Sequence[PromptBank], **options: Any) -> PromptBank:
        """Migrate a bank, or one bank for each source; see :func:`puma_hub.migrate`."""
        from puma_hub.migration import migrate

        return migrate(self, bank, **options)

    def save_pretrained(  # type: ignore[override]
        self, save_directory: str | os.PathLike[str], **kwargs: Any
    ) -> None:
        """As in transformers, safetensors only; files are written aside and renamed into place."""
        push = {key: kwargs.pop(key) for key in list(kwargs) if key in ("push_to_hub", "repo_id")}
        with replace_files(save_directory) as staged:
            super().save_pretrained(staged, **kwargs)
        if push.get("push_to_hub"):
            push_to_hub: Any = self.push_to_hub
            push_to_hub(push.get("repo_id") or Path(save_directory).name, token=kwargs.get("token"))

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | os.PathLike[str], *args: Any, **kwargs: Any
    ) -> Any:
        """Load an adapter; anything but a complete, matching, finite checkpoint is an error.

        Raises:
            CheckpointError: files are missing, cut short, of other shapes, of another kind or not finite.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        kwargs["use_safetensors"] = True
        with checkpoint.clear_errors(pretrained_model_name_or_path):
            loaded: Any = super().from_pretrained(
                pretrained_model_name_or_path,
                *args,
                output_loading_info=True,
                **kwargs,
            )
        adapter, info = loaded
        checkpoint.require_complete(adapter, info, pretrained_model_name_or_path)
        return (adapter, info) if wants_info else adapter
