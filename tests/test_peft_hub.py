"""Soft prompts of PEFT adapters on the Hub."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from puma_hub import ModelSpec, PersonalizedLM, PromptBank
from puma_hub.errors import (
    HubAccessError,
    HubNotFoundError,
    StorageError,
    UnsupportedModelError,
)
from tests.hub_server import HubServer
from tests.test_peft_export import FILES, bank_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from peft import (
        LoraConfig,
    )
from tests.test_peft_import import PEFT_FILES, saved_adapter

# The Hub


def published(hub: HubServer, name: str, folder: Path, private: bool = False, without: str = "") -> None:
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != without}
    hub.create_repository(name, files={**files, "training_args.bin": b"a pickle"}, private=private)


def test_repositories(
    hub: HubServer, login: Callable[..., None], make_lm: Callable[..., PersonalizedLM], tmp_path: Path
) -> None:
    folders = [saved_adapter(tmp_path / name, seed=seed) for seed, name in enumerate(("user-1", "user-2"))]
    for folder in folders:
        published(hub, f"alice/{folder.name}", folder, private=True)
    spec, local = ModelSpec("m", 32), PromptBank.from_peft(folders, ModelSpec("m", 32))
    with pytest.raises(HubNotFoundError, match=r"PEFT adapter 1 of 2, which is not a local folder.*log in") as found:
        PromptBank.from_peft(["alice/user-1", "alice/user-2"], spec)
    assert "user-1" not in str(found.value)
    bank = PromptBank.from_peft(["alice/user-1", "alice/user-2"], spec, token=HubServer.token("alice", "read"))
    assert bank.user_ids == ["user-1", "user-2"] and np.array_equal(bank.prompts, local.prompts)
    assert hub.opened() == PEFT_FILES
    login("alice")
    mixed = PromptBank.from_peft([folders[1], "alice/user-1"], spec)
    assert np.array_equal(mixed["user-1"], local["user-1"]) and mixed.user_ids == ["user-2", "user-1"]
    lm = make_lm()
    export = bank_of(lm).to_peft("somebody's id ü", tmp_path / "out", model=lm)
    published(hub, "alice/export", export.path)
    hub.clear_requests()
    assert np.array_equal(PromptBank.from_peft("alice/export", lm).prompts, bank_of(lm).prompts)
    assert hub.opened() == {*FILES} - {"README.md"}


def test_repositories_that_are_refused(hub: HubServer, tmp_path: Path) -> None:
    spec, folder = ModelSpec("m", 32), saved_adapter(tmp_path / "a")
    lora = saved_adapter(tmp_path / "b", LoraConfig(target_modules=["q_proj"]))
    published(hub, "alice/lora", lora)
    with pytest.raises(UnsupportedModelError, match="'LORA'"):
        PromptBank.from_peft("alice/lora", spec)
    assert hub.opened() == {"adapter_config.json"}  # its weights are not downloaded
    published(hub, "alice/empty", folder, without="adapter_model.safetensors")
    with pytest.raises(HubNotFoundError, match=r"lacks the file adapter_model\.safetensors"):
        PromptBank.from_peft("alice/empty", spec)
    (folder / "adapter_model.bin").write_bytes(b"a pickle")
    published(hub, "alice/pickled", folder, without="adapter_model.safetensors")
    hub.clear_requests()
    with pytest.raises(StorageError, match="pickled weights"):
        PromptBank.from_peft("alice/pickled", spec)
    assert hub.opened() <= PEFT_FILES
    published(hub, "alice/other", folder, without="adapter_config.json")
    with pytest.raises(HubNotFoundError, match=r"lacks the file adapter_config\.json"):
        PromptBank.from_peft("alice/other", spec)
    hub.empty_cache()
    with pytest.raises(HubAccessError, match="does not accept the token"):
        PromptBank.from_peft("alice/lora", spec, token="hf_invalid")
