"""Training: what learns, what stays frozen, best epochs, reports, and resuming to the bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch

from puma_hub import (
    AdapterTrainer,
    ModelSpec,
    PersonalizedLM,
    PromptBank,
    PromptTrainer,
    PumaConfig,
    PumaTrainingArguments,
    warm_start,
)
from puma_hub.errors import CheckpointError, ConfigurationError, MismatchError, SelectionError
from puma_hub.training import loop as loop_module
from puma_hub.training.prompt_module import PromptModule
from puma_hub.training.report import layer_weights
from tests.conftest import make_bank, make_interactions

QUIET = PumaTrainingArguments(
    num_train_epochs=3, per_device_train_batch_size=16, disable_tqdm=True, seed=7, prompt_method="shared"
)


class Killed(BaseException):
    """Stands for SIGKILL inside a test process: nothing after it runs."""


def kill_after(monkeypatch: pytest.MonkeyPatch, saves: int) -> None:
    """End the run right after the given number of checkpoints."""
    original = loop_module.save_state
    left = [saves]

    def save_then_die(*args: object) -> None:
        original(*args)  # type: ignore[arg-type]
        left[0] -= 1
        if not left[0]:
            raise Killed

    monkeypatch.setattr(loop_module, "save_state", save_then_die)


@pytest.mark.parametrize("method", ["shared", "independent"])
def test_prompts_learn_who_likes_what(make_lm: Callable[..., PersonalizedLM], method: str) -> None:
    rows = make_interactions(users=8, rows=20)
    args = replace(QUIET, prompt_method=method, num_train_epochs=12, learning_rate=5e-2, offset_penalty=1e-4)
    trainer = PromptTrainer(make_lm(), rows, args)
    bank = trainer.train()
    assert bank.user_ids == sorted(set(rows["user_id"])) and bank.head is not None
    losses = trainer.report["losses"]
    assert losses[-1] < 0.9 * losses[0]
    if method == "shared":  # those who rate alike have offsets that are alike; independent ones begin at random
        taste = np.array([np.mean(rows["label"][user * 20 : user * 20 + 20]) for user in range(8)])
        alike = np.corrcoef(bank.prompts.reshape(8, -1) - bank.prompts.reshape(8, -1).mean(0))
        pairs = np.triu_indices(8, 1)
        assert np.corrcoef(alike[pairs], -np.abs(taste[:, None] - taste)[pairs])[0, 1] > 0.3
    assert bank.provenance.template == trainer.lm.template.text and bank.provenance.task == trainer.lm.task


def test_loss_of_the_shared_method_by_hand(
    make_lm: Callable[..., PersonalizedLM], interactions: datasets.Dataset
) -> None:
    lm = make_lm()
    args = replace(QUIET, learning_rate=1e-2, offset_penalty=0.3)
    trainer = PromptTrainer(lm, interactions, args)
    module = PromptModule(lm, 8, trainer._train, trainer._validation, trainer.args)
    with torch.no_grad():
        module.prompts.normal_()
    numbers = torch.tensor([0, 5, 11])
    batch = trainer._train.take(numbers)
    prompts = lm.embedding_rms * (module.base + module.prompts[batch.users])
    task_loss = lm.task.loss(lm.logits(prompts, batch.rows), batch.labels, module.head)
    penalty = 0.3 * (module.prompts[batch.users] ** 2).sum((1, 2)).mean()
    assert torch.allclose(module(numbers), task_loss + penalty, atol=1e-5)


def test_best_epoch_is_kept_not_the_last(
    make_lm: Callable[..., PersonalizedLM], interactions: datasets.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    values = iter([3.0, 1.0, 2.0])

    def validate(self: PromptModule) -> float:
        seen.append({name: tensor.clone() for name, tensor in self.state_dict().items()})
        return next(values)

    monkeypatch.setattr(PromptModule, "validate", validate)
    trainer = PromptTrainer(make_lm(), interactions, QUIET)
    bank = trainer.train()
    expected = trainer.lm.embedding_rms * (seen[1]["base"] + seen[1]["prompts"])
    assert trainer.report["best_epoch"] == 2
    assert np.array_equal(bank.prompts, expected.numpy())


def test_held_out_part_of_the_training_rows_is_the_last_of_each_user(
    make_lm: Callable[..., PersonalizedLM], interactions: datasets.Dataset
) -> None:
    trainer = PromptTrainer(make_lm(), interactions, replace(QUIET, validation_share=0.25))
    assert len(trainer._validation) == 8 * 3 and len(trainer._train) == 8 * 9
    rows = sorted(zip(interactions["user_id"], interactions["timestamp"]))
    last = sorted(zip(trainer._validation.users.tolist(), trainer._validation.labels.tolist()))
    labels = dict(zip(zip(interactions["user_id"], interactions["timestamp"]), interactions["label"]))
    assert last == sorted((int(user[-1]), labels[user, time]) for user, time in rows if time >= 9)
    whole = PromptTrainer(make_lm(), interactions, replace(QUIET, validation_share=0.0))
    whole.train()
    assert len(whole._train) == 96 and whole.report["validation_losses"] == [None] * 3
    assert whole.report["best_epoch"] == 3


def run_prompts(lm: PersonalizedLM, rows: datasets.Dataset, folder: Path | None) -> PromptBank:
    return PromptTrainer(lm, rows, replace(QUIET, output_dir=folder and str(folder), checkpoint_seconds=0)).train()


@pytest.mark.parametrize("saves", [1, 4, 7, 12])
def test_resumed_prompts_are_the_same_bits(
    make_lm: Callable[..., PersonalizedLM], interactions: datasets.Dataset, tmp_path: Path, saves: int
) -> None:
    whole = run_prompts(make_lm(), interactions, None)
    with pytest.MonkeyPatch.context() as patch:
        kill_after(patch, saves)
        with pytest.raises(Killed):
            run_prompts(make_lm(), interactions, tmp_path / "run")
    resumed = run_prompts(make_lm(), interactions, tmp_path / "run")
    assert np.array_equal(resumed.prompts, whole.prompts)
    assert whole.head is not None and resumed.head is not None
    for name, tensor in whole.head.state_dict().items():
        assert torch.equal(tensor, resumed.head.state_dict()[name])
    again = run_prompts(make_lm(), interactions, tmp_path / "run")  # finished: nothing is trained twice
    assert np.array_equal(again.prompts, whole.prompts)


def adapter_weights(
    lm: PersonalizedLM, bank: PromptBank, rows: datasets.Dataset, folder: Path | None
) -> dict[str, torch.Tensor]:
    args = replace(QUIET, output_dir=folder and str(folder), checkpoint_seconds=0, validation_share=0.25)
    return AdapterTrainer(lm, bank, rows, args).train().state_dict()


@pytest.mark.parametrize("saves", [2, 9])
def test_resumed_adapter_is_the_same_bits(
    make_lm: Callable[..., PersonalizedLM], interactions: datasets.Dataset, bank: PromptBank, tmp_path: Path, saves: int
) -> None:
    whole = adapter_weights(make_lm("gemma3"), bank, interactions, None)
    with pytest.MonkeyPatch.context() as patch:
        kill_after(patch, saves)
        with pytest.raises(Killed):
            adapter_weights(make_lm("gemma3"), bank, interactions, tmp_path)
    resumed = adapter_weights(make_lm("gemma3"), bank, interactions, tmp_path)
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name


def test_a_checkpoint_of_another_run_is_refused(
    make_lm: Callable[..., PersonalizedLM], interactions: datasets.Dataset, tmp_path: Path
) -> None:
    run_prompts(make_lm(), interactions, tmp_path)
    with pytest.raises(CheckpointError, match="other settings or data"):
        run_prompts(make_lm(seed=1), interactions, tmp_path)
    with pytest.raises(CheckpointError, match="other settings or data"):
        run_prompts(make_lm(), interactions.select(range(60)), tmp_path)
    state = tmp_path / "training_state.safetensors"
    state.write_bytes(state.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="damaged"):
        run_prompts(make_lm(), interactions, tmp_path)


def test_checkpoints_hold_no_pickle_and_no_llm(
    make_lm: Callable[..., PersonalizedLM], interactions: datasets.Dataset, tmp_path: Path
) -> None:
    lm = make_lm()
    run_prompts(lm, interactions, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json", "training_state.safetensors"]
    assert (tmp_path / "training_state.safetensors").stat().st_size < 4 * sum(p.numel() for p in lm.model.parameters())


def test_report(make_lm: Callable[..., PersonalizedLM], interactions: datasets.Dataset, tmp_path: Path) -> None:
    trainer = PromptTrainer(make_lm(), interactions, replace(QUIET, output_dir=str(tmp_path)))
    trainer.train()
    report = json.loads((tmp_path / "report.json").read_text())
    assert report == json.loads(json.dumps(trainer.report))
    for key in (
        "losses",
        "validation_losses",
        "seconds",
        "samples_per_second",
        "flops",
        "peak_memory_bytes",
        "users",
        "seed",
        "versions",
    ):
        assert report[key] or key == "seed", key
    assert "user-1" not in json.dumps(report)


def test_flops_by_hand(make_lm: Callable[..., PersonalizedLM], interactions: datasets.Dataset) -> None:
    lm = make_lm("llama", prefix_cache="full")
    layer = 32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 64  # q, o; k, v; the three of the MLP
    assert layer_weights(lm) == 3 * layer
    trainer = PromptTrainer(lm, interactions, replace(QUIET, num_train_epochs=1, validation_share=0.25))
    trainer.train()
    after = 1 + trainer._encoded.rows.text_after[0]
    prefixes = sum(len(p) for p in set(trainer._train.rows.prefixes))
    assert prefixes > 0 and trainer.report["flops"]["prefix_cache"] == 2.0 * 3 * layer * prefixes
    sensitivity = 72 * after * 2  # forward and backward over all of fewer than 128 rows
    whole = 72 * after * 2 + 24 * after + prefixes + sensitivity
    assert trainer.report["flops"]["total"] == 2.0 * 3 * layer * whole


def test_adapter_learns_through_the_frozen_target(make_lm: Callable[..., PersonalizedLM]) -> None:
    rows = make_interactions(users=8, rows=20)
    source = PromptTrainer(
        make_lm("llama"), rows, replace(QUIET, num_train_epochs=12, learning_rate=5e-2, offset_penalty=1e-4)
    ).train()
    target = make_lm("gemma3")
    before = {name: tensor.clone() for name, tensor in target.model.state_dict().items()}
    trainer = AdapterTrainer(
        target, source, rows, replace(QUIET, num_train_epochs=12, learning_rate=3e-3, validation_share=0.0)
    )
    adapter = trainer.train()
    assert trainer.report["losses"][-1] < 0.9 * trainer.report["losses"][0]
    assert adapter.config.sources == [source.model] and adapter.config.target == target.spec
    assert adapter.config.template == target.template.text
    for name, tensor in target.model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_adapter_starts_from_the_sources_head(
    make_lm: Callable[..., PersonalizedLM], interactions: datasets.Dataset, bank: PromptBank
) -> None:
    head = PromptTrainer(make_lm(), interactions, replace(QUIET, num_train_epochs=1)).train().head
    with_head = PromptBank(bank.dataset, bank.provenance, head)
    adapter = AdapterTrainer(make_lm("gemma3"), with_head, interactions, QUIET).adapter
    assert adapter.head is not None and head is not None
    for name, tensor in head.state_dict().items():
        assert torch.equal(adapter.head.state_dict()[name], tensor)


def test_validation_users_are_others(
    make_lm: Callable[..., PersonalizedLM], interactions: datasets.Dataset, bank: PromptBank
) -> None:
    chosen = [f"user-{i}" for i in range(6)]
    trainer = AdapterTrainer(make_lm(), bank, interactions, replace(QUIET, validation_share=0.34), users=chosen)
    assert len(trainer.users) == 4 and set(trainer.users) < set(chosen)
    trained = {trainer._users[i] for i in trainer._rows.train.users.tolist()}
    held = {trainer._users[i] for i in trainer._rows.validation.users.tolist()}
    assert trained == set(trainer.users) and held == set(chosen) - trained


def test_adapter_from_two_sources(
    make_lm: Callable[..., PersonalizedLM], interactions: datasets.Dataset, bank: PromptBank
) -> None:
    other = PromptBank.from_arrays(
        bank.user_ids[::-1], np.random.default_rng(3).normal(size=(8, 1, 6)), ModelSpec("other", 6)
    )
    adapter = AdapterTrainer(make_lm("phi3"), [bank, other], interactions, replace(QUIET, num_train_epochs=1)).train()
    assert len(adapter.migrate([bank, other])) == 8


def test_warm_start_is_where_training_begins(
    make_lm: Callable[..., PersonalizedLM], interactions: datasets.Dataset, bank: PromptBank
) -> None:
    lm = make_lm("qwen3")
    config = PumaConfig(sources=[bank.model], target=lm.spec, dropout=0.0)
    embeddings = lm.model.get_input_embeddings().weight
    init = warm_start(config, torch.randn(400, 32), lm.tokenizer, embeddings, lm.tokenizer).eval()
    trainer = AdapterTrainer(lm, bank, interactions, QUIET, init=init)
    prompts = torch.from_numpy(bank.prompts.copy())
    with torch.no_grad():
        expected = init(prompts).target_prompts
        begun = trainer.adapter.eval()(prompts).target_prompts
    assert torch.allclose(begun[1:] - begun[:1], expected[1:] - expected[:1], atol=1e-3)


def test_same_seed_same_bits_other_seed_other(
    make_lm: Callable[..., PersonalizedLM], interactions: datasets.Dataset
) -> None:
    first = PromptTrainer(make_lm(), interactions, QUIET).train()
    assert np.array_equal(first.prompts, PromptTrainer(make_lm(), interactions, QUIET).train().prompts)
    assert not np.array_equal(
        first.prompts, PromptTrainer(make_lm(), interactions, replace(QUIET, seed=8)).train().prompts
    )


def test_users_who_come_repeatedly_in_a_batch_add_up_in_one_order(
    make_lm: Callable[..., PersonalizedLM], interactions: datasets.Dataset
) -> None:
    # Sizes at which torch adds in parallel.
    trainer = PromptTrainer(make_lm(), interactions, replace(QUIET, prompt_length=32))
    module = PromptModule(trainer.lm, 8, trainer._train, trainer._validation, trainer.args)
    users = torch.arange(128) % 5
    weights = torch.randn(128, *module.prompts.shape[1:], generator=torch.Generator().manual_seed(0))
    gradients = [torch.autograd.grad((module.own(users) * weights).sum(), module.prompts)[0] for _ in range(50)]
    assert all(torch.equal(gradient, gradients[0]) for gradient in gradients)
    expected = torch.stack([weights[users == user].sum(0) for user in range(8)])
    assert torch.allclose(gradients[0], expected, atol=1e-4)


@pytest.mark.parametrize(
    "fields",
    [
        {"num_train_epochs": -1},
        {"num_train_epochs": 1.5},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"per_device_train_batch_size": -1},
        {"validation_share": 1.0},
        {"prompt_method": "both"},
        {"prompt_length": 0},
        {"offset_penalty": -1.0},
    ],
)
def test_bad_arguments(fields: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        PumaTrainingArguments(**fields)  # type: ignore[arg-type]


def test_unknown_schedule(make_lm: Callable[..., PersonalizedLM], interactions: datasets.Dataset) -> None:
    with pytest.raises(ConfigurationError, match="lr_scheduler_type"):
        PromptTrainer(make_lm(), interactions, replace(QUIET, lr_scheduler_type="wavy")).train()


def test_adapter_trainer_refuses_what_does_not_fit(
    make_lm: Callable[..., PersonalizedLM], interactions: datasets.Dataset, bank: PromptBank
) -> None:
    with pytest.raises(SelectionError, match="in no bank"):
        AdapterTrainer(make_lm(), bank, interactions, QUIET, users=["nobody"])
    with pytest.raises(SelectionError, match="none of the 0"):
        AdapterTrainer(make_lm(), bank, interactions, QUIET, users=[])
    with pytest.raises(MismatchError, match="hidden size"):
        AdapterTrainer(
            make_lm(),
            bank,
            interactions,
            QUIET,
            config=PumaConfig(sources=[ModelSpec("a", 5)], target=ModelSpec("t", 32)),
        )
    config = PumaConfig(sources=[bank.model], target=ModelSpec("t", 32, fingerprint="0" * 16))
    with pytest.raises(MismatchError, match="other weights"):
        AdapterTrainer(make_lm(), bank, interactions, QUIET, config=config)
    with pytest.raises(MismatchError, match="different prompt lengths"):
        AdapterTrainer(make_lm(), [bank, make_bank(length=2)], interactions, QUIET)
    with pytest.raises(MismatchError, match="another task"):
        AdapterTrainer(make_lm(), make_bank(task={"name": "click"}), interactions, QUIET)


def test_the_level_of_an_adapter_is_that_of_its_labels(make_lm: Callable[..., PersonalizedLM]) -> None:
    lm, rows = make_lm(), make_interactions()
    still = replace(QUIET, num_train_epochs=2, validation_share=0.0, per_device_train_batch_size=len(rows))
    still = replace(still, learning_rate=1e-12, base_learning_rate=1e-12, head_learning_rate=1e-12)
    config = PumaConfig(sources=[make_bank().model], target=lm.spec, dropout=0.0)
    adapter = AdapterTrainer(lm, make_bank(), rows, still, config=config).train()
    assert adapter.head is not None
    prompts = adapter(torch.from_numpy(np.array(make_bank().prompts))).target_prompts
    owners = [int(user.removeprefix("user-")) for user in rows["user_id"]]
    with torch.no_grad():
        predictions = adapter.head(lm.logits(prompts[owners], rows.select_columns(["item_text"])))
    assert float(predictions.mean()) == pytest.approx(np.mean(rows["label"]), abs=1e-4)
