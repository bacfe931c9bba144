"""Names and tags of pairs: within the Hub's rules, and one name for one pair."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from huggingface_hub.utils import validate_repo_id

from puma_hub import ModelSpec, pair_repo_id
from puma_hub.errors import ConfigurationError
from puma_hub.hub.naming import pair_tag, pair_tags, source_tag, target_tag

IDS = [
    "gpt2",
    "./gpt2",
    "org/gpt2",
    "other/gpt2",
    "org/GPT2",
    "org/gpt-2",
    "org/gpt_2",
    "org/gpt.2",
    "meta-llama/Llama-3.2-1B-Instruct",
    "HuggingFaceTB/SmolLM2-135M-Instruct",
    "org/" + "very-long-name." * 12,
    "org/" + "very-long-name." * 12 + "b",
    "/data/models/llama/",
    "/data/models/gemma",
    "../models/gemma",
    "C:\\models\\gemma",
    "~/models/llama--v2..final.git",
    "org/модель",
    "org/模型",
    "org/módel",
    "....",
    "a b\n<c>`d`|$e",
    "x-to-y",
    "\udcff",
]


def test_every_pair_has_its_own_valid_name() -> None:
    names = {}
    for source, target in itertools.product(IDS, IDS):
        name = pair_repo_id(source, target, "some-user")
        validate_repo_id(name)
        namespace, _, repository = name.partition("/")
        assert namespace == "some-user" and len(repository) <= 96 and repository.isascii()
        assert repository == pair_repo_id(source, target)
        names[name.lower()] = (source, target)  # the Hub does not tell names apart by case alone
    assert len(names) == len(IDS) ** 2


def test_names_are_readable_and_stable() -> None:
    name = pair_repo_id("HuggingFaceTB/SmolLM2-135M-Instruct", "google/gemma-3-270m")
    assert name == "puma-SmolLM2-135M-Instruct-to-gemma-3-270m-e690fc11a2bd"
    assert "/data/" not in pair_repo_id("/data/secret/llama", "org/b") and "secret" not in pair_repo_id(
        "/secret/a", "b"
    )
    long = pair_repo_id("org/" + "a" * 200, "google/gemma-3-270m")
    assert "-to-gemma-3-270m-" in long and len(long) == 96


def test_a_model_may_be_named_in_several_ways(tmp_path: Path) -> None:
    spec = ModelSpec("org/a", 8, revision="v1", fingerprint="0" * 16)
    assert pair_repo_id(spec, {"model_id": "org/b", "hidden_size": 4}) == pair_repo_id("org/a", "org/b")
    assert pair_repo_id(tmp_path, "org/b") == pair_repo_id(str(tmp_path), "org/b")
    assert pair_repo_id(["org/a"], "org/b") == pair_repo_id("org/a", "org/b")


def test_several_sources_and_their_order() -> None:
    names = {
        pair_repo_id(sources, "org/t")
        for sources in (["org/a", "org/b"], ["org/b", "org/a"], ["org/a"], ["org/a-and-b"], ["org/" + "x" * 90] * 3)
    }
    assert len(names) == 5 and all(len(name) <= 96 for name in names)
    assert pair_repo_id(["org/a", "org/b"], "org/t").startswith("puma-a-and-b-to-t-")


@pytest.mark.parametrize("arguments", [("", "b"), ("a", "  "), ([], "b"), (3, "b"), ([None], "b")])
def test_what_names_no_model_is_refused(arguments: tuple[object, object]) -> None:
    with pytest.raises(ConfigurationError):
        pair_repo_id(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("namespace", ["", "a/b", "with space", "-x", "../y"])
def test_what_is_no_namespace_is_refused(namespace: str) -> None:
    with pytest.raises(ConfigurationError, match="namespace"):
        pair_repo_id("a", "b", namespace)


def test_tags() -> None:
    tags = pair_tags(["org/A b", "org/c"], "org/t")
    assert tags == [
        *("puma-hub", "soft-prompt", "prompt-migration", "from-a-b", "from-c", "to-t"),
        *(source_tag("org/A b"), source_tag("org/c"), target_tag("org/t"), pair_tag(["org/A b", "org/c"], "org/t")),
    ]
    exact = {tag for name in IDS for tag in (source_tag(name), target_tag(name), pair_tag(name, "t"))}
    assert len(exact) == 3 * len(IDS)
    assert pair_tag("org/a", "org/t") == pair_tag([ModelSpec("org/a", 3)], "org/t")
