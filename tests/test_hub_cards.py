"""Cards of adapters: stable, plain, complete, and with snippets that run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from puma_hub import ModelSpec, PromptBank
from puma_hub.adapter.card import adapter_card
from puma_hub.adapter.facts import FACTS_FILE, AdapterFacts, Evaluation, Training
from puma_hub.errors import (
    CheckpointError,
    ConfigurationError,
)
from puma_hub.hub.naming import pair_tag
from tests.hub_server import HubServer
from tests.test_hub_adapters import SOURCE, TARGET, facts, pair_adapter


def test_card_is_stable_and_plain_yaml() -> None:
    texts = {str(adapter_card(pair_adapter(), "user/repo", facts())) for _ in range(3)}
    assert len(texts) == 1
    text = texts.pop()
    assert "!!python" not in text and not re.search(
        r"\{\{|\}\}|\{%|None", text.replace("{Don't", "").replace("LLMs},", "")
    )
    data = yaml.safe_load(text.split("---")[1])
    assert data["base_model"] == ["org/llama-1b", "org/gemma-2b"] and data["base_model_relation"] == "adapter"
    assert data["library_name"] == "puma-hub" == data["tags"][0] and data["license"] == "apache-2.0"
    assert pair_tag(SOURCE, TARGET) in data["tags"]
    result = data["model-index"][0]["results"][0]
    assert result["dataset"]["split"] == "validation" and result["dataset"]["args"] == {"rows": 6000, "users": 600}
    assert result["metrics"][0]["args"] == {"predictions": "migrated"}
    assert {metric["name"] for metric in result["metrics"]} >= {"RMSE, user mean (no LLM)"}
    assert ModelCard(text).data.eval_results[0].metric_value == pytest.approx(0.97)


def test_card_tells_what_it_should() -> None:
    text = str(adapter_card(pair_adapter(), "user/repo", facts()))
    for part in ("a" * 16, "b" * 16, "`v1`", "60 of 600 users", "`puma`", "5.5 times the time", "8.0 times the FLOPs"):
        assert part in text
    for heading in (
        "How to use it",
        "Evaluation",
        "Training",
        "Intended use",
        "Limits",
        "Privacy",
        "License",
        "Citation",
    ):
        assert f"\n## {heading}\n" in text
    assert "personal data" in text and "obligations of `org/llama-1b` and of `org/gemma-2b`" in text
    unknown = str(adapter_card(pair_adapter(), "user/repo"))
    assert "license" not in yaml.safe_load(unknown.split("---")[1]) and "stated no license" in unknown
    assert "No evaluation was reported" in unknown


HOSTILE = [
    "org/<script>alert(1)</script>",
    "org/a\n---\n# title\n---",
    "org/`code` | cell",
    "org/[x](javascript:1) ![y](http://evil/y.png)",
    'org/"); import os; ("',
    "org/{{ config }}{% for x in y %}",
    "org/\u202egnp.exe\x00\x1b[31m",
    "/home/somebody/models/llama",
]


def printable(name: str) -> str:
    """What a ModelSpec takes of it."""
    return "".join(filter(str.isprintable, name))


@pytest.mark.parametrize("name", HOSTILE)
def test_no_text_from_elsewhere_becomes_markup(name: str) -> None:
    adapter = pair_adapter(
        sources=[replace(SOURCE, model_id=printable(name))], template=f"{name.replace('<', '(')} <user>"
    )
    evaluation = Evaluation(name, name, 10, 2, {"migrated": {"rmse": 1.0}})
    known = AdapterFacts((evaluation,), Training(2, selection=name, data=name), intended_use=f"{name}\n```\n# {name}")
    text = str(adapter_card(adapter, "user/repo", known))
    card = ModelCard(text)  # the metadata are still one block
    assert card.data.base_model == ["org/gemma-2b"] and card.data["puma_hub"]["target"]["model_id"] == "org/gemma-2b"
    benign = str(adapter_card(pair_adapter(), "user/repo", known))
    assert re.findall(r"^#.*", card.text, re.M)[1:] != [] and "somebody" not in card.text.split("## Evaluation")[0]
    assert len(re.findall(r"^## ", card.text, re.M)) == len(re.findall(r"^## ", ModelCard(benign).text, re.M))
    outside = re.sub(r"```.*?```", "", card.text, flags=re.S)  # what is not in a fence
    outside = re.sub(r"`[^`\n]*`", "", outside)  # nor in a code span
    assert "`" not in outside and "<" not in outside and "](" not in outside
    assert "javascript" not in outside and "evil" not in outside and "import os" not in outside
    assert "\x1b" not in text and "\u202e" not in text and "\x00" not in text
    for snippet in re.findall(r"```python\n(.*?)```", card.text, re.S):
        compile(snippet, "card", "exec")


@pytest.mark.parametrize("license", ["my own", "MIT\nlicense: x", "<b>", "лиц"])
def test_a_license_is_an_identifier(license: str) -> None:
    with pytest.raises(ConfigurationError, match="license"):
        AdapterFacts(license=license)


def test_facts_round_trip_and_refuse(tmp_path: Path) -> None:
    facts().write(tmp_path)
    assert AdapterFacts.read(tmp_path) == facts() and AdapterFacts.read(tmp_path / "none") is None
    data = json.loads((tmp_path / FACTS_FILE).read_text())
    assert AdapterFacts.from_dict({**data, "from_the_future": 1}) == facts()
    for broken in ({"evaluations": [{"dataset": "x"}]}, {"evaluations": 3}, {"training": {}, "evaluations": [[]]}):
        (tmp_path / FACTS_FILE).write_text(json.dumps(broken))
        with pytest.raises(CheckpointError, match="malformed"):
            AdapterFacts.read(tmp_path)
    for metrics in (
        {"source": {"rmse": 1.0}},
        {"migrated": {"rmse": float("nan")}},
        {"migrated": {"rmse": 1.0}, "x": {}},
    ):
        with pytest.raises(ConfigurationError):
            Evaluation("d", "s", 1, 1, metrics)
    report = {"rows": 5, "users": 2, "metrics": {"rmse": 1.0}, "baselines": {"user_mean": {"rmse": 1.1}}}
    assert Evaluation.from_reports("d", "s", {"migrated": report}).metrics["user_mean"] == {"rmse": 1.1}
    with pytest.raises(ConfigurationError, match="same rows"):
        Evaluation.from_reports("d", "s", {"migrated": report, "source": {**report, "rows": 6}})
    with pytest.raises(ConfigurationError, match="compare"):
        Evaluation.from_comparison("d", "s", report)


# The card's own snippets


@pytest.mark.parametrize("sources", [[SOURCE], [SOURCE, ModelSpec("org/phi", 8)]])
def test_the_cards_snippets_run_as_they_stand(
    hub: HubServer, login: Callable[..., None], tmp_path: Path, sources: list[ModelSpec]
) -> None:
    login("alice")
    commit = pair_adapter(sources=sources).push_to_hub()
    text = ModelCard.load(commit.repo_url.repo_id).text
    login("bob")
    hub.empty_cache()
    snippets = re.findall(r"```(python|bash)\n(.*?)```", text, re.S)
    python = "\n".join(code for language, code in snippets if language == "python")
    assert python.count("PumaAdapter.from_pretrained") == 1 == python.count("PumaAdapter.from_pair")
    command = next(code for language, code in snippets if language == "bash" and "migrate" in code).split()
    assert command[0] == "puma-hub"
    script = (
        f"{python}\nassert target_bank['user-1'].shape == (1, 24), target_bank\n"
        f"from puma_hub.cli.main import main\nassert main({command[1:]}) == 0\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert PromptBank.from_pretrained(tmp_path / "target-bank").model.model_id == "org/gemma-2b"


def test_how_it_does_on_a_bank_it_was_not_trained_on() -> None:
    adapter = pair_adapter()
    side = {"metric": "rmse", "own": 1.0, "mean": 1.1, "shuffled": None, "rows": 9}
    report = {"source": side, "target": {**side, "own": 1.02}, "users": 3}
    for own, apart, missing in ((False, 1, 0), (True, 0, 1), (None, 0, 1)):
        evaluation = Evaluation.from_comparison("ratings", "validation", {**report, "own_source_bank": own})
        assert evaluation.retention == pytest.approx(0.8)
        facts = AdapterFacts.from_dict(AdapterFacts((evaluation,)).to_dict())
        card = str(adapter_card(adapter, "me/repo", facts))
        assert card.count("On a bank that it was not trained on**, whose prompts were trained apart") == apart
        assert card.count("on a bank that it was not trained on was not reported") == missing
