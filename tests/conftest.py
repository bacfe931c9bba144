"""Tiny random models of every supported family, made from transformers' own classes, and tiny tokenizers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from tests.hub_server.fixtures import api, hub, login, quick_retries  # noqa: F401  (first: see the module)

# isort: split
import datasets
import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from puma_hub import ModelSpec, PersonalizedLM, PromptBank
from puma_hub.tasks import RatingHead

if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)

# Files of 20 seconds and more. A long file that is started last leaves the other cores idle, so they come first.
LONG_FILES = (
    "test_real_models.py",
    "test_kill.py",
    "test_migration_ray.py",
    "test_pipelines.py",
    "test_packaging.py",
    "test_distributed.py",
    "test_hub_docs.py",
    "test_reproduce.py",
    "test_hub_cards.py",
    "test_bench.py",
    "test_cache_kinds.py",
    "test_serve_limits.py",
    "test_serve_ends.py",
    "test_serve_load.py",
    "test_unwritable.py",
    "test_posterior.py",
)


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config.option, "loadscopereorder"):  # pytest-xdist would start files of few tests last
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG_FILES.index(item.path.name) if item.path.name in LONG_FILES else len(LONG_FILES))


VOCABULARY = 400
_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}

# The last four are there for what they do to logits: soft-capping, scaling, an output bias, multipliers.
FAMILIES: dict[str, tuple[str, str, dict[str, object]]] = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", {}),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", {}),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", {"head_dim": 8}),
    "phi3": ("Phi3Config", "Phi3ForCausalLM", {}),
    "stablelm": ("StableLmConfig", "StableLmForCausalLM", {}),
    "gemma3": (
        "Gemma3TextConfig",
        "Gemma3ForCausalLM",
        {"head_dim": 8, "sliding_window": 6, "query_pre_attn_scalar": 8},
    ),
    "gemma2": (
        "Gemma2Config",
        "Gemma2ForCausalLM",
        {"head_dim": 8, "sliding_window": 6, "final_logit_softcapping": 2.0, "query_pre_attn_scalar": 8},
    ),
    "cohere": ("CohereConfig", "CohereForCausalLM", {"logit_scale": 0.25}),
    "phi": ("PhiConfig", "PhiForCausalLM", {}),
    "granite": ("GraniteConfig", "GraniteForCausalLM", {"logits_scaling": 4.0, "embedding_multiplier": 3.0}),
}
NAMED_FAMILIES = ("llama", "qwen2", "qwen3", "phi3", "stablelm", "gemma3")

_CORPUS = [
    "Movie: Toy Story (1995), Animation. Rating from 1 to 5 by viewer: 4",
    "Movie: A rather long title about nothing at all (1999), Drama. Rating from 1 to 5 by viewer: 2 3 1 5",
    "Headline: the market opened. Would the reader open it? Yes or No: Yes No",
]

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message.role }}|>{{ message.content | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def make_model(family: str, seed: int = 0, **changes: object) -> PreTrainedModel:
    """A tiny random model of ``family``, float32, in evaluation mode."""
    config_name, model_name, extra = FAMILIES[family]
    torch.manual_seed(seed)
    config = getattr(transformers, config_name)(**{**_SIZES, **extra, **changes})
    model = getattr(transformers, model_name)(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # larger than the usual 0.02, so that errors show
            if parameter.ndim >= 2:
                parameter.mul_(5.0)
            elif name.endswith("bias"):
                parameter.normal_()
    return model


def make_tokenizer(kind: str = "byte-level") -> PreTrainedTokenizerFast:
    """A tiny BPE tokenizer, byte-level or with SentencePiece's spelling of a space."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>" if kind == "sentencepiece" else None))
    if kind == "byte-level":
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Metaspace(prepend_scheme="never"), pre_tokenizers.Digits(individual_digits=True)]
        )
        tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
        alphabet = sorted({char for text in _CORPUS for char in text.replace(" ", "▁")} | set("0123456789\n"))
    special = ["<s>", "</s>", "<unk>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=list(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def make_interactions(users: int = 8, rows: int = 12, seed: int = 0) -> datasets.Dataset:
    """Random ratings whose level differs from user to user."""
    generator = np.random.default_rng(seed)
    taste = generator.integers(1, 6, users)
    data: dict[str, list[object]] = {name: [] for name in ("user_id", "item_id", "item_text", "label", "timestamp")}
    for user in range(users):
        for time in range(rows):
            item = int(generator.integers(0, 9))
            data["user_id"].append(f"user-{user}")
            data["item_id"].append(f"item-{item}")
            data["item_text"].append("Toy Story" + " again" * (item % 4) + f" ({1990 + item})")
            data["label"].append(float(np.clip(taste[user] + generator.integers(-1, 2), 1, 5)))
            data["timestamp"].append(time)
    return datasets.Dataset.from_dict(data)


def make_bank(
    users: int = 8, size: int = 32, length: int = 1, seed: int = 0, family: str | None = None, **provenance: object
) -> PromptBank:
    """A bank of random prompts for a model named ``source``, with the weights of ``make_model(family)`` if given."""
    spec = ModelSpec("source", size) if family is None else ModelSpec.from_model(make_model(family), "source")
    prompts = np.random.default_rng(seed).normal(size=(users, length, size)).astype(np.float32)
    ids = [f"user-{user}" for user in range(users)]
    return PromptBank.from_arrays(ids, prompts, spec, **provenance)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.fixture
def make_lm(tokenizer: PreTrainedTokenizerFast) -> Callable[..., PersonalizedLM]:
    """Build a scorer over a tiny model; keyword arguments go to :class:`PersonalizedLM`."""

    def build(family: str = "llama", seed: int = 0, **options: object) -> PersonalizedLM:
        return PersonalizedLM(make_model(family, seed), tokenizer, model_id=f"tiny/{family}-{seed}", **options)  # type: ignore[arg-type]

    return build


@pytest.fixture
def saved_lm(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Callable[..., str]:
    """Save a tiny model and its tokenizer; return the folder."""

    def save(family: str = "llama", seed: int = 0) -> str:
        folder = tmp_path / f"{family}-{seed}"
        make_model(family, seed).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return str(folder)

    return save


@pytest.fixture
def interactions() -> datasets.Dataset:
    return make_interactions()


@pytest.fixture
def bank() -> PromptBank:
    return make_bank()


@pytest.fixture
def head() -> RatingHead:
    torch.manual_seed(0)
    return RatingHead().start_at(3.0)
