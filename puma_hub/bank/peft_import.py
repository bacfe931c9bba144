"""Soft prompts that people have as PEFT adapters, one user each, as a bank."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from puma_hub.bank.bank import PromptBank
from puma_hub.bank.peft_files import PeftExport
from puma_hub.bank.peft_read import PeftPrompt, read_prompt
from puma_hub.bank.users import user_list
from puma_hub.errors import BankError, ConfigurationError, MismatchError, shown
from puma_hub.hub.naming import is_hub_id, public_id, slug
from puma_hub.identity import ModelSpec
from puma_hub.scorer import PersonalizedLM
from puma_hub.scorer.embeddings_only import load_embeddings_only
from puma_hub.scorer.models import plain_model
from puma_hub.scorer.tokens import leading_tokens
from puma_hub.tasks import PromptTemplate, Task
from puma_hub.tasks.template import USER

_log = logging.getLogger(__name__)
_SLOT = f"<{USER}>"
IN_FRONT = PromptTemplate(f"{_SLOT}<item>")
"""PEFT's own place of a prompt: before the whole text, which is the item's text."""


def import_prompts(
    adapters: Any,
    model: Any,
    user_ids: Iterable[str] | None,
    template: PromptTemplate | str | None,
    task: Task | None,
    token: str | bool | None,
) -> PromptBank:
    """Implements :meth:`puma_hub.PromptBank.from_peft`."""
    names = _names(adapters)
    users = _user_ids(names, user_ids)
    spec, tokenizer = _spec(model)
    found: list[PeftPrompt] = []
    for number, name in enumerate(names, 1):
        where = f"PEFT adapter {number} of {len(names)}"
        one = read_prompt(name, where, token)
        _require_model(one, spec, where)
        if found and not _alike(one, found[0]):
            raise MismatchError(
                f"{where} has another shape, place or task than the first ({_described(one)}; {_described(found[0])}); "
                "make a bank of each kind"
            )
        found.append(one)
    _warn_of_names(found, spec)
    facts = _facts(found[0], template, task, tokenizer)
    export = found[0].export
    made: dict[str, Any] = {"peft_type": sorted({one.peft_type for one in found}), "adapters": len(found)}
    details: dict[str, Any] = {"peft": {**made, **({} if export else {"place": "before all tokens, <bos> too"})}}
    if export is not None and export.answer_texts:
        details["answer_texts"] = list(export.answer_texts)
    prompts = np.stack([one.prompt for one in found])
    return PromptBank.from_arrays(users, prompts, spec, **facts, details=details)


def _names(adapters: Any) -> list[str]:
    """Folders and repositories as text.

    Raises:
        ConfigurationError: these are none, or something else.
    """
    given = [adapters] if isinstance(adapters, (str, os.PathLike)) else adapters
    if isinstance(given, (Mapping, bytes)) or not isinstance(given, Iterable):
        raise ConfigurationError(f"from_peft takes a list of folders or repositories, got {type(given).__name__}")
    names = [os.fspath(name) if isinstance(name, (str, os.PathLike)) else name for name in given]
    strange = sum(not isinstance(name, str) or not name for name in names)
    if strange:
        raise ConfigurationError(
            f"{strange} of {len(names)} adapters are no text or path; name folders or repositories"
        )
    if not names:
        raise ConfigurationError("from_peft was given no adapter; give at least one folder or repository")
    return names


def _user_ids(names: Sequence[str], user_ids: Iterable[str] | None) -> list[str]:
    """The ids given, or the last parts of the names.

    Raises:
        BankError: there are more or fewer than adapters, or some are the same.
    """
    users = [os.path.basename(os.path.abspath(name)) for name in names] if user_ids is None else user_list(user_ids)
    if len(users) != len(names):
        raise BankError(f"{len(users)} user ids for {len(names)} adapters; give one id for each")
    repeated = len(users) - len(set(users))
    if repeated:
        raise BankError(
            f"{repeated} of {len(users)} adapters have the user id of another one"
            + (", which is the last part of their names; give user_ids=" if user_ids is None else "; name each once")
        )
    return users


def _spec(model: Any) -> tuple[ModelSpec, PreTrainedTokenizerBase | None]:
    """The LLM, and its tokenizer where that is known.

    Raises:
        StorageError, HubError: the LLM cannot be read.
        UnsupportedModelError: it is no transformers model.
    """
    if isinstance(model, (ModelSpec, Mapping)):
        return ModelSpec.of(model), None
    if isinstance(model, PersonalizedLM):
        return model.spec, model.tokenizer
    if isinstance(model, (str, os.PathLike)):
        loaded, tokenizer = load_embeddings_only(os.fspath(model))
        return ModelSpec.from_model(loaded, os.fspath(model)), tokenizer
    return ModelSpec.from_model(plain_model(model)), None


def _require_model(one: PeftPrompt, spec: ModelSpec, where: str) -> None:
    """Refuse a prompt of another LLM, as far as the adapter names its own.

    Raises:
        MismatchError: it is another's by its size, its fingerprint or its name.
    """
    if one.export is not None:
        replace(spec, model_id=public_id(spec.model_id)).require_same(one.export.model, f"from_peft, {where}")
        return
    size = one.prompt.shape[1]
    if size != spec.hidden_size:
        raise MismatchError(
            f"{where} has prompts of size {size}, {spec.model_id} has the hidden size {spec.hidden_size}; give the LLM "
            "that the prompts were trained for"
        )
    if one.base is None or one.base == spec.model_id:
        revisions = {name for name in (one.revision, spec.revision) if name not in (None, "main")}
        if one.base is not None and len(revisions) == 2:
            raise MismatchError(
                f"{where} was trained on revision {shown(one.revision)} of {spec.model_id}, the model given is "
                f"revision {shown(spec.revision)}; give that revision's model"
            )
    elif is_hub_id(one.base) and is_hub_id(spec.model_id) and not _same_name(one.base, spec.model_id):
        raise MismatchError(
            f"{where} was trained on {one.base}, the model given is {spec.model_id}; if these are the same weights, "
            f"say so: dataclasses.replace(ModelSpec.from_model(model), model_id={one.base!r})"
        )


def _warn_of_names(found: Sequence[PeftPrompt], spec: ModelSpec) -> None:
    """Tell of bases whose names differ from the model's and can be the same weights all the same."""
    others = {one.base for one in found if one.export is None and one.base not in (None, spec.model_id)}
    unknown = sum(one.export is None and one.base is None for one in found)
    if others:
        shown_names = ", ".join(sorted({public_id(str(name)) for name in others})[:3])
        _log.warning(
            "adapters were trained on %s, the model given is %s; only names and sizes can be compared",
            shown_names,
            public_id(spec.model_id),
        )
    if unknown:
        _log.warning("%d of %d adapters do not name their LLM; only sizes can be compared", unknown, len(found))


def _same_name(base: str, model_id: str) -> bool:
    return slug(base).lower() == slug(model_id).lower()


def _alike(one: PeftPrompt, first: PeftPrompt) -> bool:
    return one.prompt.shape == first.prompt.shape and _place(one.export) == _place(first.export)


def _place(export: PeftExport | None) -> tuple[Any, ...]:
    return () if export is None else (export.template, export.task, export.answer_texts)


def _described(one: PeftPrompt) -> str:
    place = "in front" if one.export is None else f"template {one.export.template!r}, task {one.export.task}"
    return f"shape {one.prompt.shape}, {place}"


def _facts(
    first: PeftPrompt,
    template: PromptTemplate | str | None,
    task: Task | None,
    tokenizer: PreTrainedTokenizerBase | None,
) -> dict[str, Any]:
    """Template and task of all prompts.

    Raises:
        MismatchError: others were recorded when the prompts were exported.
        ConfigurationError: the template does not begin with the prompt.
    """
    given = None if template is None else PromptTemplate.of(template)
    if first.export is not None:
        for name, ours, theirs in (
            ("template", given and given.text, first.export.template),
            ("task", task, first.export.task),
        ):
            if ours is not None and theirs is not None and ours != theirs:
                raise MismatchError(
                    f"the adapters were exported with the {name} {theirs!r}, not {ours!r}; leave it out"
                )
        return {"template": first.export.template, "task": first.export.task or task}
    chosen = given or IN_FRONT
    if not chosen.text.startswith(_SLOT) or len(chosen.soft_slots) > 1:
        raise ConfigurationError(
            f"PEFT puts one prompt before the whole text, and the template {chosen.text!r} does not; give one that "
            f"begins with {_SLOT} and has no other soft slot, such as {IN_FRONT.text!r}"
        )
    leading = leading_tokens(tokenizer) if tokenizer is not None else ()
    if leading:
        _log.warning(
            "PEFT puts its prompts before %s, which this tokenizer puts before every text; a scorer puts them behind "
            "it, so its scores differ from PEFT's (docs/peft.md)",
            " ".join(map(str, tokenizer.convert_ids_to_tokens(list(leading)))),  # type: ignore[union-attr]
        )
    return {"template": chosen.text, "task": task}
