"""One short run of the real models: exact scoring in float32, and every step of the demo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from puma_hub import PersonalizedLM
from puma_hub.demo.fetch import fetch
from puma_hub.identity import fingerprint

pytestmark = pytest.mark.xdist_group("real models")  # one worker fetches them, once

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
        leading = list(lm._encoder.leading)
        ids = [lm.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (before, after)]
        prompt = prompts[i].detach().requires_grad_()
        whole = torch.cat([embed(torch.tensor(leading + ids[0])), prompt, embed(torch.tensor(ids[1]))])[None]
        expected = plain(inputs_embeds=whole, use_cache=False).logits[0, -1, lm.answer_ids]
        (expected_gradient,) = torch.autograd.grad(expected.sum(), prompt)
        assert (logits[i] - expected).abs().max() <= 1e-4
        assert (gradient[i] - expected_gradient).abs().max() <= 1e-4 * max(1.0, float(expected_gradient.abs().max()))
    assert fingerprint(plain) == fingerprint(plain.to(torch.bfloat16)) == lm.spec.fingerprint


def test_a_short_demo(tmp_path: Path) -> None:
    report_file = tmp_path / "report.json"
    arguments = [
        "demo",
        "--users",
        "12",
        "--rows-per-user",
        "20",
        "--out",
        str(tmp_path / "demo"),
        "--json",
        str(report_file),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "puma_hub.cli.main", *arguments], capture_output=True, text=True, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(report_file.read_text())
    names = {"source", "migrated", "random", "retrained", "user_mean", "user_item_bias", "global_mean"}
    assert set(report["rmse"]) == set(report["mae"]) == names
    assert set(report["seconds"]) >= {"source", "selection", "adapter", "migration", "retraining"}
    assert set(report["unseen"]) >= {"source", "source_mean", "migrated", "migrated_mean", "shuffled", "retention"}
    assert report["users"] == {"total": 12, "selected": 1}
    assert report["flops"]["retraining"] > report["flops"]["adapter"] > 0
    assert f"{report['rmse']['migrated']:.4f}" in done.stdout
    assert {path.name for path in (tmp_path / "demo").iterdir()} >= {
        "adapter",
        "source-bank",
        "migrated-bank",
        "report.json",
    }
