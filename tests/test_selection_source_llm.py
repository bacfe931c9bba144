"""What strategies ask the source LLM: FFN activations and losses, against plain forwards of transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from puma_hub import ClickTask, PersonalizedLM, PromptBank, select_users
from puma_hub.cli.main import main
from puma_hub.errors import MismatchError, SelectionError, UnsupportedModelError
from puma_hub.selection import user_losses
from puma_hub.selection.ffn_activations import ffn_activations
from puma_hub.tasks import RatingHead
from tests.conftest import NAMED_FAMILIES, make_interactions, make_model, make_tokenizer
from tests.tiny_models import make_tiny


def bank_of(lm: PersonalizedLM, users: int = 7, length: int = 1, **provenance: Any) -> PromptBank:
    prompts = np.random.default_rng(0).normal(size=(users, length, lm.hidden_size)).astype(np.float32)
    return PromptBank.from_arrays([f"user-{user}" for user in range(users)], prompts, lm.spec, **provenance)


def catch(caught: list[torch.Tensor], module: nn.Module, given: tuple[torch.Tensor], out: torch.Tensor) -> None:
    caught.append(given[0])


def expected_activations(model: PreTrainedModel, down: list[nn.Module], prompts: np.ndarray) -> np.ndarray:
    """One forward a prompt; what the projections take, caught by hooks."""
    results = []
    for prompt in torch.from_numpy(prompts.copy()):
        caught: list[torch.Tensor] = []
        hooks = [module.register_forward_hook(partial(catch, caught)) for module in down]
        with torch.no_grad():
            model(inputs_embeds=prompt[None])
        for hook in hooks:
            hook.remove()
        joined = torch.cat([part.reshape(len(prompt), -1).mean(0) for part in caught])
        results.append(joined / joined.norm())
    return torch.stack(results).numpy()


@pytest.mark.parametrize("length", [1, 3])
@pytest.mark.parametrize("family", NAMED_FAMILIES)
def test_activations_of_the_last_three_ffns(family: str, length: int) -> None:
    model = make_model(family, num_hidden_layers=4)
    lm = PersonalizedLM(model, make_tokenizer(), model_id="tiny")
    bank = bank_of(lm, length=length)
    found = ffn_activations(lm, bank, seed=0)
    down = [layer.mlp.down_proj for layer in model.model.layers[1:]]
    assert found.dtype == np.float32 and found.shape == (7, 3 * 64)
    assert np.allclose(found, expected_activations(model, down, bank.prompts), atol=1e-5)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "OPTForCausalLM"])
def test_activations_under_other_names(name: str) -> None:
    model = make_tiny(name)
    lm = PersonalizedLM(model, make_tokenizer(), model_id="tiny")
    bank = bank_of(lm)
    layers = model.transformer.h if name.startswith("GPT2") else model.model.decoder.layers
    down = [layer.mlp.c_proj if name.startswith("GPT2") else layer.fc2 for layer in layers[1:]]
    assert np.allclose(ffn_activations(lm, bank, seed=0), expected_activations(model, down, bank.prompts), atol=1e-5)


def test_activations_leave_the_model_as_it_was() -> None:
    model = make_model("llama")
    lm = PersonalizedLM(model, make_tokenizer(), model_id="tiny")
    ffn_activations(lm, bank_of(lm), seed=0)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_activations_do_not_depend_on_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = PersonalizedLM(make_model("qwen3"), make_tokenizer(), model_id="tiny")
    whole = ffn_activations(lm, bank_of(lm), seed=0)
    monkeypatch.setattr("puma_hub.selection.ffn_activations._PROMPTS_AT_ONCE", 2)
    assert np.allclose(ffn_activations(lm, bank_of(lm), seed=0), whole, atol=1e-6)


def test_many_activations_are_projected(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = PersonalizedLM(make_model("llama", intermediate_size=700), make_tokenizer(), model_id="tiny")
    bank = bank_of(lm, users=40)
    whole = ffn_activations(lm, bank, seed=0)
    monkeypatch.setattr("puma_hub.selection.ffn_activations.MOST_BYTES", whole.nbytes - 1)
    found = ffn_activations(lm, bank, seed=0)
    assert found.shape == (40, 512) and np.array_equal(found, ffn_activations(lm, bank, seed=0))
    pairs = np.triu_indices(40, 1)
    before, after = (np.square(x[pairs[0]] - x[pairs[1]]).sum(1) for x in (whole, found))
    assert 0.02 < np.std(after / before) < 0.1 and abs(np.mean(after / before) - 1) < 0.1


@pytest.mark.parametrize("name", ["MixtralForCausalLM", "MambaForCausalLM"])
def test_models_without_one_ffn_are_refused(name: str) -> None:
    lm = PersonalizedLM(make_tiny(name), make_tokenizer(), model_id="tiny")
    with pytest.raises(UnsupportedModelError, match=f"{name} has no FFN that every prompt passes once"):
        select_users(bank_of(lm), make_interactions(7), "ffn-kmeans", 2, lm=lm)


@pytest.mark.parametrize("family", NAMED_FAMILIES)
@pytest.mark.parametrize("kind", ["rating", "click"])
def test_losses_by_plain_forwards(family: str, kind: str) -> None:
    model = make_model(family)
    asked: Any = {"task": ClickTask(), "template": "<item>\nRead by <user>? Yes or No:"} if kind == "click" else {}
    lm = PersonalizedLM(model, make_tokenizer(), model_id="tiny", **asked)
    torch.manual_seed(0)
    head = RatingHead().start_at(3.0) if kind == "rating" else None
    bank = bank_of(lm, head=head, task=lm.task, template=lm.template.text)
    rows = make_interactions(users=6, rows=5).shuffle(seed=0)
    if kind == "click":
        clicks = (np.array(rows["label"]) > 3).astype(float)
        rows = rows.remove_columns("label").add_column("label", clicks)
    found = user_losses(lm, bank, rows, batch_size=4)
    expected: dict[str, list[float]] = {}
    for row in rows:
        before, after = (lm.tokenizer(text, add_special_tokens=False)["input_ids"] for text in lm.template.render(row))
        start, end = (model.get_input_embeddings()(torch.tensor(ids)) for ids in (before, after))
        prompt = torch.from_numpy(bank[row["user_id"]].copy())
        with torch.no_grad():
            logits = model(inputs_embeds=torch.cat([start, prompt, end])[None]).logits[0, -1, lm.answer_ids]
            if head is None:
                loss = F.binary_cross_entropy_with_logits(logits[0], torch.tensor(row["label"]).float())
            else:
                entropy = -logits.log_softmax(-1)[int(row["label"]) - 1]
                loss = 0.8 * (head(logits[None])[0] - row["label"]) ** 2 + 0.2 * entropy
        expected.setdefault(row["user_id"], []).append(float(loss))
    assert set(found) == set(expected) == {f"user-{user}" for user in range(6)}  # the seventh has no rows
    assert all(found[user] == pytest.approx(np.mean(losses), rel=1e-3, abs=1e-4) for user, losses in expected.items())


@pytest.mark.parametrize("strategy", ["loss", "kmeans-loss", "ffn-loss"])
def test_the_llm_or_its_losses(strategy: str) -> None:
    lm = PersonalizedLM(make_model("llama"), make_tokenizer(), model_id="tiny")
    bank, rows = bank_of(lm, users=12, length=2), make_interactions(11, 4)
    losses = user_losses(lm, bank, rows)
    known = {"losses": losses} | ({"lm": lm} if strategy.startswith("ffn") else {})
    assert select_users(bank, rows, strategy, 5, lm=lm) == select_users(bank, rows, strategy, 5, **known)


def test_another_llm_is_refused() -> None:
    lm, other = (PersonalizedLM(make_model("llama", seed), make_tokenizer(), model_id="tiny") for seed in (0, 1))
    for strategy in ("loss", "ffn-kmeans"):
        with pytest.raises(MismatchError, match="for a selection"):
            select_users(bank_of(lm), make_interactions(7), strategy, 2, lm=other)
    with pytest.raises(SelectionError, match="none of the bank's users has rows"):
        select_users(bank_of(lm).select(["user-6"]), make_interactions(3), "loss", 2, lm=lm)


def test_on_the_command_line(
    tmp_path: Path,
    saved_lm: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = saved_lm("llama")
    lm = PersonalizedLM.from_pretrained(folder)
    bank_of(lm, users=9, template=lm.template.text).save_pretrained(tmp_path / "bank")
    rows = make_interactions(9, 5)
    rows.to_csv(tmp_path / "rows.csv", index=False)
    monkeypatch.chdir(tmp_path)
    command = "select --bank bank --interactions rows.csv --held-out 0.2 --budget 4 --out users.txt --json r.json"
    for strategy in ("loss", "kmeans-loss", "ffn-kmeans", "ffn-loss", "ffn-variance"):
        given = [*command.split(), "--strategy", strategy]
        assert main([*given, "--model", folder]) == 0
        assert len(set((tmp_path / "users.txt").read_text().split())) == 4
        assert json.loads((tmp_path / "r.json").read_text())["model"] == folder
        assert main(given) == 2 and "--model on the command line" in capsys.readouterr().err
    assert main([*command.split(), "--strategy", "puma", "--model", folder]) == 2
    assert "'puma' asks no LLM; leave --model out, or choose one of loss, kmeans-loss, ffn" in capsys.readouterr().err
    assert main([*command.split(), "--strategy", "d-optimal", "--option", "noise=0.5"]) == 0
    clicks = rows.remove_columns("label").add_column("label", [0.0] * len(rows))
    clicks.to_csv(tmp_path / "rows.csv", index=False)
    assert main([*command.split(), "--strategy", "puma"]) == 0  # whatever the task
    assert main([*command.split(), "--strategy", "loss", "--model", folder]) == 1
    assert "labels are outside the task's values" in capsys.readouterr().err
