"""Reading the soft prompt of one PEFT adapter from a folder or the Hub. Only JSON and safetensors are read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load

from puma_hub.bank.arrays import as_float32
from puma_hub.bank.peft_files import (
    CONFIG_FILE,
    FACTS_FILE,
    P_TUNING,
    PICKLE_FILE,
    PROMPT_KEY,
    PROMPT_TUNING,
    ROWS_KEY,
    TRAINABLE_TOKENS,
    WEIGHTS_FILE,
    PeftExport,
)
from puma_hub.errors import CheckpointError, ConfigurationError, StorageError, UnsupportedModelError, shown
from puma_hub.hub.failures import hub_errors
from puma_hub.hub.naming import is_hub_id
from puma_hub.limits import MAX_HIDDEN_SIZE, MAX_PROMPT_LENGTH, require_text, require_whole
from puma_hub.storage import read_json
from puma_hub.storage.staging import bring_back

_TRAIN = "train such prompts with PROMPT_TUNING, P_TUNING or puma_hub.PromptTrainer"
_KEYS_AND_VALUES = f"it holds keys and values of every layer, and a soft prompt is input embeddings; {_TRAIN}"
_OTHER_TYPES = {
    "PREFIX_TUNING": _KEYS_AND_VALUES,
    "CARTRIDGE": _KEYS_AND_VALUES,
    "ADAPTION_PROMPT": f"it holds prompts within single layers, and a soft prompt is input embeddings; {_TRAIN}",
    "MULTITASK_PROMPT_TUNING": f"its prompt is multiplied by a matrix for each task; {_TRAIN}",
    "CPT": f"its prompt is made of a context's tokens and a bounded change of them; {_TRAIN}",
}
_WEIGHTS_CHANGED = "it changes the LLM's weights and holds no soft prompt, so there is nothing to migrate"


@dataclass(frozen=True, eq=False)
class PeftPrompt:
    """The prompt of one adapter.

    Attributes:
        prompt: float32 ``(l, d)``, as the layers of the LLM receive it.
        base: the LLM that the adapter names, with its revision, if it names them.
        export: what ``puma_hub.json`` says, if the adapter was written by :meth:`puma_hub.PromptBank.to_peft`.
    """

    prompt: np.ndarray
    peft_type: str
    base: str | None
    revision: str | None
    export: PeftExport | None


def read_prompt(name: str, where: str, token: str | bool | None = None) -> PeftPrompt:
    """Read an adapter.

    Args:
        name: a folder or a repository.
        where: what messages call it, since names may be users' ids.

    Raises:
        StorageError: there is no such folder, or it lacks a file; or its weights are pickled.
        CheckpointError: a file is damaged, or the files do not belong together.
        UnsupportedModelError: the adapter is of another type, or for another kind of model.
        HubError: the repository cannot be read.
    """
    if not os.path.isdir(name):
        with suppress(ValueError):  # of a text that is no path
            bring_back(Path(name).absolute())
    if os.path.isdir(name):
        _require_files(Path(name), where)
        config = _config(Path(name, CONFIG_FILE), where)
        facts = Path(name, FACTS_FILE)
        return _read(config, Path(name, WEIGHTS_FILE), facts if os.path.isfile(facts) else None, where)
    if not is_hub_id(name):
        raise StorageError(f"{where} is no folder, and its name cannot be a repository's either; check the path")
    return _download(name, where, token)


def _require_files(folder: Path, where: str) -> None:
    """Refuse a folder without an adapter's files."""
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise StorageError(f"{where} cannot be read: {error.strerror}; check the folder's rights") from error
    if CONFIG_FILE not in names:
        inside = sum(os.path.isfile(folder / name / CONFIG_FILE) for name in names)
        advice = f"; {inside} of the folders in it do: give these, sorted(path.iterdir())" if inside else ""
        raise StorageError(f"{where} holds no PEFT adapter ({CONFIG_FILE} missing){advice}")
    if WEIGHTS_FILE not in names:
        if PICKLE_FILE in names:
            raise _pickled(where)
        raise StorageError(f"{where} lacks {WEIGHTS_FILE}; save or download the adapter again")


def _download(repo_id: str, where: str, token: str | bool | None) -> PeftPrompt:
    from huggingface_hub import file_exists, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    facts = None
    with hub_errors(f"load {where}, which is not a local folder"):
        path = Path(hf_hub_download(repo_id, CONFIG_FILE, token=token))
        commit = path.parent.name  # all files come from this one
        config = _config(path, where)
        try:
            weights = Path(hf_hub_download(repo_id, WEIGHTS_FILE, revision=commit, token=token))
        except EntryNotFoundError:
            if file_exists(repo_id, PICKLE_FILE, revision=commit, token=token):
                raise _pickled(where) from None
            raise
        with suppress(EntryNotFoundError):
            facts = Path(hf_hub_download(repo_id, FACTS_FILE, revision=commit, token=token))
    return _read(config, weights, facts, where)


def _pickled(where: str) -> StorageError:
    return StorageError(
        f"{where} has pickled weights ({PICKLE_FILE}), which can run code when they are read; convert them where you "
        "trust them: PeftModel.from_pretrained(model, folder).save_pretrained(new_folder) writes safetensors"
    )


def _config(path: Path, where: str) -> dict[str, Any]:
    """The config of an adapter that holds a soft prompt.

    Raises:
        CheckpointError: it is no config.
        UnsupportedModelError: it is another adapter's.
    """
    config = _json(path, where)
    peft_type, task_type = config.get("peft_type"), config.get("task_type")
    if not isinstance(peft_type, str):
        raise CheckpointError(f"{CONFIG_FILE} of {where} has no peft_type; save the adapter again with PEFT")
    if peft_type not in (PROMPT_TUNING, P_TUNING, TRAINABLE_TOKENS):
        reason = _OTHER_TYPES.get(peft_type, _WEIGHTS_CHANGED)
        raise UnsupportedModelError(f"{where} is of type {shown(peft_type)}: {reason}")
    if task_type == "SEQ_2_SEQ_LM" or config.get("num_transformer_submodules") not in (None, 1):
        raise UnsupportedModelError(f"{where} is for an encoder-decoder model; soft prompts need a decoder-only one")
    if task_type not in (None, "CAUSAL_LM"):
        raise UnsupportedModelError(
            f"{where} is for {shown(task_type)}, with an output layer of its own; a bank holds prompts of causal LMs"
        )
    if config.get("modules_to_save"):
        raise UnsupportedModelError(
            f"{where} changes weights of the LLM as well (modules_to_save), and a bank holds prompts alone; {_TRAIN}"
        )
    return config


def _read(config: Mapping[str, Any], weights: Path, facts: Path | None, where: str) -> PeftPrompt:
    export = None if facts is None else PeftExport.from_dict(_json(facts, where), facts.parent, where)
    peft_type = str(config["peft_type"])
    if export is not None and export.peft_type != peft_type:
        raise CheckpointError(
            f"{where} is of type {peft_type}, and its {FACTS_FILE} of {shown(export.peft_type)}; delete that file if "
            "another adapter was saved over the exported one"
        )
    tensors = _tensors(weights, where)
    found = _rows(config, tensors, export, where) if peft_type == TRAINABLE_TOKENS else _front(config, tensors, where)
    try:
        base, revision = (
            None if config.get(name) in (None, "") else require_text(config[name], name)
            for name in ("base_model_name_or_path", "revision")
        )
    except ConfigurationError as error:
        raise CheckpointError(f"{CONFIG_FILE} of {where} is malformed: {error}; save the adapter again") from error
    return PeftPrompt(found, peft_type, base, revision, export)


def _front(config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], where: str) -> np.ndarray:
    """The prompt of ``PROMPT_TUNING``, and of ``P_TUNING``: PEFT saves what its encoder makes, not the encoder."""
    if set(tensors) != {PROMPT_KEY}:
        raise UnsupportedModelError(
            f"{where} should hold {PROMPT_KEY} alone, found {len(tensors)} tensors ({shown(sorted(tensors))}): what "
            "else was trained does not fit into a bank"
        )
    try:
        length = require_whole(config.get("num_virtual_tokens"), "num_virtual_tokens", MAX_PROMPT_LENGTH)
        size = require_whole(config.get("token_dim"), "token_dim", MAX_HIDDEN_SIZE)
    except ConfigurationError as error:
        raise CheckpointError(f"{CONFIG_FILE} of {where} is malformed: {error}; save the adapter again") from error
    return _floats(tensors[PROMPT_KEY], (length, size), where)


def _rows(
    config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], export: PeftExport | None, where: str
) -> np.ndarray:
    """The prompt of ``TRAINABLE_TOKENS`` as :meth:`puma_hub.PromptBank.to_peft` writes it."""
    if export is None:
        raise UnsupportedModelError(
            f"{where} is of type {TRAINABLE_TOKENS} without {FACTS_FILE}, so it is not known where in a text its "
            "tokens stand; give adapters of PromptBank.to_peft, or build the bank with PromptBank.from_arrays and a "
            "template"
        )
    if config.get("token_indices") != list(export.slot_ids):
        raise CheckpointError(f"{where} has other tokens than its {FACTS_FILE} says; export the prompt again")
    strange = [name for name in tensors if not name.endswith(ROWS_KEY)]
    if strange or not tensors:
        raise UnsupportedModelError(f"{where} should hold {ROWS_KEY} alone, found {shown(sorted(tensors))}")
    rows, *copies = tensors.values()  # PEFT keeps one copy for a tied output layer
    if not all(torch.equal(rows, copy) for copy in copies):
        raise CheckpointError(f"{where} has different rows for input and output embeddings; export the prompt again")
    shape = export.prompt_length, export.model.hidden_size
    return _floats(rows, shape, where) * np.float32(export.embedding_scale)


def _floats(tensor: torch.Tensor, shape: tuple[int, int], where: str) -> np.ndarray:
    if tuple(tensor.shape) != shape or not tensor.is_floating_point():
        raise CheckpointError(
            f"{where} should hold floats of shape {shape}, by its config, found {tensor.dtype} of shape "
            f"{tuple(tensor.shape)}; save the adapter again with PEFT"
        )
    return as_float32(tensor)


def _tensors(path: Path, where: str) -> dict[str, torch.Tensor]:
    try:  # as bytes: safetensors' own messages name the path, which may be a user's id
        tensors: dict[str, torch.Tensor] = load(path.read_bytes())
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or (str(error).splitlines() or [""])[0]
        raise CheckpointError(
            f"{WEIGHTS_FILE} of {where} cannot be read ({reason}); save or download the adapter again"
        ) from error
    return tensors


def _json(path: Path, where: str) -> dict[str, Any]:
    try:
        return read_json(path)
    except StorageError as error:  # its message holds the path, which may be a user's id
        raise CheckpointError(f"{path.name} of {where} is not a JSON object; save or download it again") from error
