"""A bank's ways to PEFT and back, as methods of :class:`puma_hub.PromptBank`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from puma_hub.bank.bank import PromptBank
    from puma_hub.bank.peft_files import PeftExport
    from puma_hub.identity import ModelSpec
    from puma_hub.scorer import PersonalizedLM
    from puma_hub.tasks import PromptTemplate, Task


class PeftExchange:
    """Part of :class:`puma_hub.PromptBank`."""

    def to_peft(
        self,
        user_id: str,
        save_directory: str | os.PathLike[str],
        *,
        model: PersonalizedLM | PreTrainedModel | str | os.PathLike[str] | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        template: PromptTemplate | str | None = None,
    ) -> PeftExport:
        """Write one user's prompt as an adapter that plain ``PeftModel.from_pretrained(model, folder)`` loads.

        If nothing stands before the template's ``<user>``, not even a ``<bos>`` of the tokenizer, the adapter is
        ``PROMPT_TUNING``. Else, or if PEFT cannot put a prompt in front of this model, it is ``TRAINABLE_TOKENS``: as
        many spare tokens as the prompt has vectors stand at its place in the text. The answers' logits are those of
        :class:`~puma_hub.PersonalizedLM`. The folder also holds ``puma_hub.json`` and a README with the token ids and
        the text around them; it does not name the user. An earlier export in it is replaced in one step.

        Args:
            model: the bank's LLM: its folder or Hub id, of which the input embeddings are read; a scorer; or a loaded
                model with its ``tokenizer``. By default the LLM is loaded by the bank's own name for it.
            template: for a bank that records none; by default that of the bank's task.

        Returns:
            The kind of adapter, the token ids in place of the prompt, and how the text is written.

        Raises:
            UnknownUserError: the bank has no such user.
            MismatchError: the model, template or task is not the bank's, or these are prompts of items.
            ConfigurationError: the template has two soft slots, or arguments do not go together.
            UnsupportedModelError: the LLM has too few spare tokens, or PEFT cannot compute the same. The message has
                the remedy.
            StorageError: the folder holds something else, or cannot be written; or the LLM cannot be read.
        """
        from puma_hub.bank.peft_export import export_prompt

        bank: Any = self
        return export_prompt(bank, user_id, save_directory, model, tokenizer, template)

    @classmethod
    def from_peft(
        cls,
        adapters: Iterable[str | os.PathLike[str]] | str | os.PathLike[str],
        model: ModelSpec | Mapping[str, Any] | PersonalizedLM | PreTrainedModel | str | os.PathLike[str],
        *,
        user_ids: Iterable[str] | None = None,
        template: PromptTemplate | str | None = None,
        task: Task | None = None,
        token: str | bool | None = None,
    ) -> PromptBank:
        """A bank of prompts that were trained with PEFT: one adapter, a folder or Hub repository, for each user.

        Types ``PROMPT_TUNING`` and ``P_TUNING`` are read, and ``TRAINABLE_TOKENS`` of :meth:`to_peft`. Only their
        config, their safetensors and ``puma_hub.json`` are read.

        PEFT puts its prompts before the whole text, and before the tokenizer's ``<bos>``. A scorer puts ``<bos>``
        first. So a bank of PEFT's prompts gives PEFT's own logits only with a tokenizer that puts nothing before a
        text; with others, prompts stand one place later than in their training.

        Args:
            model: the LLM of the prompts, whose fingerprint the bank records: its folder or Hub id, a scorer, a loaded
                model, or its :class:`~puma_hub.ModelSpec`.
            user_ids: one for each adapter; by default the last parts of their names.
            template: begins with ``<user>``; by default ``<user><item>``, where the item's text is all that PEFT got.
                Adapters of :meth:`to_peft` have their own.
            task: of the prompts, if it is known.

        Raises:
            BankError: user ids are repeated, or not as many as adapters; or values are not finite.
            UnsupportedModelError: an adapter is of another type. The message says why and what to do.
            MismatchError: an adapter is another LLM's by its size, fingerprint or name, or adapters differ in shape.
            CheckpointError: a file is damaged, or files do not belong together.
            ConfigurationError: the template does not begin with the prompt, or no adapter is given.
            StorageError, HubError: a folder or repository cannot be read, or has pickled weights only.
        """
        from puma_hub.bank.peft_import import import_prompts

        return import_prompts(adapters, model, user_ids, template, task, token)
