"""The adapter: architectures against a plain computation, storage, strict loading, warm start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

from puma_hub import ModelSpec, PromptBank, PumaAdapter, PumaConfig, warm_start
from puma_hub.adapter.warm_start import shared_tokens, token_texts
from puma_hub.errors import BankError, CheckpointError, ConfigurationError, MismatchError
from tests.conftest import make_bank, make_tokenizer

SOURCE, TARGET = ModelSpec("source", 32), ModelSpec("target", 24)


def make_adapter(architecture: str = "seed", seed: int = 0, **options: object) -> PumaAdapter:
    torch.manual_seed(seed)
    fields = {"sources": [SOURCE], "target": TARGET, "hidden_size": 48, "dropout": 0.5, **options}
    return PumaAdapter(PumaConfig(architecture=architecture, **fields)).eval()  # type: ignore[arg-type]


def standardize(adapter: PumaAdapter, prompts: torch.Tensor, output_scale: float) -> None:
    """By mean and spread of prompts ``(N, l, d)``, each source apart."""
    parts = (prompts - prompts.mean(0)).split([spec.hidden_size for spec in adapter.config.sources], dim=-1)
    adapter.standardize(prompts.mean(0), [float(part.square().mean().sqrt()) for part in parts], output_scale)


def norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * weight + bias


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.vectorize(__import__("math").erf)(x / np.sqrt(2)))


def by_hand(adapter: PumaAdapter, prompts: np.ndarray) -> np.ndarray:
    """The architectures of the paper and its summary, in numpy."""
    w = {name: tensor.double().numpy() for name, tensor in adapter.state_dict().items()}

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ w[f"network.{name}.weight"].T + w[f"network.{name}.bias"]

    def block(x: np.ndarray, name: str) -> np.ndarray:
        h = norm(x, w[f"network.{name}.0.weight"], w[f"network.{name}.0.bias"])
        return linear(silu(linear(h, f"{name}.1")), f"{name}.4")

    x = (prompts - w["input_mean"]) / w["input_scale"]
    if adapter.config.architecture == "linear":
        out = linear(x, "residual")
    elif adapter.config.architecture == "seed":
        h = norm(linear(x, "adapter.0"), w["network.adapter.1.weight"], w["network.adapter.1.bias"])
        out = linear(gelu(h), "adapter.4") + linear(x, "residual")
    else:
        for stage in ("0", "1"):
            x = block(x + block(x, f"{stage}.refine"), f"{stage}.project")
        out = x
    return w["output_scale"] * (w["base"] + out)


@pytest.mark.parametrize("length", [1, 3])
@pytest.mark.parametrize("architecture", ["seed", "paper", "linear"])
def test_forward_by_hand(architecture: str, length: int) -> None:
    adapter = make_adapter(architecture, prompt_length=length)
    with torch.no_grad():
        adapter.base.normal_()
    prompts = torch.randn(7, length, 32)
    standardize(adapter, prompts * 3 + 1, 2.5)
    result = adapter(prompts).target_prompts
    assert result.shape == (7, length, 24)
    assert np.abs(result.detach().numpy() - by_hand(adapter, prompts.double().numpy())).max() < 1e-4


def test_paper_architecture_has_the_papers_size() -> None:
    config = PumaConfig(
        sources=[ModelSpec("a", 2048)], target=ModelSpec("b", 3072), architecture="paper", rating_head=False
    )
    with torch.device("meta"):
        adapter = PumaAdapter(config)
    assert abs(sum(p.numel() for p in adapter.network.parameters()) / 1e6 - 88.1) < 0.1


def test_several_sources_are_scaled_one_by_one() -> None:
    adapter = make_adapter(sources=[SOURCE, ModelSpec("other", 8)])
    prompts = torch.randn(50, 1, 40)
    prompts[..., 32:] *= 100
    standardize(adapter, prompts, 1.0)
    offsets = prompts - prompts.mean(0)
    expected = [offsets[..., :32].square().mean().sqrt(), offsets[..., 32:].square().mean().sqrt()]
    assert torch.allclose(adapter.input_scale[[0, 39]], torch.stack(expected))


def test_standardize_keeps_the_linear_map_of_offsets() -> None:
    adapter = make_adapter("linear")
    prompts = torch.randn(20, 1, 32) * 4
    before = adapter(prompts).target_prompts
    standardize(adapter, prompts, 7.0)
    after = adapter(prompts).target_prompts
    assert torch.allclose(before[1:] - before[:1], after[1:] - after[:1], atol=1e-4)


@pytest.mark.parametrize("architecture", ["seed", "paper", "linear"])
def test_round_trip_and_auto_classes(tmp_path: Path, architecture: str) -> None:
    adapter = make_adapter(architecture)
    standardize(adapter, torch.randn(9, 1, 32), 2.0)
    adapter.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    prompts = torch.randn(3, 1, 32)
    for loaded in (PumaAdapter.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path)):
        assert type(loaded) is PumaAdapter and not loaded.training
        assert torch.equal(loaded(prompts).target_prompts, adapter(prompts).target_prompts)
        assert loaded.config.sources == [SOURCE] and loaded.config.target == TARGET
    assert type(AutoConfig.from_pretrained(tmp_path)) is PumaConfig


def test_head_travels_along(tmp_path: Path) -> None:
    adapter = make_adapter()
    assert adapter.head is not None
    adapter.save_pretrained(tmp_path)
    loaded = PumaAdapter.from_pretrained(tmp_path)
    logits = torch.randn(4, 5)
    assert loaded.head is not None and torch.equal(loaded.head(logits), adapter.head(logits))
    assert make_adapter(task={"name": "click"}).head is None


def damage(folder: Path, kind: str) -> None:
    weights, config = folder / "model.safetensors", folder / "config.json"
    tensors = load_file(weights)
    if kind == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif kind == "empty":
        weights.write_bytes(b"")
    elif kind == "no weights":
        weights.unlink()
    elif kind == "no config":
        config.unlink()
    elif kind == "bad json":
        config.write_text("{")
    elif kind == "missing":
        save_file({k: v for k, v in tensors.items() if k != "base"}, weights, metadata={"format": "pt"})
    elif kind == "unexpected":
        save_file({**tensors, "extra": torch.ones(2)}, weights, metadata={"format": "pt"})
    elif kind == "shape":
        save_file({**tensors, "base": torch.ones(1, 3)}, weights, metadata={"format": "pt"})
    elif kind == "nan":
        save_file({**tensors, "base": torch.full((1, 24), torch.nan)}, weights, metadata={"format": "pt"})
    else:
        data = json.loads(config.read_text())
        changes = {
            "newer": {"format_version": 99},
            "architecture": {"architecture": "resnet"},
            "target": {"target": None},
        }
        config.write_text(json.dumps({**data, **changes[kind]}))


@pytest.mark.parametrize(
    "kind",
    [
        "cut",
        "empty",
        "no weights",
        "no config",
        "bad json",
        "missing",
        "unexpected",
        "shape",
        "nan",
        "newer",
        "architecture",
        "target",
    ],
)
def test_damaged_checkpoints_are_refused(tmp_path: Path, kind: str) -> None:
    make_adapter().save_pretrained(tmp_path)
    damage(tmp_path, kind)
    with pytest.raises((CheckpointError, ConfigurationError)) as caught:
        PumaAdapter.from_pretrained(tmp_path)
    assert len(str(caught.value)) > 30 and "\n" not in str(caught.value)


def test_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    adapter = make_adapter()
    adapter.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(adapter.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError):
        PumaAdapter.from_pretrained(tmp_path)


def test_unknown_config_keys_are_left_alone(tmp_path: Path) -> None:
    make_adapter().save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "from_the_future": [1]}))
    assert PumaAdapter.from_pretrained(tmp_path).config.target == TARGET


@pytest.mark.parametrize(
    "fields",
    [
        {"architecture": "resnet"},
        {"prompt_length": 0},
        {"prompt_length": 1.5},
        {"dropout": 1.0},
        {"hidden_size": 0},
        {"sources": [{"model_id": "a"}]},
        {"sources": SOURCE},
        {"target": {"model_id": "", "hidden_size": 3}},
        {"target": {"model_id": "a", "hidden_size": 0}},
        {"task": {"name": "guess"}},
        {"template": "no-such-preset"},
    ],
)
def test_bad_configurations(fields: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        PumaConfig(**{"sources": [SOURCE], "target": TARGET, **fields})  # type: ignore[arg-type]


def test_an_adapter_needs_a_pair() -> None:
    with pytest.raises(ConfigurationError, match="sources"):
        PumaAdapter(PumaConfig())


def test_forward_refuses_other_shapes() -> None:
    for shape in ((3, 1, 31), (3, 2, 32), (3, 32)):
        with pytest.raises(MismatchError, match="takes prompts"):
            make_adapter()(torch.zeros(shape))


def test_migrate_matches_forward_and_keeps_history(bank: PromptBank) -> None:
    adapter = make_adapter()
    migrated = adapter.migrate(bank, batch_size=3)
    with torch.no_grad():
        expected = adapter(torch.from_numpy(bank.prompts.copy())).target_prompts.numpy()
    assert np.allclose(migrated.prompts, expected, atol=1e-6)
    assert migrated.user_ids == bank.user_ids and migrated.model == TARGET
    assert migrated.provenance.made_by == "migrated"
    assert [step["made_by"] for step in migrated.provenance.history] == ["given"]


def test_an_adapter_in_bfloat16_leaves_a_float32_head(bank: PromptBank) -> None:
    adapter = PumaAdapter(PumaConfig([bank.model], ModelSpec("target", 32))).eval().bfloat16()
    migrated = adapter.migrate(bank)
    assert migrated.head is not None and torch.isfinite(migrated.head(torch.zeros(2, 5))).all()
    assert {weight.dtype for weight in migrated.head.parameters()} == {torch.float32}
    assert adapter.head is not None and next(adapter.head.parameters()).dtype == torch.bfloat16  # left as it was


def test_migrate_joins_several_banks_by_user(caplog: pytest.LogCaptureFixture) -> None:
    other = ModelSpec("other", 8)
    adapter = make_adapter(sources=[SOURCE, other])
    first = make_bank(4)
    second = PromptBank.from_arrays(
        ["user-3", "user-9", "user-1"], np.random.default_rng(1).normal(size=(3, 1, 8)), other
    )
    migrated = adapter.migrate([first, second])
    assert migrated.user_ids == ["user-1", "user-3"]
    joined = np.concatenate([first.prompts[[1, 3]], second.prompts[[2, 0]]], -1)
    with torch.no_grad():
        expected = adapter(torch.from_numpy(joined)).target_prompts.numpy()
    assert np.allclose(migrated.prompts, expected, atol=1e-6)
    assert migrated.provenance.details["users_left_out"] == 3
    assert "3 users are missing" in caplog.text and "user-9" not in caplog.text


def test_migrate_refuses_what_does_not_fit(bank: PromptBank) -> None:
    adapter = make_adapter()
    with pytest.raises(MismatchError, match=r"takes 1 bank"):
        adapter.migrate([bank, bank])
    with pytest.raises(MismatchError, match="hidden size"):
        adapter.migrate(make_bank(size=16))
    with pytest.raises(MismatchError, match="length 1"):
        adapter.migrate(make_bank(length=2))
    marked = make_adapter(sources=[ModelSpec("source", 32, fingerprint="a" * 16)])
    with pytest.raises(MismatchError, match="other weights"):
        marked.migrate(
            PromptBank.from_arrays(["u"], np.ones((1, 1, 32)), ModelSpec("source", 32, fingerprint="b" * 16))
        )
    with torch.no_grad():
        adapter.base.fill_(torch.inf)
    with pytest.raises(BankError, match="NaN or infinite"):
        adapter.migrate(bank)


def test_token_texts_agree_between_spellings() -> None:
    byte_level, sentencepiece = make_tokenizer("byte-level"), make_tokenizer("sentencepiece")
    assert any(token.startswith("Ġ") for token in byte_level.get_vocab())
    assert any(token.startswith("▁") for token in sentencepiece.get_vocab())
    assert {b" ", b"5", b"M", b"\n"} <= token_texts(byte_level).keys() & token_texts(sentencepiece).keys()
    ours, theirs = shared_tokens(byte_level, sentencepiece)
    for first, second in zip(ours.tolist(), theirs.tolist()):
        assert byte_level.decode([first]).strip() == sentencepiece.decode([second]).strip()
    assert len(ours) > 60


@pytest.mark.parametrize("kinds", [("byte-level", "sentencepiece"), ("sentencepiece", "byte-level")])
def test_warm_start_is_the_ridge_regression(kinds: tuple[str, str]) -> None:
    first, second = make_tokenizer(kinds[0]), make_tokenizer(kinds[1])
    torch.manual_seed(0)
    inputs, outputs = torch.randn(400, 32), torch.randn(400, 24)
    adapter = warm_start(PumaConfig(sources=[SOURCE], target=TARGET), inputs, first, outputs, second)
    ours, theirs = shared_tokens(first, second)
    x, y = inputs[ours].double().numpy(), outputs[theirs].double().numpy()
    x, y = x - x.mean(0), y - y.mean(0)
    penalty = 1e-3 * len(ours) * inputs[ours].double().numpy().var(0).mean()
    expected = np.linalg.solve(x.T @ x + penalty * np.eye(32), x.T @ y)
    prompts = torch.randn(6, 1, 32)
    with torch.no_grad():
        mapped = adapter.eval()(prompts).target_prompts[:, 0].double().numpy()
    assert np.abs(mapped - prompts[:, 0].double().numpy() @ expected).max() < 1e-3


def test_warm_start_refuses(tokenizer: PreTrainedTokenizerFast) -> None:
    weights = torch.zeros(400, 32), torch.zeros(400, 24)
    with pytest.raises(ConfigurationError, match="warm start"):
        warm_start(
            PumaConfig(sources=[SOURCE], target=TARGET, architecture="paper"),
            weights[0],
            tokenizer,
            weights[1],
            tokenizer,
        )
    with pytest.raises(MismatchError, match="columns"):
        warm_start(PumaConfig(sources=[SOURCE], target=TARGET), weights[1], tokenizer, weights[1], tokenizer)


def test_a_branch_of_zeros_is_left_out_and_nothing_changes() -> None:
    adapter = make_adapter()
    adapter.eval()
    network: Any = adapter.network
    assert not network.is_linear
    torch.nn.init.zeros_(network.adapter[-1].weight)
    prompts = torch.randn(40, *adapter.input_mean.shape)
    ran = []
    network.adapter[0].register_forward_hook(lambda *_: ran.append(1))
    for bias, runs in ((0.5, 2), (0.0, 1)):
        torch.nn.init.constant_(network.adapter[-1].bias, bias)
        ran.clear()
        with_gradients = adapter(prompts).target_prompts
        with torch.no_grad():
            without = adapter(prompts).target_prompts
        assert torch.equal(without, with_gradients) and len(ran) == runs
    adapter(prompts).target_prompts.sum().backward()
    assert network.adapter[-1].bias.grad.abs().sum() > 0
