"""Pipelines: registration in any order, and migration with the bits of ``adapter.migrate``."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from transformers import pipeline
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines.pt_utils import KeyDataset

from puma_hub import ModelSpec, PromptBank, PumaAdapter
from puma_hub.errors import BankError, CheckpointError, ConfigurationError, MismatchError
from puma_hub.pipelines import TASKS
from tests.conftest import make_bank
from tests.fresh_python import python
from tests.test_adapter import make_adapter

# Registration

CHECK = (
    "\nfrom transformers.pipelines import PIPELINE_REGISTRY as R, check_task\n"
    "from transformers import AutoConfig\n"
    "assert {'prompt-migration', 'personalized-scoring', 'personalized-text-generation'} <= set(R.supported_tasks)\n"
    "assert check_task('prompt-migration')[1]['impl'].__name__ == 'PromptMigrationPipeline'\n"
    "assert type(AutoConfig.for_model('puma_adapter')).__name__ == 'PumaConfig'\n"
    "import importlib, puma_hub, sys; importlib.reload(puma_hub)\n"
    "assert not [finder for finder in sys.meta_path if 'puma_hub' in type(finder).__module__]\n"
)


@pytest.mark.parametrize(
    "code",
    [
        "import puma_hub; from transformers import pipeline",
        "from transformers import pipeline\n"
        "import logging, os; before = dict(os.environ), logging.root.level, logging.getLogger('transformers').level\n"
        "import puma_hub\n"
        "assert before == (dict(os.environ), logging.root.level, logging.getLogger('transformers').level)",
        "import transformers, puma_hub; transformers.PreTrainedModel",
        "import puma_hub.pipelines",
        "from puma_hub import PersonalizedLM, PromptBank",
    ],
)
def test_known_once_in_any_order(code: str) -> None:
    done = python(code + CHECK)
    assert done.returncode == 0 and "already registered" not in done.stderr, done.stderr


def test_without_pipelines_nothing_is_imported_for_them() -> None:
    code = (
        "import sys, puma_hub\nassert not {'torch', 'transformers', 'datasets'} & set(sys.modules)\n"
        "from transformers import AutoModel\n"
        "assert 'puma_hub.adapter' in sys.modules\n"
        "assert not {'transformers.pipelines', 'puma_hub.pipelines'} & set(sys.modules)\n"
        "import inspect, transformers.activations as a\n"
        "assert 'class' in inspect.getsource(a) and 'puma_hub' not in type(a.__spec__.loader).__module__"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_class_is_registered_under_its_task() -> None:
    assert {name: PIPELINE_REGISTRY.supported_tasks[name]["impl"] for name in TASKS} == TASKS


# Migration


@pytest.fixture(params=["seed", "paper", "linear"])
def adapter(request: pytest.FixtureRequest) -> PumaAdapter:
    return make_adapter(request.param, prompt_length=2)


def same(first: Any, second: Any) -> bool:
    return first.dtype == np.float32 and first.shape == second.shape and bool((first == second).all())


def all_same(results: Iterable[Any], expected: np.ndarray) -> bool:
    given = list(results)
    return len(given) == len(expected) and all(map(same, given, expected))


@pytest.mark.parametrize("users", [1, 3, 40])
def test_migration_gives_the_same_bits_however_prompts_are_given(adapter: PumaAdapter, users: int) -> None:
    bank = make_bank(users, length=2)
    expected = adapter.migrate(bank).prompts
    pipe = pipeline("prompt-migration", model=adapter, device="cpu")
    migrated = pipe(bank)
    assert isinstance(migrated, PromptBank) and migrated.user_ids == bank.user_ids
    assert same(migrated.prompts, expected) and migrated.provenance.made_by == "migrated"
    from_rows = pipe(bank.dataset)
    assert isinstance(from_rows, PromptBank) and same(from_rows.prompts, expected)
    prompts = np.array(bank.prompts)
    assert same(pipe(prompts), expected) and same(pipe(torch.from_numpy(prompts)), expected)
    assert same(pipe(prompts.astype(np.float64), batch_size=2), expected)
    for batch_size in (None, 1, 3):
        assert all_same(pipe(list(prompts), batch_size=batch_size), expected)
        assert all_same(pipe((prompt for prompt in prompts), batch_size=batch_size), expected)
    assert all_same(pipe(KeyDataset(bank.dataset, "prompt"), batch_size=2), expected)
    assert all_same(pipe(prompts.tolist()), expected)
    assert all(same(pipe(prompt), one) for prompt, one in zip(prompts, expected))
    whole, one = pipe([prompts, prompts[0]])
    assert same(whole, expected) and same(one, expected[0])


def test_migration_from_a_folder(tmp_path: Path) -> None:
    adapter, bank = make_adapter(), make_bank()
    adapter.save_pretrained(tmp_path / "adapter")
    pipe = pipeline("prompt-migration", model=str(tmp_path / "adapter"), batch_size=3)
    assert same(pipe(bank).prompts, adapter.migrate(bank).prompts) and pipe.dtype == torch.float32
    half = pipeline("prompt-migration", model=tmp_path / "adapter", dtype="bfloat16", device=-1)
    loaded = PumaAdapter.from_pretrained(tmp_path / "adapter", dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16 and same(half(bank).prompts, loaded.migrate(bank).prompts)
    assert "PumaAdapter" in repr(pipe)


def test_migration_of_several_sources() -> None:
    adapter = make_adapter(sources=[ModelSpec("source", 32), ModelSpec("other", 16)])
    other = PromptBank.from_arrays(
        make_bank().user_ids, np.array(make_bank(size=16, seed=1).prompts), ModelSpec("other", 16)
    )
    expected = adapter.migrate([make_bank(), other]).prompts
    pipe = pipeline("prompt-migration", model=adapter)
    assert same(pipe([make_bank(), other]).prompts, expected)
    assert same(pipe([make_bank().dataset, other.dataset]).prompts, expected)
    assert same(pipe(np.concatenate([make_bank().prompts, other.prompts], -1)), expected)
    with pytest.raises(MismatchError, match="takes 2 bank"):
        pipe(make_bank())


def test_migration_streams() -> None:
    read = []

    def prompts() -> Any:
        for number in range(6):
            read.append(number)
            yield np.zeros((1, 32), np.float32)

    results = pipeline("prompt-migration", model=make_adapter())(prompts(), batch_size=2)
    assert read == [] and next(results).shape == (1, 24) and read == [0, 1]
    assert len(list(results)) == 5


BAD: list[tuple[Callable[[Any], Any], type[Exception], str]] = [
    (lambda pipe: pipe(np.zeros((1, 31))), MismatchError, r"takes prompts \(1, 32\)"),
    (lambda pipe: pipe(np.zeros(32 * 2)), MismatchError, r"got \(64,\)"),
    (lambda pipe: pipe([np.zeros((1, 32)), np.zeros((2, 32))]), MismatchError, "input 1: "),
    (lambda pipe: pipe([np.full((1, 32), np.nan)]), BankError, "input 0: .*NaN"),
    (lambda pipe: pipe(["user-7"]), BankError, "input 0: a prompt must be an array of numbers, got str$"),
    (lambda pipe: pipe(make_bank(size=16)), MismatchError, "hidden size 16"),
    (lambda pipe: pipe(make_bank(length=2)), MismatchError, "length 1"),
    (lambda pipe: pipe(datasets.Dataset.from_dict({"user_id": ["a"]})), BankError, "lack prompt"),
    (lambda pipe: pipe(make_bank(size=16).dataset), BankError, "column 'prompt'"),
    (lambda pipe: pipe(7), ConfigurationError, "got int"),
    (lambda pipe: pipe([], batch_size=0), ConfigurationError, "batch_size must be"),
    (lambda pipe: pipe(make_bank(), batch_size="8"), ConfigurationError, "batch_size must be"),
    (lambda pipe: pipe(np.zeros((1, 32)), tempreature=1), ConfigurationError, "no argument tempreature"),
    (lambda pipe: pipe.save_pretrained("x"), ConfigurationError, "but its parts can"),
    (lambda pipe: pipe.push_to_hub("x"), ConfigurationError, "but its parts can"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_migration_errors(call: Callable[[Any], Any], error: type[Exception], message: str) -> None:
    pipe = pipeline("prompt-migration", model=make_adapter())
    assert pipe([]) == [] and pipe(()) == []
    with pytest.raises(error, match=message) as caught:
        call(pipe)
    assert "user-7" not in str(caught.value)


def test_models_that_cannot_migrate(tmp_path: Path, saved_lm: Callable[..., str]) -> None:
    with pytest.raises(ConfigurationError, match="got Linear"):
        pipeline("prompt-migration", model=torch.nn.Linear(1, 1))
    with pytest.raises(ConfigurationError, match=r"given in torch.float32"):
        pipeline("prompt-migration", model=make_adapter(), dtype=torch.float16)
    with pytest.raises(CheckpointError, match="llama-0"):
        pipeline("prompt-migration", model=saved_lm("llama"))
    make_adapter().save_pretrained(tmp_path / "adapter")
    with pytest.raises(ConfigurationError, match="runs no code"):
        pipeline("prompt-migration", model=str(tmp_path / "adapter"), trust_remote_code=True)
    weights = tmp_path / "adapter" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cannot load an adapter"):
        pipeline("prompt-migration", model=str(tmp_path / "adapter"))
