"""One short run of the real models: exact scoring, every step of the demo, and its results on the Hub and back."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, pipeline

from puma_hub import PersonalizedLM, PromptBank, PumaAdapter, pair_repo_id
from puma_hub.adapter.facts import AdapterFacts
from puma_hub.cli.main import main
from puma_hub.demo.fetch import fetch
from puma_hub.errors import HubNotFoundError
from puma_hub.identity import fingerprint
from puma_hub.scorer.tokens import leading_tokens
from tests.hub_server import HubServer

ROWS = [
    {"item_text": "Toy Story (1995), Animation, Children's, Comedy\nRating by all users: 3.9"},
    {"item_text": "Heat (1995)"},
    {"item_text": "Dr. Strangelove or: How I Learned to Stop Worrying and Love the Bomb (1963), Sci-Fi, War"},
]


@pytest.mark.parametrize("name", ["smollm2-135m", "gemma-3-270m"])
def test_logits_and_gradients_of_the_real_models(name: str) -> None:
    folder = str(fetch(name))
    lm = PersonalizedLM.from_pretrained(folder, dtype="float32", prefix_cache="full")
    noise = torch.randn(3, 1, lm.hidden_size, generator=torch.Generator().manual_seed(0))
    prompts = (lm.word_prompt(1) + 0.1 * lm.embedding_rms * noise).requires_grad_()
    logits = lm.logits(prompts, ROWS)
    (gradient,) = torch.autograd.grad(logits.sum(), prompts)

    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)
    embed = plain.get_input_embeddings()
    for i, row in enumerate(ROWS):
        before, after = lm.template.render(row)
        leading = list(leading_tokens(lm.tokenizer))
        ids = [lm.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (before, after)]
        prompt = prompts[i].detach().requires_grad_()
        whole = torch.cat([embed(torch.tensor(leading + ids[0])), prompt, embed(torch.tensor(ids[1]))])[None]
        expected = plain(inputs_embeds=whole, use_cache=False).logits[0, -1, lm.answer_ids]
        (expected_gradient,) = torch.autograd.grad(expected.sum(), prompt)
        assert (logits[i] - expected).abs().max() <= 1e-4
        assert (gradient[i] - expected_gradient).abs().max() <= 1e-4 * max(1.0, float(expected_gradient.abs().max()))
    assert fingerprint(plain) == fingerprint(plain.to(torch.bfloat16)) == lm.spec.fingerprint


@dataclass(frozen=True)
class ShortDemo:
    """What a demo of 12 users left, printed and said on the way."""

    folder: Path
    report: dict[str, Any]
    printed: str
    said: str


# Most of the demo's time is reading texts: of 40 items in place of 200 they are a quarter.
FEW_TEXTS = """
from puma_hub.demo import settings
settings._POPULAR = 40
from puma_hub.cli.main import entry
entry()
"""


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> ShortDemo:
    folder = tmp_path_factory.mktemp("demo")
    arguments = ["demo", "--users", "12", "--rows-per-user", "20", "--out", str(folder / "out")]
    done = subprocess.run(
        [sys.executable, "-c", FEW_TEXTS, *arguments, "--json", str(folder / "report.json")],
        capture_output=True,
        text=True,
        env=dict(os.environ),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return ShortDemo(folder / "out", json.loads((folder / "report.json").read_text()), done.stdout, done.stderr)


def test_a_short_demo(demo: ShortDemo) -> None:
    report = demo.report
    names = {"source", "teacher", "migrated", "random", "retrained", "user_mean", "user_item_bias", "global_mean"}
    names |= {"matrix_factorization"} & set(report["rmse"])  # where its package is installed
    assert set(report["rmse"]) == set(report["mae"]) == names
    assert set(report["seconds"]) >= {"source", "selection", "adapter", "migration", "retraining"}
    assert set(report["unseen"]) >= {"source", "source_mean", "migrated", "migrated_mean", "shuffled", "retention"}
    assert set(report["other_bank"]) == set(report["unseen"])
    assert set(report) >= {"speedup", "models", "seed", "versions"}
    assert report["users"] == {"total": 12, "selected": 2}
    assert report["flops"]["retraining"] > report["flops"]["adapter"] > 0
    assert f"{report['rmse']['migrated']:.4f}" in demo.printed
    left = {path.name for path in demo.folder.iterdir()}
    assert left >= {
        "adapter",
        "source-bank",
        "migrated-bank",
        "report.json",
        "demo.png",
        "report.html",
        "migration.json",
    }
    unseen = json.loads((demo.folder / "migration.json").read_text())
    assert unseen["users"] + unseen["users_without_rows"] == 10 and unseen["users"] == report["unseen"]["users"]
    assert unseen["retention"] == report["unseen"]["retention"]
    assert unseen["cost"]["training"]["users"] == 2 and unseen["lineage"][-1]["model"] == report["models"]["target"]


def test_what_the_demo_says_on_the_way(demo: ShortDemo) -> None:
    """One line a stage in their order, and no progress bar of a library."""
    stages = re.findall(r"^\[(\d)/8\] .+$", demo.said, re.MULTILINE)
    assert stages == list("12345678")
    assert re.search(r"^\[8/8\] .+ \(about \d+ (s|min) left\)$", demo.said, re.MULTILINE)
    assert not re.search(r"Saving the dataset|Writing model shards|Loading weights|de-quantizing|it/s|\d%\|", demo.said)


def test_the_demos_card_has_the_figures_of_its_report(demo: ShortDemo) -> None:
    facts = AdapterFacts.read(demo.folder / "adapter")
    assert facts is not None
    all_users, unseen, apart = facts.evaluations
    assert {name: figures["rmse"] for name, figures in all_users.metrics.items()} == demo.report["rmse"]
    assert (all_users.own_source_bank, unseen.own_source_bank, apart.own_source_bank) == (True, True, False)
    for evaluation, told in ((unseen, demo.report["unseen"]), (apart, demo.report["other_bank"])):
        assert evaluation.retention == told["retention"]
        assert evaluation.metrics["source_mean"]["rmse"] == told["source_mean"]


def test_the_demos_adapter_and_bank_serve_somebody_else(
    demo: ShortDemo, hub: HubServer, login: Callable[..., None]
) -> None:
    login("alice")
    for arguments in (["adapter"], ["source-bank", "alice/old", "--public"], ["migrated-bank", "alice/new"]):
        assert main(["push", str(demo.folder / arguments[0]), *arguments[1:]]) == 0

    login("bob")
    hub.empty_cache()
    with pytest.raises(HubNotFoundError, match="alice/new"):  # private, as banks are
        PromptBank.from_pretrained("alice/new")
    source, target = (demo.report["models"][name] for name in ("source", "target"))
    adapter = PumaAdapter.from_pair(source, target)
    bank, expected = PromptBank.from_pretrained("alice/old"), PromptBank.from_pretrained(demo.folder / "migrated-bank")
    name = pair_repo_id(source, target, "alice")
    for migrated in (adapter.migrate(bank), pipeline("prompt-migration", model=name)(bank)):
        assert migrated.user_ids == expected.user_ids and np.array_equal(migrated.prompts, expected.prompts)

    folder = str(fetch("gemma-3-270m"))
    rows = [{"user_id": user, **row} for user, row in zip(expected.user_ids, ROWS)]
    scored = pipeline("personalized-scoring", model=folder, bank="alice/old", adapter=name, dtype="float32")(rows)
    lm = PersonalizedLM.from_pretrained(folder, template=expected.provenance.template, dtype="float32")
    assert expected.head is not None
    with torch.no_grad():
        ratings = expected.head(lm.logits(torch.from_numpy(expected.prompts[: len(ROWS)].copy()), ROWS))
    assert [row["score"] for row in scored] == pytest.approx(ratings.tolist(), abs=1e-5)
