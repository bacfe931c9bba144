"""Cards of banks: stable, plain, complete, warning of what is public, and with snippets that run."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from huggingface_hub import DatasetCard, HfApi

from puma_hub import ClickTask, ModelSpec, PromptBank
from puma_hub.bank.card import bank_card
from puma_hub.errors import ConfigurationError
from puma_hub.hub.naming import bank_tags
from puma_hub.tasks import RatingHead
from tests.conftest import make_bank
from tests.hub_server import HubServer
from tests.test_hub_adapters import SOURCE, pair_adapter
from tests.test_hub_banks import MODEL, NAME, full_bank
from tests.test_hub_cards import HOSTILE, printable


def test_card_is_stable_and_plain_yaml(head: RatingHead) -> None:
    texts = {str(bank_card(full_bank(head=head), NAME, "cc-by-4.0")) for _ in range(3)}
    assert len(texts) == 1
    text = texts.pop()
    assert "!!python" not in text
    assert not re.search(r"\{\{|\}\}|\{%|None", text.replace("{Don't", "").replace("LLMs},", ""))
    data = yaml.safe_load(text.split("---")[1])
    assert data["license"] == "cc-by-4.0" and data["tags"] == bank_tags(MODEL) and data["tags"][0] == "puma-hub"
    assert data["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*.parquet"}]
    known = {"model_id": "org/llama-1b", "hidden_size": 32, "revision": "v1", "fingerprint": "a" * 16}
    facts = {"prompt_length": 3, "task": "rating", "made_by": "trained", "users": 8, "format_version": 1}
    assert data["puma_hub"] == {"model": known, **facts}
    assert DatasetCard(text).data.license == "cc-by-4.0"


def test_card_tells_what_it_should(head: RatingHead) -> None:
    text = str(bank_card(full_bank(head=head), NAME, "cc-by-4.0"))
    parts = (
        "a" * 16,
        "`v1`",
        "8 users",
        "float32, 3 x 32",
        "`age`, `notes`",
        "`rating: 1, 2, 3, 4, 5`",
        "yes",
        "<user>",
    )
    for part in (*parts, "trained on the LLM named here", "`org/old`", '"seed": 1', "arXiv"):
        assert part in text, part
    for heading in ("How to use it", "Where the prompts come from", "Limits", "Privacy", "License", "Citation"):
        assert f"\n## {heading}\n" in text
    assert "personal data" in text and "This bank is public" not in text and "user-" not in text
    assert "> **This bank is public.** Anyone can read" in str(bank_card(full_bank(), NAME, public=True))
    plain = str(bank_card(make_bank(task=ClickTask()), NAME))
    assert "license" not in yaml.safe_load(plain.split("---")[1]) and "stated no license" in plain
    assert "not recorded" in plain and "publisher's own" not in plain and "`click: " in plain


def test_card_of_a_migrated_bank_tells_the_way() -> None:
    bank = PromptBank.from_arrays(["a"], make_bank(1).prompts, SOURCE, made_by="trained", details={"rows": 7})
    text = str(bank_card(pair_adapter().migrate(bank), NAME))
    rows = [line for line in text.splitlines() if re.match(r"\| \d", line)]
    assert len(rows) == 2 and "`org/llama-1b`" in rows[0] and '"rows": 7' in rows[0]
    assert "migrated by an adapter" in rows[1] and "`org/gemma-2b`" in rows[1] and "users_left_out" in rows[1]


@pytest.mark.parametrize("name", HOSTILE)
def test_no_text_from_elsewhere_becomes_markup(name: str) -> None:
    spec = ModelSpec(printable(name), 32, revision=printable(name), fingerprint=printable(name))
    facts = {"template": f"{name.replace('<', '(')} <user>", "made_by": printable(name), "details": {name: [name]}}
    history = ({"made_by": name, "model": {"model_id": name}, "details": {"x": name}}, {"model": name, "details": 3})
    bank = make_bank(2).with_provenance(model=spec, history=history, **facts)
    bank = PromptBank(bank.dataset.add_column(name.replace("\x00", ""), [1, 2]), bank.provenance)
    text = str(bank_card(bank, "user/repo", public=True))
    card = DatasetCard(text)  # the metadata are still one block
    assert card.data["puma_hub"]["users"] == 2 and card.data["configs"][0]["config_name"] == "default"
    outside = re.sub(r"```.*?```", "", card.text, flags=re.S)  # what is not in a fence
    benign = DatasetCard(str(bank_card(full_bank(), "user/repo", public=True))).text
    assert len(re.findall(r"^##? ", outside, re.M)) == len(re.findall(r"^##? ", benign, re.M))
    outside = re.sub(r"`[^`\n]*`", "", outside)  # nor in a code span
    assert "`" not in outside and "<" not in outside and "](" not in outside
    assert "javascript" not in outside and "evil" not in outside and "import os" not in outside
    assert "\x1b" not in text and "\u202e" not in text and "\x00" not in text
    for snippet in re.findall(r"```python\n(.*?)```", card.text, re.S):
        compile(snippet, "card", "exec")


def test_a_folder_tells_no_path() -> None:
    spec, path = ModelSpec("/home/somebody/llama", 32), "/home/somebody/llama"
    step = {"made_by": "given", "model": spec.to_dict(), "details": {"adapter": {"sources": [path]}}}
    bank = make_bank(2).with_provenance(model=spec, history=(step,), details={"from": path})
    assert "somebody" not in str(bank_card(bank, NAME)) and "llama@" in str(bank_card(bank, NAME))


@pytest.mark.parametrize("license", ["my own", "MIT\nlicense: x", "<b>"])
def test_a_license_is_an_identifier(hub: HubServer, login: Callable[..., None], license: str) -> None:
    login("alice")
    with pytest.raises(ConfigurationError, match="license"):
        full_bank().push_to_hub(NAME, license=license)
    assert not HfApi().repo_exists(NAME, repo_type="dataset")


def test_the_cards_snippets_run_as_they_stand(hub: HubServer, login: Callable[..., None], tmp_path: Path) -> None:
    login("alice")
    full_bank().push_to_hub("lab/bank")
    found = HfApi().list_datasets(filter=bank_tags(MODEL)[-1])
    assert [info.id for info in found] == ["lab/bank"]
    text = DatasetCard.load("lab/bank").text
    login("bob")  # who may read what is the lab's
    hub.empty_cache()
    snippets = re.findall(r"```(python|bash)\n(.*?)```", text, re.S)
    script = "\n".join(code for language, code in snippets if language == "python")
    script += "\nassert some.user_ids == bank.user_ids[:2] and len(rows) == len(bank) == 8\n"
    command = next(code for language, code in snippets if language == "bash" and "info" in code).split()
    assert command[0] == "puma-hub"
    script += f"from puma_hub.cli.main import main\nassert main({command[1:]}) == 0\n"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("(3, 32)\n" * 2), done.stderr
    assert '"users": 8' in done.stdout, done.stdout
