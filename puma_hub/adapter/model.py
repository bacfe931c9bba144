"""The adapter: a small trained map from the prompts of one LLM, or several, to those of another."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.utils import ModelOutput

from puma_hub.adapter import checkpoint
from puma_hub.adapter.config import PumaConfig
from puma_hub.adapter.networks import build_network
from puma_hub.errors import MismatchError, StorageError
from puma_hub.storage import replace_files
from puma_hub.tasks.head import RatingHead

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, ModelCard

    from puma_hub.bank import PromptBank
    from puma_hub.hub.naming import Model, Models

# Arguments of from_pretrained that choose what is downloaded, and of save_pretrained that are push_to_hub's.
_DOWNLOAD = ("revision", "subfolder", "token", "cache_dir", "force_download", "local_files_only")
_PUSH = ("repo_id", "private", "revision", "commit_message", "create_pr")


@dataclass
class PumaAdapterOutput(ModelOutput):
    """``target_prompts``: float tensor ``(B, l, d_target)``."""

    target_prompts: torch.Tensor | None = None


class PumaAdapter(PreTrainedModel):
    """Maps soft prompts ``(B, l, sum of source sizes)`` to ``(B, l, d_target)``.

    ``target = output_scale * (base + network((source - mean) / input_scale))``

    The network sees standardised offsets from the mean of the bank that the prompts belong to. ``base`` is what all
    users share. For the bank the adapter was trained on, the mean is ``input_mean``. A bank of another training has its
    own, see :func:`puma_hub.migrate`. Mean and scales are fixed before training. Until then they are 0 and 1.

    ``output_mean`` is the mean of the target bank. ``input_sensitivity`` and ``output_sensitivity`` are the gradients
    of the mean prediction with respect to the prompt at these means, 0 where they are not known.
    """

    config_class = PumaConfig
    base_model_prefix = "puma"
    main_input_name = "source_prompts"
    # The PublishedAdapter that from_pair took; transformers evaluates annotations, and it must not be imported here.
    published: Any = None
    input_mean: torch.Tensor
    input_scale: torch.Tensor
    input_sensitivity: torch.Tensor
    output_scale: torch.Tensor
    output_mean: torch.Tensor
    output_sensitivity: torch.Tensor

    def __init__(self, config: PumaConfig) -> None:
        target = config.require_pair()
        super().__init__(config)
        size_in, size_out = config.source_size, target.hidden_size
        assert config.hidden_size is not None  # set with the target
        self.network = build_network(config.architecture, size_in, size_out, config.hidden_size, config.dropout)
        self.base = nn.Parameter(torch.zeros(config.prompt_length, size_out))
        self.register_buffer("input_mean", torch.zeros(config.prompt_length, size_in))
        self.register_buffer("input_scale", torch.ones(size_in))
        self.register_buffer("input_sensitivity", torch.zeros(config.prompt_length, size_in))
        self.register_buffer("output_scale", torch.ones(()))
        self.register_buffer("output_mean", torch.zeros(config.prompt_length, size_out))
        self.register_buffer("output_sensitivity", torch.zeros(config.prompt_length, size_out))
        self.head = RatingHead(len(config.scored_task.answers)) if config.rating_head else None
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        # Only ever called for parts that were not loaded; the strict loader refuses those.
        if isinstance(module, nn.Linear):
            module.reset_parameters()

    def forward(
        self, source_prompts: torch.Tensor, source_mean: torch.Tensor | None = None, return_dict: bool = True
    ) -> PumaAdapterOutput | tuple[torch.Tensor]:
        """Map prompts.

        Args:
            source_prompts: ``(B, l, sum of source sizes)``; for several sources concatenated in their order.
            source_mean: ``(l, sum of source sizes)``, the mean prompt of their bank; by default that of the bank the
                adapter was trained on.

        Raises:
            MismatchError: the prompts or the mean have another length or size.
        """
        prompts = self.of_offsets(self.standardized(source_prompts, source_mean))
        return PumaAdapterOutput(target_prompts=prompts) if return_dict else (prompts,)

    def offsets(self, source_prompts: torch.Tensor, source_mean: torch.Tensor | None = None) -> torch.Tensor:
        """The users' offsets in the target prompts, ``(B, l, d_target)`` in units of ``output_scale``.

        Raises:
            MismatchError: the prompts or the mean have another length or size.
        """
        return self.network(self.standardized(source_prompts, source_mean))

    def of_offsets(self, offsets: torch.Tensor) -> torch.Tensor:
        """Target prompts ``(B, l, d_target)`` of standardised offsets ``(B, l, sum of source sizes)``."""
        return self.output_scale * (self.base + self.network(offsets))

    def standardized(self, source_prompts: torch.Tensor, source_mean: torch.Tensor | None = None) -> torch.Tensor:
        """The network's input: standardised offsets of source prompts, ``(B, l, sum of source sizes)``.

        Raises:
            MismatchError: the prompts or the mean have another length or size.
        """
        expected = (self.config.prompt_length, self.config.source_size)
        if source_prompts.ndim != 3 or tuple(source_prompts.shape[1:]) != expected:
            raise MismatchError(
                f"this adapter takes prompts (users, {expected[0]}, {expected[1]}), got {tuple(source_prompts.shape)}"
            )
        mean = self.input_mean if source_mean is None else source_mean.to(self.input_mean)
        if tuple(mean.shape) != expected:
            raise MismatchError(f"the mean prompt must be {expected} for this adapter, got {tuple(mean.shape)}")
        return (source_prompts.to(self.base.dtype) - mean) / self.input_scale

    @torch.no_grad()
    def standardize(self, source_mean: torch.Tensor, spreads: Sequence[float], output_scale: float) -> None:
        """Fix input mean, input scale and output scale of an adapter that is not trained yet.

        Each source is divided by one number, its spread, so directions in which users differ little stay small. The
        linear residual, where there is one, is rescaled so that the map of offsets stays the same. That holds only
        while the network is linear, so the adapter must not be trained yet.

        Args:
            source_mean: ``(l, sum of source sizes)``, the mean prompt of the source bank.
            spreads: for each source, the root mean square of one coordinate of a prompt minus the mean.
            output_scale: the target's root mean square of input embeddings.
        """
        sizes = [spec.hidden_size for spec in self.config.sources]
        parts = [torch.full((size,), max(float(spread), 1e-8)) for size, spread in zip(sizes, spreads)]
        scale = torch.cat(parts).to(self.input_scale)
        residual: Any = getattr(self.network, "residual", None)
        if residual is not None:
            residual.weight.mul_((scale / self.input_scale)[None] * (self.output_scale / output_scale))
        self.base.mul_(self.output_scale / output_scale)
        self.input_scale.copy_(scale)
        self.output_scale.fill_(output_scale)
        self.recenter(source_mean)

    @torch.no_grad()
    def recenter(self, source_mean: torch.Tensor) -> None:
        """Take prompts of a bank with another mean ``(l, sum of source sizes)``; the map of offsets stays the same."""
        self.input_mean.copy_(source_mean)

    def migrate(self, bank: PromptBank | Sequence[PromptBank], **options: Any) -> PromptBank:
        """Migrate a bank, or one bank for each source; see :func:`puma_hub.migrate`."""
        from puma_hub.migration import migrate

        return migrate(self, bank, **options)

    def save_pretrained(  # type: ignore[override]
        self, save_directory: str | os.PathLike[str], **kwargs: Any
    ) -> None:
        """As in transformers, safetensors only; files are written aside and renamed into place.

        Raises:
            StorageError: the folder holds another model, or cannot be written.
        """
        checkpoint.require_place(save_directory)
        push = kwargs.pop("push_to_hub", False)
        arguments = {key: kwargs.pop(key) for key in _PUSH if key in kwargs}
        with replace_files(save_directory) as staged:
            super().save_pretrained(staged, **kwargs)
        if push:
            self.push_to_hub(**{"repo_id": Path(save_directory).name, "token": kwargs.get("token"), **arguments})

    def push_to_hub(  # type: ignore[override]
        self,
        repo_id: str | None = None,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        commit_message: str | None = None,
        create_pr: bool = False,
        card: ModelCard | str | None = None,
        supersedes: str | None = None,
    ) -> CommitInfo:
        """Publish weights, config and card in one commit.

        Args:
            repo_id: the repository; by default :func:`puma_hub.pair_repo_id` of the pair, in the token's own namespace.
            private: whether a new repository is private; the namespace's default otherwise.
            token: by default the one huggingface_hub is logged in with.
            revision: a branch; it is made if it does not exist.
            card: the card; by default the edited README.md of the folder the adapter was loaded from, or else one
                made from the facts kept there (see docs/publish.md). Tags and metadata of the pair are added, and a
                ``new_version`` that the repository's present card names is kept.
            supersedes: the repository of an older adapter of this pair, whose card then names this one as its
                ``new_version``, in a commit of its own. Whether that can be done is checked before anything is
                uploaded.

        Returns:
            The commit, with ``repo_url``, ``commit_url`` and ``oid``.

        Raises:
            ConfigurationError: an argument or the card cannot be used, or the repository cannot supersede that one.
            MismatchError: ``supersedes`` holds no adapter of this pair.
            HubError: the Hub refused, or cannot be reached; its newest revision is complete in any case.
        """
        from puma_hub.adapter.publish import publish_adapter

        return publish_adapter(
            self,
            repo_id,
            private=private,
            token=token,
            revision=revision,
            commit_message=commit_message,
            create_pr=create_pr,
            card=card,
            supersedes=supersedes,
        )

    @classmethod
    def from_pair(
        cls,
        source: Models,
        target: Model,
        *,
        namespace: str | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
    ) -> PumaAdapter:
        """Find and load the published adapter of a pair; ``published`` and the log say which one it is.

        An adapter for exactly the given fingerprints or revisions is preferred. Of several, the one with the smallest
        reported loss of quality is loaded. One that its publisher calls superseded is loaded only if no other fits.

        Args:
            source: id or :class:`ModelSpec` of the source LLM; a list of them for aggregation.
            namespace: only adapters of this user or organisation.
            revision: of the adapter's repository; the newest by default.

        Raises:
            HubNotFoundError: there is no adapter for the pair, or none that this token may see.
            MismatchError: there are adapters, but for other weights.
            ConfigurationError: several fit and none reports an evaluation to choose by.
            HubError: the Hub cannot be asked.
        """
        from puma_hub.registry.pair import load_pair

        return load_pair(source, target, namespace=namespace, revision=revision, token=token)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | os.PathLike[str], *args: Any, **kwargs: Any
    ) -> Any:
        """Load an adapter; anything but a complete, matching, finite checkpoint is an error.

        Raises:
            CheckpointError: files are missing, cut short, of other shapes, of another kind or not finite.
            HubError: the repository or revision cannot be read.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        kwargs["use_safetensors"] = True
        from puma_hub.adapter.download import download_adapter, require_adapter

        name = pretrained_model_name_or_path
        config = Path(name, kwargs.get("subfolder") or "", "config.json")
        if config.is_file():
            with suppress(StorageError):  # what is wrong with it is told when it is read
                require_adapter(config, os.fspath(name))
        if not os.path.isdir(name):
            options = {key: kwargs.pop(key) for key in _DOWNLOAD if kwargs.get(key) is not None}
            name = download_adapter(os.fspath(name), **options)
        weights = Path(name, kwargs.get("subfolder") or "", "model.safetensors")
        with checkpoint.clear_errors(pretrained_model_name_or_path):
            if weights.is_file():
                given = kwargs.get("config")
                known = given if isinstance(given, PumaConfig) else PumaConfig.from_pretrained(weights.parent)
                with torch.device("meta"):
                    made = cls(known)
                checkpoint.require_fitting(made, weights, pretrained_model_name_or_path)
            loaded: Any = super().from_pretrained(name, *args, output_loading_info=True, **kwargs)
        adapter, info = loaded
        checkpoint.require_complete(adapter, info, pretrained_model_name_or_path)
        checkpoint.align(adapter)
        adapter.name_or_path = adapter.config.name_or_path = str(pretrained_model_name_or_path)
        return (adapter, info) if wants_info else adapter


# This module is imported in the midst of transformers' own import, maybe puma_hub.scorer's too: of other packages it
# imports only modules that need neither.
AutoConfig.register(PumaConfig.model_type, PumaConfig, exist_ok=True)
AutoModel.register(PumaConfig, PumaAdapter, exist_ok=True)
