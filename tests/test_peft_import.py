"""Prompts that were trained with PEFT as a bank: the scorer gives PEFT's own logits; other adapters are refused."""

from __future__ import annotations

import json
import logging
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from puma_hub import ModelSpec, PersonalizedLM, PromptBank, PumaHubError, RatingTask
from puma_hub.errors import (
    BankError,
    CheckpointError,
    ConfigurationError,
    MismatchError,
    StorageError,
    UnsupportedModelError,
)
from tests.conftest import NAMED_FAMILIES, make_model
from tests.test_peft_export import FRONT, bank_of, tokenizer_with_bos

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from peft import (
        LoraConfig,
        MultitaskPromptTuningConfig,
        PeftModel,
        PrefixTuningConfig,
        PromptEncoderConfig,
        PromptTuningConfig,
        get_peft_model,
    )

TEXTS = ("Toy Story (1995) is rated", "A rather long title about nothing:", "x")
PEFT_FILES = {"adapter_config.json", "adapter_model.safetensors"}
LENGTH = 3


def prompt_tuning(**options: Any) -> PromptTuningConfig:
    return PromptTuningConfig(**{"task_type": "CAUSAL_LM", "num_virtual_tokens": LENGTH, **options})


def saved_adapter(folder: Path, config: Any = None, family: str = "llama", seed: int = 0, base: str = "") -> Path:
    """A random adapter, written by PEFT itself."""
    model = make_model(family)
    model.name_or_path = base
    torch.manual_seed(seed)
    get_peft_model(model, config or prompt_tuning()).save_pretrained(str(folder), save_embedding_layers=False)
    return folder


def changed(folder: Path, **fields: Any) -> Path:
    """The adapter with other fields in its config."""
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    return folder


def of_peft(model: PreTrainedModel, folder: Path, ids: list[int]) -> torch.Tensor:
    """PEFT's own logits for the last position, ``(vocabulary,)``."""
    loaded = PeftModel.from_pretrained(model, str(folder)).eval()
    with torch.no_grad():
        return loaded(input_ids=torch.tensor([ids])).logits[0, -1]


def of_scorer(lm: PersonalizedLM, prompt: np.ndarray, text: str) -> torch.Tensor:
    with torch.no_grad():
        return lm.logits(torch.from_numpy(prompt.copy())[None], [{"item_text": text}])[0]


# PEFT's own logits


@pytest.mark.parametrize("family", NAMED_FAMILIES)
def test_prompts_of_peft_give_pefts_logits(family: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    folders = [saved_adapter(tmp_path / f"user-{seed}", family=family, seed=seed) for seed in range(2)]
    bank = PromptBank.from_peft(folders, make_model(family))
    assert bank.user_ids == ["user-0", "user-1"] and bank.shape == (LENGTH, 32)
    lm = PersonalizedLM(make_model(family), tokenizer, template=bank.provenance.template)
    assert bank.model.fingerprint == lm.spec.fingerprint and bank.provenance.template == "<user><item>"
    made = {"peft_type": ["PROMPT_TUNING"], "adapters": 2, "place": "before all tokens, <bos> too"}
    assert bank.provenance.details["peft"] == made
    for folder in folders:
        for text in TEXTS:
            expected = of_peft(make_model(family), folder, tokenizer(text)["input_ids"])[lm.answer_ids]
            assert (of_scorer(lm, bank[folder.name], text) - expected).abs().max() < 1e-4


@pytest.mark.parametrize("encoder", ["MLP", "LSTM"])
def test_p_tuning_is_saved_without_its_encoder(
    encoder: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    config = PromptEncoderConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=LENGTH,
        encoder_hidden_size=16,
        encoder_reparameterization_type=encoder,
    )
    folder = saved_adapter(tmp_path / "a", config)
    bank = PromptBank.from_peft(folder, make_model("llama"), template="<user> Film: <item>", task=RatingTask())
    lm = PersonalizedLM(make_model("llama"), tokenizer, template=bank.provenance.template, task=bank.provenance.task)
    expected = of_peft(make_model("llama"), folder, tokenizer(" Film: " + TEXTS[0])["input_ids"])[lm.answer_ids]
    assert (of_scorer(lm, bank["a"], TEXTS[0]) - expected).abs().max() < 1e-4


def test_a_bos_stands_on_the_other_side(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """PEFT: prompt, <bos>, text. A scorer: <bos>, prompt, text. It is said, and it can be worked around."""
    folder, model = saved_adapter(tmp_path / "a"), make_model("llama")
    tokenizer = tokenizer_with_bos("<|begin|>")
    lm = PersonalizedLM(model, tokenizer, template="<user><item>", model_id="tiny/model")
    bank = PromptBank.from_peft(folder, lm)
    assert "PEFT puts its prompts before <|begin|>" in caplog.text
    ids = tokenizer(TEXTS[0])["input_ids"]
    peft = of_peft(make_model("llama"), folder, ids)[lm.answer_ids]
    assert (of_scorer(lm, bank["a"], TEXTS[0]) - peft).abs().max() > 1e-2
    # The same prompt behind <bos>, computed without the scorer, is what the scorer gives.
    with torch.no_grad():
        layer = model.get_input_embeddings()
        start, text = layer(torch.tensor(ids[:1])), layer(torch.tensor(ids[1:]))
        whole = torch.cat([start, torch.from_numpy(bank["a"].copy()), text])[None]
        behind = model(inputs_embeds=whole).logits[0, -1, lm.answer_ids]
    assert (of_scorer(lm, bank["a"], TEXTS[0]) - behind).abs().max() < 1e-4
    # A tokenizer that puts nothing in front, and <bos> in the template.
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    bare = AutoTokenizer.from_pretrained(tmp_path / "tokenizer", add_bos_token=False)
    other = PersonalizedLM(make_model("llama"), bare, template="<user><|begin|><item>")
    assert (of_scorer(other, bank["a"], TEXTS[0]) - peft).abs().max() < 1e-4


# Round trips


@pytest.mark.parametrize(("template", "kind"), [("rating", "TRAINABLE_TOKENS"), (FRONT, "PROMPT_TUNING")])
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_round_trip(
    family: str, template: str, kind: str, make_lm: Callable[..., PersonalizedLM], tmp_path: Path
) -> None:
    lm = make_lm(family, template=template)
    bank = bank_of(lm, details={"answer_texts": list(lm.answer_texts)})
    (user,) = bank.user_ids
    export = bank.to_peft(user, tmp_path / "out", model=lm)
    back = PromptBank.from_peft([export.path], lm, user_ids=[user])
    assert np.allclose(back.prompts, bank.prompts, rtol=1e-6, atol=0)
    assert family == "gemma3" or np.array_equal(back.prompts, bank.prompts)
    facts = back.provenance
    assert (facts.template, facts.task, facts.model) == (lm.template.text, lm.task, lm.spec)
    assert facts.details == {
        "peft": {"peft_type": [kind], "adapters": 1},
        "answer_texts": list(lm.answer_texts),
    }
    named = PromptBank.from_peft(export.path, lm.spec, template=template, task=lm.task)  # said once more
    assert named.user_ids == ["out"] and named.provenance.template == lm.template.text
    with pytest.raises(MismatchError, match="exported with the template"):
        PromptBank.from_peft(export.path, lm, template="<user> other <item>")
    with pytest.raises(MismatchError, match="exported with the task"):
        PromptBank.from_peft(export.path, lm, task=RatingTask(values=(1, 2, 3)))
    with pytest.raises(MismatchError, match="which has other weights"):
        PromptBank.from_peft(export.path, make_model(family, seed=1))
    again = PeftModel.from_pretrained(make_model(family), str(export.path))
    again.save_pretrained(
        str(export.path), save_embedding_layers=False
    )  # PEFT's own files, with a copy for a tied output
    assert np.array_equal(PromptBank.from_peft(export.path, lm).prompts, back.prompts)


def test_exports_of_trained_tokens_are_checked(make_lm: Callable[..., PersonalizedLM], tmp_path: Path) -> None:
    lm = make_lm()
    export = bank_of(lm).to_peft("somebody's id ü", tmp_path / "a", model=lm)
    copies = {name: Path(shutil.copytree(export.path, tmp_path / name)) for name in ("b", "c", "d", "e")}
    changed(copies["b"], token_indices=[1, 2, 3])
    (copies["c"] / "puma_hub.json").unlink()
    (copies["d"] / "puma_hub.json").write_text('{"format_version": 9, "puma_hub_version": "9.0"}')
    facts = json.loads((copies["e"] / "puma_hub.json").read_text())
    for name, kind, message in (
        ("b", CheckpointError, "has other tokens than its puma_hub.json says"),
        ("c", UnsupportedModelError, "not known where in a text its tokens stand"),
        ("d", CheckpointError, "pip install -U 'puma_hub>=9.0'"),
    ):
        with pytest.raises(kind, match=message):
            PromptBank.from_peft(copies[name], lm)
    for field, value in (("slot_ids", ["x"]), ("embedding_scale", 0), ("template", "none"), ("model", 3), ("task", 1)):
        (copies["e"] / "puma_hub.json").write_text(json.dumps({**facts, field: value}))
        with pytest.raises(CheckpointError, match=r"puma_hub\.json of PEFT adapter 1 of 1 is malformed"):
            PromptBank.from_peft(copies["e"], lm)
    shutil.copytree(
        saved_adapter(tmp_path / "lora", LoraConfig(target_modules=["q_proj"])), copies["e"], dirs_exist_ok=True
    )
    with pytest.raises(UnsupportedModelError, match="'LORA'"):
        PromptBank.from_peft(copies["e"], lm)


# Users and models


def test_whose_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ModelSpec.from_model(make_model("llama"), "org/llama")
    folders = [saved_adapter(tmp_path / name / "prompt") for name in ("ann ü", "bob")]
    with pytest.raises(BankError, match=r"1 of 2 adapters .*last part of their names; give user_ids=") as found:
        PromptBank.from_peft(folders, spec)
    assert "prompt'" not in str(found.value)
    bank = PromptBank.from_peft(map(str, folders), spec.to_dict(), user_ids=["ann ü", "bob"])
    assert bank.user_ids == ["ann ü", "bob"] and bank.model == spec
    assert bank.statistics is not None and bank.statistics.users == 2
    for ids, message in ((["a"], "1 user ids for 2 adapters"), (["a", "a"], "user id of another"), ([1, 2], "strings")):
        with pytest.raises(BankError, match=message):
            PromptBank.from_peft(folders, spec, user_ids=ids)  # type: ignore[arg-type]
    with pytest.raises(BankError):
        PromptBank.from_peft(folders, spec, user_ids=["", "b"])
    monkeypatch.chdir(folders[0])
    assert PromptBank.from_peft(".", spec).user_ids == ["prompt"]
    for wrong, message in (
        ([], "at least one"),
        (3, "list of folders"),
        ({"a": "b"}, "got dict"),
        ([b"x", 2], "2 of 2"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            PromptBank.from_peft(wrong, spec)  # type: ignore[arg-type]


def test_the_model_is_compared(tmp_path: Path, saved_lm: Callable[..., str], caplog: pytest.LogCaptureFixture) -> None:
    model = make_model("llama")
    named = saved_adapter(tmp_path / "a", base="meta/Llama-1B")
    fits = PromptBank.from_peft(named, ModelSpec.from_model(model, "meta/Llama-1B"))
    assert fits.model.fingerprint and not caplog.text
    with pytest.raises(
        MismatchError, match=r"trained on meta/Llama-1B, the model given is org/qwen.*dataclasses.replace"
    ):
        PromptBank.from_peft(named, ModelSpec.from_model(model, "org/qwen"))
    assert not caplog.text
    PromptBank.from_peft(named, ModelSpec.from_model(model, "mirror/llama-1b"))
    assert "trained on meta/Llama-1B, the model given is mirror/llama-1b" in caplog.text
    caplog.clear()
    folder = saved_lm("llama")
    bank = PromptBank.from_peft(named, folder)
    assert bank.model.model_id == folder and bank.model.fingerprint == fits.model.fingerprint
    assert folder not in caplog.text and "only names and sizes can be compared" in caplog.text
    caplog.clear()
    PromptBank.from_peft(saved_adapter(tmp_path / "b"), ModelSpec.from_model(model, "org/qwen"))
    assert "1 of 1 adapters do not name their LLM" in caplog.text
    changed(named, revision="v1")
    with pytest.raises(MismatchError, match="revision 'v1' of meta/Llama-1B"):
        PromptBank.from_peft(named, ModelSpec("meta/Llama-1B", 32, revision="v2"))
    with pytest.raises(MismatchError, match=r"prompts of size 32, big/model has the hidden size 64"):
        PromptBank.from_peft(named, ModelSpec("big/model", 64))
    with pytest.raises(UnsupportedModelError, match="PeftModelForCausalLM is not a model of transformers"):
        PromptBank.from_peft(named, PeftModel.from_pretrained(model, str(named)))


def test_adapters_that_differ(make_lm: Callable[..., PersonalizedLM], tmp_path: Path) -> None:
    lm = make_lm()
    one, longer = saved_adapter(tmp_path / "a"), saved_adapter(tmp_path / "b", prompt_tuning(num_virtual_tokens=4))
    exported = bank_of(lm).to_peft("somebody's id ü", tmp_path / "c", model=lm).path
    for others in ([one, longer], [one, exported], [exported, one]):
        with pytest.raises(MismatchError, match="PEFT adapter 2 of 2 has another shape, place or task"):
            PromptBank.from_peft(others, lm)
    with pytest.raises(ConfigurationError, match="PEFT puts one prompt before the whole text"):
        PromptBank.from_peft(one, lm, template="rating")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(dtype: torch.dtype, tmp_path: Path) -> None:
    folder = saved_adapter(tmp_path / "a")
    prompt = load_file(folder / "adapter_model.safetensors")["prompt_embeddings"].to(dtype)
    save_file({"prompt_embeddings": prompt}, folder / "adapter_model.safetensors")
    bank = PromptBank.from_peft(folder, ModelSpec("m", 32))
    assert np.array_equal(bank["a"], prompt.float().numpy()) and bank.prompts.dtype == np.float32


# What is refused


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (LoraConfig(target_modules=["q_proj"]), "'LORA': it changes the LLM's weights and holds no soft prompt"),
        (
            PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2),
            "'PREFIX_TUNING': it holds keys and values of every layer.*PROMPT_TUNING",
        ),
        (
            MultitaskPromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2, num_tasks=2),
            "'MULTITASK_PROMPT_TUNING': its prompt is multiplied by a matrix for each task",
        ),
    ],
)
def test_other_types(config: Any, message: str, tmp_path: Path) -> None:
    folder = saved_adapter(tmp_path / "somebody", config)
    with pytest.raises(UnsupportedModelError, match=message) as found:
        PromptBank.from_peft(folder, ModelSpec("m", 32))
    assert "somebody" not in str(found.value)


@pytest.mark.parametrize(
    ("fields", "kind", "message"),
    [
        ({"task_type": "SEQ_2_SEQ_LM"}, UnsupportedModelError, "encoder-decoder"),
        ({"num_transformer_submodules": 2}, UnsupportedModelError, "encoder-decoder"),
        ({"task_type": "SEQ_CLS"}, UnsupportedModelError, "an output layer of its own"),
        ({"modules_to_save": ["lm_head"]}, UnsupportedModelError, "modules_to_save"),
        ({"num_virtual_tokens": 4}, CheckpointError, r"floats of shape \(4, 32\)"),
        ({"num_virtual_tokens": "many"}, CheckpointError, "num_virtual_tokens must be a whole number"),
        ({"token_dim": None}, CheckpointError, "token_dim must be a whole number"),
        ({"peft_type": None}, CheckpointError, "has no peft_type"),
        ({"peft_type": "A" * 999}, UnsupportedModelError, r"'A+\.\.\.A+': it changes"),
        ({"base_model_name_or_path": ["x"]}, CheckpointError, "base_model_name_or_path must be"),
    ],
)
def test_other_configs(fields: dict[str, Any], kind: type[PumaHubError], message: str, tmp_path: Path) -> None:
    folder = changed(saved_adapter(tmp_path / "somebody"), **fields)
    with pytest.raises(kind, match=message) as found:
        PromptBank.from_peft(folder, ModelSpec("m", 32))
    assert "somebody" not in str(found.value)


def test_damaged_folders(tmp_path: Path) -> None:
    folder = saved_adapter(tmp_path / "users" / "somebody")
    weights, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    whole, text = weights.read_bytes(), config.read_text()
    spec = ModelSpec("m", 32)

    def refused(kind: type[PumaHubError], message: str, path: Path | str = folder) -> None:
        with pytest.raises(kind, match=message) as found:
            PromptBank.from_peft(path, spec)
        assert "somebody" not in str(found.value)

    weights.write_bytes(whole[:-10])
    refused(CheckpointError, "adapter_model.safetensors of PEFT adapter 1 of 1 cannot be read")
    save_file({"prompt_embeddings": torch.ones(LENGTH, 32, dtype=torch.int64)}, weights)
    refused(CheckpointError, "should hold floats")
    save_file({"prompt_embeddings": torch.ones(LENGTH, 32), "lm_head.weight": torch.ones(2)}, weights)
    refused(UnsupportedModelError, "found 2 tensors")
    save_file({"prompt_embeddings": torch.full((LENGTH, 32), torch.nan)}, weights)
    refused(BankError, "finite")
    os.rename(weights, folder / "adapter_model.bin")
    refused(StorageError, r"pickled weights .*save_pretrained\(new_folder\) writes safetensors")
    (folder / "adapter_model.bin").unlink()
    refused(StorageError, "lacks adapter_model.safetensors")
    for content in ("{", "[]", '{"peft_type": 3}'):
        config.write_text(content)
        weights.write_bytes(whole)
        refused(CheckpointError, "adapter_config.json of PEFT adapter 1 of 1")
    config.write_text(text)
    refused(StorageError, r"adapter_config.json missing\); 1 of the folders in it do", folder.parent)
    refused(StorageError, "holds no PEFT adapter", tmp_path)
    strange = tmp_path / os.fsdecode(b"\xffsomebody")
    shutil.copytree(folder, strange)
    refused(BankError, "half of a surrogate pair", strange)
    for name in ("no such\0folder", "x" * 5000, str(tmp_path / "nothing")):
        refused(StorageError, "cannot be a repository's either", name)


def test_a_replacement_that_was_killed_is_undone(make_lm: Callable[..., PersonalizedLM], tmp_path: Path) -> None:
    lm = make_lm()
    export = bank_of(lm).to_peft("somebody's id ü", tmp_path / "a", model=lm)
    aside = tmp_path / f".a-writing-{'0' * 12}-999999999-1-{'0' * 8}"
    aside.mkdir()
    os.rename(export.path, aside / "was")
    os.utime(aside, (1, 1))
    for path in aside.rglob("*"):
        os.utime(path, (1, 1))
    assert PromptBank.from_peft(export.path, lm).user_ids == ["a"]


def test_a_bank_of_peft_prompts_is_a_bank(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folders = [saved_adapter(tmp_path / f"user-{seed}", seed=seed) for seed in range(3)]
    with caplog.at_level(logging.DEBUG, "puma_hub"):
        bank = PromptBank.from_peft(sorted(folders, reverse=True), ModelSpec("m", 32))
    assert "user-" not in caplog.text
    bank.save_pretrained(tmp_path / "bank")
    loaded = PromptBank.from_pretrained(tmp_path / "bank")
    assert loaded.user_ids == ["user-0", "user-1", "user-2"] and loaded.provenance == bank.provenance
    assert all(np.array_equal(loaded[user], bank[user]) for user in bank.user_ids)
