"""One user's prompt as a PEFT adapter that plain ``PeftModel.from_pretrained`` loads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from puma_hub.bank.bank import PromptBank
from puma_hub.bank.fit import require_owners, require_scorer
from puma_hub.bank.peft_adapter import can_stand_in_front, prompt_at_tokens, prompt_in_front
from puma_hub.bank.peft_card import export_card
from puma_hub.bank.peft_files import CONFIG_FILE, FACTS_FILE, LAYOUT, README_FILE, WEIGHTS_FILE, PeftExport
from puma_hub.errors import ConfigurationError
from puma_hub.hub.naming import is_hub_id, public_id
from puma_hub.identity import ModelSpec
from puma_hub.scorer import PersonalizedLM
from puma_hub.scorer.answer_tokens import Answers
from puma_hub.scorer.embeddings_only import load_embeddings_only
from puma_hub.scorer.encoding import with_tokens
from puma_hub.scorer.models import plain_model
from puma_hub.scorer.reader import RowReader
from puma_hub.scorer.spare_tokens import spare_tokens
from puma_hub.storage import new_folder, write_json
from puma_hub.storage.layout import require_replaceable
from puma_hub.tasks import PromptTemplate, default_task
from puma_hub.tasks.owners import USERS
from puma_hub.tasks.template import USER

_ROW = {"item_text": "A title", "history": ["A title"]}


def export_prompt(
    bank: PromptBank,
    user_id: str,
    save_directory: str | os.PathLike[str],
    model: PersonalizedLM | PreTrainedModel | str | os.PathLike[str] | None,
    tokenizer: PreTrainedTokenizerBase | None,
    template: PromptTemplate | str | None,
) -> PeftExport:
    """Implements :meth:`puma_hub.PromptBank.to_peft`."""
    require_replaceable(save_directory, LAYOUT)
    require_owners(bank, USERS, "to_peft")
    prompt = torch.from_numpy(bank[user_id].copy())
    reader = _reader(bank, model, tokenizer, template)
    require_scorer(bank, reader, "to_peft")
    task = reader.task if isinstance(model, PersonalizedLM) else bank.provenance.task
    answers = Answers([], ()) if task is None else reader.answers
    encoded = reader.encode([_ROW], len(prompt))
    (segments,), (before, after) = encoded.segments, encoded.texts()
    if before or not can_stand_in_front(reader.model):
        slot_ids = spare_tokens(reader.model, reader.tokenizer, len(prompt))
        adapter = prompt_at_tokens(reader.model, prompt, slot_ids)
    else:
        slot_ids, adapter = [], prompt_in_front(reader.model, prompt)
    texts = reader.template.render(_ROW)
    export = PeftExport(
        path=Path(save_directory),
        peft_type=adapter.peft_type,
        slot_ids=tuple(slot_ids),
        slot_tokens=_names(reader.tokenizer, slot_ids),
        leading_ids=reader.encoder.text.leading,
        model=replace(reader.spec, model_id=public_id(bank.model.model_id), revision=bank.model.revision),
        prompt_length=len(prompt),
        template=reader.template.text,
        task=task,
        answer_ids=tuple(answers.ids),
        answer_texts=answers.texts,
        embedding_scale=adapter.embedding_scale,
        example_text=f"<{USER}>".join(texts),
        example_ids=tuple(with_tokens(segments, {USER: slot_ids})),
    )
    base = {
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        "base_model_name_or_path": bank.model.model_id if is_hub_id(bank.model.model_id) else None,
        "revision": bank.model.revision,
    }
    with new_folder(save_directory, LAYOUT) as staged:
        save_file(adapter.tensors, staged / WEIGHTS_FILE, metadata={"format": "pt"})
        write_json(staged / CONFIG_FILE, {**adapter.config, **base})
        write_json(staged / FACTS_FILE, export.to_dict())
        export_card(export, texts, (before, after), reader.tokenizer).save(staged / README_FILE)
    return export


def _reader(
    bank: PromptBank,
    model: PersonalizedLM | PreTrainedModel | str | os.PathLike[str] | None,
    tokenizer: PreTrainedTokenizerBase | None,
    template: PromptTemplate | str | None,
) -> RowReader:
    """The LLM of the bank, of which little more than the input embeddings is loaded.

    Raises:
        ConfigurationError: something is given twice, or missing.
    """
    if isinstance(model, PersonalizedLM):
        if tokenizer is not None or (template is not None and PromptTemplate.of(template) != model.template):
            raise ConfigurationError("a PersonalizedLM has its own tokenizer and template; give them to it")
        return RowReader.of_scorer(model)
    known = bank.provenance
    if model is None or isinstance(model, (str, os.PathLike)):
        if tokenizer is not None:
            raise ConfigurationError("a tokenizer is given with a loaded model; a folder or repository has its own")
        name = known.model.model_id if model is None else os.fspath(model)
        loaded, tokenizer = load_embeddings_only(
            name, dtype="float32", revision=known.model.revision if name == known.model.model_id else None
        )
    else:
        loaded, name = plain_model(model), known.model.model_id
        if tokenizer is None:
            raise ConfigurationError("a loaded model needs its tokenizer; give tokenizer=, or the model's folder or id")
    task = known.task or default_task()
    chosen = PromptTemplate.of(template or known.template or task.template)
    return RowReader(loaded, tokenizer, ModelSpec.from_model(loaded, name), chosen, task)


def _names(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> tuple[str, ...]:
    """The tokens' names; none if the tokenizer lacks one."""
    of_id = {number: name for name, number in tokenizer.get_vocab().items()}
    return tuple(of_id[token] for token in token_ids) if all(token in of_id for token in token_ids) else ()
