"""What a path or an id holds is recognised, and told where it is neither a bank nor an adapter."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from puma_hub import PromptBank
from puma_hub.bank.description import BankDescription
from puma_hub.bank.folder import write_contents
from puma_hub.bank.publish import describe
from puma_hub.cli import common
from puma_hub.demo.sources import MODELS
from puma_hub.errors import StorageError
from puma_hub.identity import fingerprint
from puma_hub.storage.contents import contents, is_bank
from tests.conftest import make_bank, make_model
from tests.hub_server import HubServer
from tests.test_adapter import make_adapter
from tests.test_hub_cli import error_of, report_of


def downloaded(folder: Path, bank: PromptBank) -> Path:
    """The files that a bank's repository holds."""
    folder.mkdir()
    write_contents(folder, bank, BankDescription(bank.provenance, len(bank), 2, bank.head is not None))
    describe(folder, bank, "alice/bank", 2, None, False)
    return folder


def test_a_downloaded_bank_is_a_bank_everywhere(
    hub: HubServer, login: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bank = make_bank(5)
    folder = downloaded(tmp_path / "downloaded", bank)
    bank.save_pretrained(tmp_path / "saved")
    assert is_bank(folder) and is_bank(tmp_path / "saved") and not is_bank(tmp_path)
    assert common.model_of(str(folder)) == bank.model == common.model_of(str(tmp_path / "saved"))
    for path in (folder, tmp_path / "saved"):
        report = report_of(tmp_path, "info", path)
        assert report["kind"] == "bank" and report["users"] == 5
    login("alice")
    report = report_of(tmp_path, "push", folder, "alice/bank")
    assert report["kind"] == "bank"
    again = PromptBank.from_pretrained("alice/bank")
    assert np.array_equal(again.select(bank.user_ids).prompts, bank.prompts)
    assert "whose card" in error_of(capsys, "card", folder, status=2)


def test_other_contents_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places: dict[str, str] = {}
    for name, files, told in (
        ("empty", {}, "empty"),
        ("model", {"config.json": '{"model_type": "llama"}'}, "a model of type 'llama'"),
        ("escapes", {"config.json": json.dumps({"model_type": "\x1b[2J"})}, r"'\x1b[2J'"),
        ("broken", {"config.json": "{"}, "cannot be read"),
        ("table", {"ratings.csv": "a,b\n"}, "data set"),
        ("code", {"a.py": "", "b.py": "", "c.py": "", "d.py": ""}, "'a.py', 'b.py', 'c.py', ..."),
    ):
        (tmp_path / name).mkdir()
        for file, text in files.items():
            (tmp_path / name / file).write_text(text)
        places[name] = told
    make_bank(2).save_pretrained(tmp_path / "run" / "bank")
    (tmp_path / "file").write_text("x")
    places |= {"run": "one in 'bank'", "file": "a file"}
    for name, told in places.items():
        for command in ("info", "push", "card"):
            line = error_of(capsys, command, tmp_path / name)
            assert told in line and str(tmp_path / name) in line, line
    make_adapter().save_pretrained(tmp_path / "adapter")
    assert contents(tmp_path / "adapter").kind == "adapter" and contents(tmp_path / "none").kind is None
    assert report_of(tmp_path, "info", tmp_path / "adapter")["kind"] == "adapter"


def test_info_of_what_is_on_the_hub(
    hub: HubServer, login: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    login("alice")
    hub.create_repository("alice/table", "dataset", files={"a.csv": b"a\n"})
    assert "data set without bank.json" in error_of(capsys, "info", "alice/table")
    hub.create_repository("alice/llama", files={"config.json": b'{"model_type": "llama"}'})
    assert "a model of type 'llama'" in error_of(capsys, "info", "alice/llama")
    make_bank(3).push_to_hub("alice/llama")  # a bank of the same name as a model that is no adapter
    assert report_of(tmp_path, "info", "alice/llama")["users"] == 3
    make_adapter().push_to_hub("alice/both")
    make_bank(4).push_to_hub("alice/both")
    capsys.readouterr()
    assert report_of(tmp_path, "info", "alice/both")["kind"] == "adapter"
    assert "datasets/alice/both" in capsys.readouterr().err
    assert report_of(tmp_path, "info", "datasets/alice/both")["users"] == 4
    assert "no such repository" in error_of(capsys, "info", "datasets/alice/none")


def _arguments() -> argparse.Namespace:
    facts = {"task": None, "values": None, "dtype": "float32", "device": "cpu", "prefix_cache": "off"}
    return argparse.Namespace(**facts, truncate_items=False, cache_dtype=None)


def test_fetched_models_go_by_their_hub_ids(
    saved_lm: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A pair made with them is found by the models' ids; the fingerprint is of the weights that were loaded."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("PUMA_HUB_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StorageError, match="puma-hub fetch smollm2-135m"):
        common.load_lm("smollm2-135m", _arguments(), None)
    (cache / "models").mkdir(parents=True)
    Path(saved_lm("llama")).rename(cache / "models" / "smollm2-135m")
    spec = common.load_lm("smollm2-135m", _arguments(), None).spec
    assert spec.model_id == "HuggingFaceTB/SmolLM2-135M-Instruct" == MODELS["smollm2-135m"].hub_id
    assert spec.revision == "dequantised-Q4_1-b179c9523d0e" and spec.fingerprint == fingerprint(make_model("llama"))
    # A folder of the same name is used, with a message.
    Path(saved_lm("gemma3")).rename(tmp_path / "smollm2-135m")
    spec = common.load_lm("smollm2-135m", _arguments(), None).spec
    assert (spec.model_id, spec.revision, spec.model_type) == ("smollm2-135m", None, "gemma3_text")
    assert "is a local folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", [".", "..", "smollm2-135m/", "./smollm2-135m", ".\\smollm2-135m", "models", "", "data"]
)
def test_only_exact_names_are_fetched_models(
    name: str, saved_lm: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, here = tmp_path / "cache", tmp_path / "work" / "here"
    here.mkdir(parents=True)
    monkeypatch.setenv("PUMA_HUB_CACHE", str(cache))
    monkeypatch.chdir(here)
    for place in (cache, cache / "models", cache / "models" / "smollm2-135m", cache / "models" / "models"):
        place.mkdir(exist_ok=True)
        for file in Path(saved_lm("llama")).iterdir():
            (place / file.name).write_bytes(file.read_bytes())
    asked: list[str] = []

    def from_pretrained(where: str, **options: object) -> None:
        asked.append(where)

    monkeypatch.setattr("puma_hub.scorer.PersonalizedLM.from_pretrained", from_pretrained)
    common.load_lm(name, _arguments(), None)
    assert asked == [name]
