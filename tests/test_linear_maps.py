"""Maps from shared tokens, and adapters of them that are not trained, against numpy, scipy and scikit-learn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from scipy.linalg import orthogonal_procrustes
from sklearn.metrics.pairwise import cosine_similarity
from transformers import PreTrainedTokenizerFast

from puma_hub import (
    AdapterTrainer,
    ModelSpec,
    PersonalizedLM,
    PromptBank,
    PumaAdapter,
    PumaConfig,
    PumaTrainingArguments,
    chain,
    evaluate_bank,
    migrate,
    untrained_adapter,
    warm_start,
)
from puma_hub.adapter.linear_maps import anchors, procrustes, ridge
from puma_hub.adapter.warm_start import shared_tokens
from puma_hub.cli.main import main
from puma_hub.errors import ConfigurationError, InteractionsError, MismatchError
from puma_hub.extensions import WARM_STARTS
from puma_hub.tasks import RatingHead
from puma_hub.training.sensitivity import sensitivity_at
from tests.conftest import NAMED_FAMILIES, make_model, make_tokenizer

SIZES = [(6, 10), (10, 6), (8, 8)]
QUIET = PumaTrainingArguments(num_train_epochs=1, disable_tqdm=True)


def embeddings(sizes: tuple[int, int], rows: int = 200, noise: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Source and target embeddings that are a map of one another, but for noise; neither has mean 0."""
    draw = np.random.default_rng(0)
    source = draw.normal(2.0, 1.0, (rows, sizes[0]))
    target = 5.0 * source @ draw.normal(size=sizes) + 3.0 + noise * draw.normal(size=(rows, sizes[1]))
    return source.astype(np.float32), target.astype(np.float32)


@pytest.mark.parametrize("sizes", SIZES)
def test_ridge_is_the_normal_equations(sizes: tuple[int, int]) -> None:
    source, target = embeddings(sizes)
    x, y = (part.astype(np.float64) - part.astype(np.float64).mean(0) for part in (source, target))
    expected = np.linalg.solve(x.T @ x + 0.5 * len(x) * x.var(0).mean() * np.eye(sizes[0]), x.T @ y).T
    np.testing.assert_allclose(ridge(source, target, penalty=0.5), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("sizes", SIZES)
def test_procrustes_is_scipy_s_with_zeros_added_to_the_smaller(sizes: tuple[int, int]) -> None:
    source, target = embeddings(sizes)
    x, y = (part.astype(np.float64) - part.astype(np.float64).mean(0) for part in (source, target))
    size = max(sizes)
    padded = [np.pad(part, ((0, 0), (0, size - part.shape[1]))) for part in (x, y)]
    rotation = orthogonal_procrustes(*padded)[0]  # of row vectors
    expected = rotation[: sizes[0], : sizes[1]].T
    found = procrustes(source, target, scale=False)
    np.testing.assert_allclose(found, expected, atol=1e-8)
    smaller = found.T @ found if sizes[0] <= sizes[1] else found @ found.T
    np.testing.assert_allclose(smaller, np.eye(min(sizes)), atol=1e-10)
    moved = (x @ found.T).ravel()
    by = np.linalg.lstsq(moved[:, None], y.ravel(), rcond=None)[0][0]
    np.testing.assert_allclose(procrustes(source, target), by * found, rtol=1e-8)


def test_procrustes_finds_a_rotation() -> None:
    draw = np.random.default_rng(1)
    rotation = np.linalg.qr(draw.normal(size=(10, 6)))[0]  # 6 -> 10, orthonormal columns
    source = draw.normal(size=(50, 6))
    np.testing.assert_allclose(procrustes(source, 3.0 * source @ rotation.T + 1.0), 3.0 * rotation, atol=1e-8)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("count", [None, 60])
def test_anchors_have_the_direction_that_cosine_similarities_give(sizes: tuple[int, int], count: int | None) -> None:
    source, target = embeddings(sizes, noise=20.0)
    found = anchors(source, target, count=count, seed=3)
    if count is not None:
        drawn = np.random.default_rng(3).choice(200, count, replace=False)
        source, target = source[drawn], target[drawn]
    ours, theirs = (part.astype(np.float64) - part.astype(np.float64).mean(0) for part in (source, target))
    offset = np.random.default_rng(2).normal(size=(1, sizes[0]))
    relative = cosine_similarity(offset, ours)[0]
    units = theirs / np.linalg.norm(theirs, axis=1, keepdims=True)
    decoded = np.linalg.pinv(units) @ relative
    moved = found @ offset[0]
    assert cosine_similarity(decoded[None], moved[None])[0, 0] == pytest.approx(1.0, abs=1e-9)
    ratio = np.linalg.norm(theirs, axis=1).mean() / np.linalg.norm(ours, axis=1).mean()
    np.testing.assert_allclose(moved, decoded * np.linalg.norm(offset) * ratio, rtol=1e-6)


def test_anchors_do_not_see_a_rotation_or_a_scale() -> None:
    draw = np.random.default_rng(1)
    source, rotation = draw.normal(size=(80, 7)), np.linalg.qr(draw.normal(size=(7, 7)))[0]
    np.testing.assert_allclose(anchors(source, 4.0 * source @ rotation.T - 2.0), 4.0 * rotation, atol=1e-8)


@pytest.mark.parametrize("method", [*WARM_STARTS])
@pytest.mark.parametrize(("size_in", "size_out"), [(32, 24), (24, 32)])
@pytest.mark.parametrize("architecture", ["linear", "seed"])
def test_a_warm_start_by_each_method(method: str, size_in: int, size_out: int, architecture: str) -> None:
    first, second = make_tokenizer("byte-level"), make_tokenizer("sentencepiece")
    torch.manual_seed(0)
    inputs, outputs = torch.randn(400, size_in), torch.randn(400, size_out)
    specs = ModelSpec("source", size_in), ModelSpec("target", size_out)
    config = PumaConfig(sources=[specs[0]], target=specs[1], architecture=architecture)
    adapter = warm_start(config, inputs, first, outputs, second, method=method).eval()
    ours, theirs = shared_tokens(first, second)
    expected = WARM_STARTS[method].load()(inputs[ours].numpy(), outputs[theirs].numpy())
    prompts = torch.randn(6, 1, size_in)
    with torch.no_grad():
        mapped = adapter(prompts).target_prompts[:, 0].numpy()
    np.testing.assert_allclose(mapped, prompts[:, 0].numpy() @ expected.T, rtol=1e-4, atol=1e-4)


def _config(**changes: Any) -> PumaConfig:
    return PumaConfig(**{"sources": [ModelSpec("source", 32)], "target": ModelSpec("target", 24), **changes})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"method": "rotation"}, "unknown warm start 'rotation'; choose one of ridge, procrustes, anchors"),
        ({"method": "ridge", "scale": True}, "has no option 'scale'; its options are penalty"),
        ({"penalty": -1}, "penalty must be a number of at least 0, got -1"),
        ({"method": "procrustes", "scale": 2}, "scale must be true or false, got 2"),
        ({"method": "anchors", "count": 0}, "count must be a whole number"),
        ({"method": "anchors", "count": 10**6}, "count must be a whole number"),
    ],
)
def test_wrong_methods_and_options_are_refused(options: dict[str, Any], says: str) -> None:
    tokenizer = make_tokenizer()
    with pytest.raises(ConfigurationError, match=says):
        warm_start(_config(), torch.randn(400, 32), tokenizer, torch.randn(400, 24), tokenizer, **options)


def test_a_method_that_gives_no_map_is_refused() -> None:
    tokenizer = make_tokenizer()
    WARM_STARTS.register("wrong", lambda source, target: np.zeros((3, 3)), "for a test")
    try:
        with pytest.raises(ConfigurationError, match=r"'wrong' must give a finite map \(24, 32\), got \(3, 3\)"):
            warm_start(_config(), torch.randn(400, 32), tokenizer, torch.randn(400, 24), tokenizer, method="wrong")
    finally:
        WARM_STARTS.unregister("wrong")


def a_start(source: PersonalizedLM, target: PersonalizedLM, method: str = "procrustes") -> PumaAdapter:
    config = PumaConfig(
        sources=[source.spec], target=target.spec, architecture="linear", task=target.task, template=target.template
    )
    return warm_start(
        config,
        source.input_embeddings(),
        source.tokenizer,
        target.input_embeddings(),
        target.tokenizer,
        method=method,
    )


def a_bank(lm: PersonalizedLM, users: int = 40) -> PromptBank:
    torch.manual_seed(0)
    prompts = np.random.default_rng(0).normal(1.0, 0.2, (users, 1, lm.spec.hidden_size)).astype(np.float32)
    known = {"head": RatingHead().start_at(3.0), "task": lm.task, "template": lm.template.text}
    return PromptBank.from_arrays([f"user-{number}" for number in range(users)], prompts, lm.spec, **known)


@pytest.fixture
def wide_lm(tokenizer: PreTrainedTokenizerFast) -> PersonalizedLM:
    return PersonalizedLM(make_model("qwen2", 1, hidden_size=48), tokenizer, model_id="tiny/wide")


@pytest.mark.parametrize("method", [*WARM_STARTS])
def test_an_untrained_adapter_by_hand(
    make_lm: Callable[..., PersonalizedLM], wide_lm: PersonalizedLM, interactions: datasets.Dataset, method: str
) -> None:
    for source, target in ((make_lm(), wide_lm), (wide_lm, make_lm("gemma3", 1))):
        bank, start = a_bank(source), a_start(source, target, method)
        adapter = untrained_adapter(target, bank, start, interactions)
        found = migrate(adapter, bank)
        map_ = start.network.residual.weight.detach().double().numpy()
        offsets = bank.prompts[:, 0].astype(np.float64) - bank.prompts[:, 0].astype(np.float64).mean(0)
        expected = target.word_prompt(1).double().numpy() + (offsets @ map_.T)[:, None]
        np.testing.assert_allclose(found.prompts, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
        assert found.head is not None and bank.head is not None
        assert all(torch.equal(found.head.state_dict()[n], tensor) for n, tensor in bank.head.state_dict().items())
        assert found.provenance.details["own_source_bank"] is True
        np.testing.assert_allclose(found.statistics.mean, found.prompts.mean(0), atol=1e-4)
        encoded = target.encode(interactions.select_columns(["item_text"]), 1)
        slope = sensitivity_at(target, encoded, adapter.output_mean, bank.head, 256)
        np.testing.assert_allclose(found.statistics.sensitivity, slope, atol=1e-6)
        assert torch.equal(start.base, torch.zeros_like(start.base))  # as it was given
        report = evaluate_bank(target, found, interactions)
        assert np.isfinite(report["metrics"]["rmse"])


def test_an_untrained_adapter_in_files_chains_and_training(
    tmp_path: Path, make_lm: Callable[..., PersonalizedLM], wide_lm: PersonalizedLM, interactions: datasets.Dataset
) -> None:
    source, end = make_lm(), make_lm("gemma3", 1)
    bank = a_bank(source)
    adapter = untrained_adapter(wide_lm, bank, a_start(source, wide_lm))
    adapter.save_pretrained(tmp_path / "adapter")
    again = PumaAdapter.from_pretrained(tmp_path / "adapter")
    assert np.array_equal(migrate(again, bank).prompts, migrate(adapter, bank).prompts)
    onward = untrained_adapter(end, migrate(adapter, bank), a_start(wide_lm, end))
    assert chain(bank, [adapter, onward]).provenance.parents == (1,)
    trained = AdapterTrainer(end, migrate(adapter, bank), interactions, QUIET, init=a_start(wide_lm, end)).train()
    assert not np.array_equal(chain(bank, [adapter, trained]).prompts, chain(bank, [adapter, onward]).prompts)
    with pytest.raises(ConfigurationError, match="trained already"):
        untrained_adapter(end, migrate(adapter, bank), trained)
    with pytest.raises(MismatchError, match="init"):
        untrained_adapter(end, bank, a_start(wide_lm, end))
    with pytest.raises(InteractionsError, match="no rows"):
        untrained_adapter(wide_lm, bank, a_start(source, wide_lm), interactions.select([]))


@pytest.mark.parametrize("family", NAMED_FAMILIES)
@pytest.mark.parametrize("method", [*WARM_STARTS])
def test_on_all_families(
    make_lm: Callable[..., PersonalizedLM], interactions: datasets.Dataset, family: str, method: str
) -> None:
    source, target = make_lm("llama"), make_lm(family, 1)
    bank = a_bank(source, 8)
    found = migrate(untrained_adapter(target, bank, a_start(source, target, method)), bank)
    assert found.model == target.spec
    assert np.isfinite(evaluate_bank(target, found, interactions)["metrics"]["rmse"])


def test_on_the_command_line(
    tmp_path: Path,
    saved_lm: Callable[..., str],
    interactions: datasets.Dataset,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, target = saved_lm("llama"), saved_lm("gemma3", 1)
    a_bank(PersonalizedLM.from_pretrained(source)).save_pretrained(tmp_path / "bank")
    interactions.to_csv(tmp_path / "rows.csv", index=False)
    command = ["train", "--target", target, "--bank", str(tmp_path / "bank")]
    command += ["--interactions", str(tmp_path / "rows.csv"), "--out", str(tmp_path / "out")]
    start = [*command, "--warm-start", source, "--warm-start-by", "procrustes"]
    assert main([*start, "--option", "scale=false", "--untrained"]) == 0
    assert "adapter linear by procrustes, not trained" in capsys.readouterr().out
    adapter = PumaAdapter.from_pretrained(tmp_path / "out" / "adapter")
    assert adapter.config.architecture == "linear" and adapter.config.trained_on.sources[0].users == 40
    lms = [PersonalizedLM.from_pretrained(folder) for folder in (source, target)]
    expected = procrustes(*(lm.input_embeddings().numpy()[shared_tokens(lm.tokenizer, lm.tokenizer)[0]] for lm in lms))
    scaled = procrustes(
        *(lm.input_embeddings().numpy()[shared_tokens(lm.tokenizer, lm.tokenizer)[0]] for lm in lms), scale=False
    )
    weight = adapter.network.residual.weight.detach() * adapter.output_scale / adapter.input_scale[0]
    np.testing.assert_allclose(weight.numpy(), scaled, atol=1e-4)
    assert not np.allclose(weight.numpy(), expected, atol=1e-2)
    moved = ["migrate", "--adapter", str(tmp_path / "out" / "adapter"), "--bank", str(tmp_path / "bank")]
    assert main([*moved, "--out", str(tmp_path / "moved")]) == 0
    assert "without training" in (tmp_path / "out" / "adapter" / "README.md").read_text()
    capsys.readouterr()
    assert main([*command, "--untrained"]) == 2
    assert "--untrained needs --warm-start" in capsys.readouterr().err
