"""Where commands write: refused before any work where it would cost the user something."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from puma_hub import PersonalizedLM, PromptBank, PumaAdapter
from puma_hub.adapter.facts import AdapterFacts
from puma_hub.bank.description import DESCRIPTION_FILE
from puma_hub.cli.main import main
from puma_hub.errors import StorageError
from tests.bad_input import Place
from tests.conftest import make_bank, make_interactions, make_model, make_tokenizer
from tests.test_storage import fill, killed

TRAIN = ["--epochs", "1", "--batch-size", "16"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a bank ``b``, an adapter ``a`` and ratings in ``r`` and ``rows.csv``."""
    made = Place(tmp_path)
    made.bank.save_pretrained(tmp_path / "b")
    made.adapter.save_pretrained(tmp_path / "a")
    (tmp_path / "r").mkdir()
    for name in ("rows.csv", "r/train.csv", "r/validation.csv"):
        make_interactions().to_csv(tmp_path / name, index=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is loaded: what would have to be is a failure."""

    def load(*args: object, **options: object) -> None:
        raise AssertionError("the work began")

    for kind in (PromptBank, PumaAdapter, PersonalizedLM):
        monkeypatch.setattr(kind, "from_pretrained", load)
    monkeypatch.setattr("puma_hub.data.load_interactions", load)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


MIGRATE = "migrate --adapter a --bank b"
CHAIN = "chain --adapter a --bank b"
CALIBRATE = "calibrate --model x/y --bank b --interactions rows.csv"
FIT = "fit --model x/y --interactions rows.csv"
TRAINED = "train --target x/y --bank b --interactions rows.csv"
SELECT = "select --bank b --interactions rows.csv"
CASES = {
    f"{MIGRATE} --out thesis": "thesis.tex",
    f"{CHAIN} --out thesis": "thesis.tex",
    f"{MIGRATE} --out noted": "README.md",
    f"{MIGRATE} --out versioned": r"\.git/",
    f"{MIGRATE} --out dataset": "did not write .*dataset_info",
    f"{MIGRATE} --out undescribed": "not a prompt bank",
    f"{MIGRATE} --out .": "current folder",
    f"{MIGRATE} --out ..": "current folder",
    f"{MIGRATE} --out /": "current folder",
    f"{MIGRATE} --out b": "an input; choose another place",
    f"{MIGRATE} --out link-to-b": "an input; choose another place",
    f"{MIGRATE} --out b/migrated": "an input; choose another place",
    f"{MIGRATE} --out a/migrated": "an input; choose another place",
    f"{MIGRATE} --out a": "did not write",
    f"{MIGRATE} --out rows.csv": "it is a file",
    f"{MIGRATE} --out rows.csv/x": "is a file",
    f"{MIGRATE} --out /proc/1/x": "cannot write to",
    f"{MIGRATE} --out new --json new/report.json": "both written",
    f"{MIGRATE} --out new/bank --json new": "both written",
    f"{MIGRATE} --out new --json thesis": "is a folder",
    f"{MIGRATE} --out new --json b/state.json": "an input; choose another place",
    f"{MIGRATE} --out new --json b/report.json": "an input; choose another place",
    f"{CHAIN} --out b": "an input; choose another place",
    f"{CALIBRATE} --out thesis": "thesis.tex",
    f"{CALIBRATE} --out b": "an input; choose another place",
    f"{FIT} --out fit": "thesis.tex",
    f"{FIT} --out worked": "no report of puma_hub",
    f"{FIT} --out new --json rows.csv": "an input; choose another place",
    f"{FIT} --out new --json new/work/report.json": "both written",
    f"{FIT} --out rows.csv": "an input; choose another place",
    "fit --model x/y --interactions r --out new --json r/train.json": "an input; choose another place",
    f"{TRAINED} --out model": "another model",
    f"{TRAINED} --out worked": "no report of puma_hub",
    f"{TRAINED} --out b": "an input; choose another place",
    f"{SELECT} --out b": "is a folder",
    f"{SELECT} --out rows.csv": "an input; choose another place",
    f"{SELECT} --out b/{DESCRIPTION_FILE}": "an input; choose another place",
    f"{SELECT} --out users.txt --json users.txt": "both written",
    "info b --json b/state.json": "an input; choose another place",
    "info b --json b": "is a folder",
    "card a --json a/README.md": "an input; choose another place",
    "demo --out demo": "thesis.tex",
    "demo --out demo2": "no report of puma_hub",
}


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("command", CASES)
def test_refused_before_any_work(place: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    fill(place / "thesis", "thesis.tex")
    fill(place / "fit" / "bank", "thesis.tex")
    fill(place / "demo" / "migrated-bank", "thesis.tex")
    fill(place / "worked" / "work", "report.json")
    fill(place / "demo2", "report.json")
    (place / "link-to-b").symlink_to("b")
    for name, added in {"noted": "README.md", "versioned": ".git/HEAD"}.items():
        make_bank().save_pretrained(place / name)
        fill(place / name, added)
    make_interactions().save_to_disk(place / "dataset")
    make_bank().save_pretrained(place / "undescribed")
    (place / "undescribed" / DESCRIPTION_FILE).unlink()
    make_model("llama").save_pretrained(place / "model" / "adapter")
    before = snapshot(place)
    capsys.readouterr()
    assert main(command.split()) in (1, 2)
    error = capsys.readouterr().err
    with pytest.raises(AssertionError, match=CASES[command]):
        raise AssertionError(error)
    assert error.count("\n") == 1 and any(word in error for word in ("choose", "move", "give")), error
    assert snapshot(place) == before
    assert not list(place.glob("new*")) and not list(place.rglob(".*writing*"))


@pytest.mark.parametrize("folder", ["new", "empty", "b2", "link", "dropped", "deep/er"])
def test_what_may_be_replaced_is(place: Path, folder: str) -> None:
    (place / "empty").mkdir()
    (place / "real").mkdir()
    (place / "link").symlink_to("real")
    for name in ("b2", "dropped"):
        make_bank(3).save_pretrained(place / name)
    fill(place / "dropped", ".DS_Store", "Thumbs.db", "._state.json", "data/.DS_Store")
    assert main([*MIGRATE.split(), "--out", folder]) == 0
    assert len(PromptBank.from_pretrained(place / folder)) == 8
    assert (place / "link").is_symlink() and not list(place.rglob(".*writing*"))


def test_a_bank_is_saved_over_itself(place: Path) -> None:
    bank = PromptBank.from_pretrained(place / "b")
    bank.remove(["user-1"]).save_pretrained(place / "b")
    assert PromptBank.from_pretrained(place / "b").user_ids == bank.remove(["user-1"]).user_ids
    assert len(bank.prompts) == 8  # still mapped, though its file is gone
    fill(place / "b", "README.md")
    with pytest.raises(StorageError, match=r"did not write \(README.md\)"):
        bank.save_pretrained(place / "b")


def test_the_cache_of_models_is_no_exception(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUMA_HUB_CACHE", str(place / "cache"))
    monkeypatch.setattr("puma_hub.demo.fetch._download", None)
    fill(place / "cache" / "models" / "smollm2-135m", "config.json", "thesis.tex")
    assert main(["fetch", "smollm2-135m"]) == 1
    assert "did not write (thesis.tex)" in capsys.readouterr().err
    assert (place / "cache/models/smollm2-135m/thesis.tex").exists()


def test_a_bank_comes_back_that_a_killed_process_had_moved_aside(place: Path) -> None:
    killed(place / "b0", "os.rename(target.parent / 'b', staged / 'was')")
    assert not (place / "b").exists()
    assert len(PromptBank.from_pretrained(place / "b0")) == 8 and os.listdir(place / "b0")


def test_an_output_beside_plain_splits(place: Path) -> None:
    """Of a folder of splits, nothing but the splits is read."""
    make_bank(8).save_pretrained(place / "r" / "bank")
    command = "select --bank b --interactions r --budget 2 --out r/users.txt --json r/report.json"
    assert [main(command.split()) for _ in range(2)] == [0, 0]
    assert json.loads((place / "r" / "report.json").read_text())["selected"] == 2


# The same training again


@pytest.fixture
def train(place: Path) -> Callable[..., int]:
    make_model("llama").save_pretrained(place / "llama")
    make_tokenizer().save_pretrained(place / "llama")

    def run(*more: str) -> int:
        command = ["train", "--target", "llama", "--bank", "b", "--interactions", "rows.csv", "--out", "m", *TRAIN]
        return main([*command, *more])

    return run


def state_facts(place: Path) -> AdapterFacts:
    """Make the card and state what training cannot know; return the facts."""
    report = {"rows": 10, "users": 5, "metrics": {"rmse": 1.0}, "baselines": {}}
    (place / "evaluation.json").write_text(json.dumps(report))
    stated = "--trained-on films --selection by-hand --license mit --intended-use fun --source org/one --target org/two"
    assert main(f"card m/adapter --evaluation evaluation.json --dataset films {stated}".split()) == 0
    facts = AdapterFacts.read(place / "m" / "adapter")
    assert facts is not None and facts.evaluations
    return facts


def test_the_same_weights_keep_all_that_was_said_of_them(
    place: Path, train: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert train() == 0
    facts = state_facts(place)
    card = (place / "m/adapter/README.md").read_text()
    capsys.readouterr()
    assert train() == 0
    assert "new weights" not in capsys.readouterr().err
    again = AdapterFacts.read(place / "m" / "adapter")
    assert again is not None and facts.training is not None and again.training is not None
    assert (again.evaluations, again.license, again.intended_use) == (facts.evaluations, "mit", "fun")
    assert again.training.data == "films"
    target = PumaAdapter.from_pretrained(place / "m/adapter").config.target
    assert target is not None and target.model_id == "org/two"
    (place / "m/adapter/README.md").write_text(card + "\nMy words.\n")
    assert train() == 0 and "new weights" not in capsys.readouterr().err
    assert (place / "m/adapter/README.md").read_text().endswith("My words.\n")


def test_new_weights_lose_their_evaluations_and_say_so(
    place: Path, train: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert train() == 0
    facts = state_facts(place)
    assert len(facts.evaluations) == 1
    (place / "m/work/training_state.safetensors").unlink()
    capsys.readouterr()
    assert train("--seed", "7") == 0
    error = capsys.readouterr().err
    assert "new weights in m/adapter: 1 evaluation(s) and what was stated of the training went" in error
    assert "edited by hand" not in error
    again = AdapterFacts.read(place / "m" / "adapter")
    assert again is not None and again.training is not None
    assert (again.evaluations, again.license, again.intended_use) == ((), "mit", "fun")
    assert again.training.seed == 7 and again.training.data is None
    card = (place / "m/adapter/README.md").read_text()
    assert "license: mit" in card and "No evaluation was reported" in card


@pytest.mark.parametrize("text", [b"# My words\n", b"", "# Zo\u00eb\n".encode("latin-1")])
def test_a_card_edited_by_hand_stays(
    place: Path, train: Callable[..., int], capsys: pytest.CaptureFixture[str], text: bytes
) -> None:
    assert train() == 0
    readme = place / "m/adapter/README.md"
    readme.write_bytes(text)
    (place / "m/work/training_state.safetensors").unlink()
    capsys.readouterr()
    assert train("--seed", "7") == 0
    assert readme.read_bytes() == text
    assert "README.md was edited by hand and stays, but may not fit any more" in capsys.readouterr().err


def test_a_card_made_by_us_is_made_anew(place: Path, train: Callable[..., int]) -> None:
    assert train() == 0
    (place / "m/work/training_state.safetensors").unlink()
    assert train("--seed", "7") == 0
    assert "seed 7" in (place / "m/adapter/README.md").read_text()


def test_a_card_beside_a_damaged_adapter_stays(place: Path, train: Callable[..., int]) -> None:
    assert train() == 0
    readme, weights = place / "m/adapter/README.md", place / "m/adapter/model.safetensors"
    card = readme.read_text()
    weights.write_bytes(weights.read_bytes()[:-100])
    assert train() == 0
    assert readme.read_text() == card and PumaAdapter.from_pretrained(place / "m/adapter")


def test_malformed_facts_are_told_before_training(
    place: Path, train: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    fill(place / "m/adapter", "adapter_facts.json")
    assert train() == 1
    assert "adapter_facts.json is not valid JSON" in capsys.readouterr().err and not (place / "m/work").exists()


# Lists of users


def test_users_whose_ids_break_lines(
    place: Path, train: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    users = ["a\u2028b", "a", "b", "c\nd", "e\r", " f", '"g"', "#h", "i\\n"]
    bank = make_bank(len(users))
    PromptBank.from_arrays(users, bank.prompts, bank.model).save_pretrained(place / "b3")
    rows = make_interactions(users=len(users))
    rows = rows.map(lambda row: {"user_id": users[int(row["user_id"].split("-")[1])]})
    rows.to_parquet(place / "odd.parquet")
    select = "select --bank b3 --interactions odd.parquet --budget 4 --strategy random --out users.txt"
    assert main(select.split()) == 0
    odd = ["train", "--target", "llama", "--bank", "b3", "--interactions", "odd.parquet", "--out", "o", *TRAIN]
    assert main([*odd, "--select", "users.txt", "--validation-share", "0", "--json", "report.json"]) == 0
    assert json.loads((place / "report.json").read_text())["users"]["train"] == 4
    capsys.readouterr()
    for text, told in {
        "user_id\na\n": "1 of 2 users in list.txt are in no bank (the first is number 1)",
        "": "names no",
    }.items():
        (place / "list.txt").write_text(text)
        assert main([*odd, "--select", "list.txt"]) == 1
        assert told in capsys.readouterr().err


@pytest.mark.parametrize("content", ['{"my bank": 1}', "[]", "{", "\xff"])
def test_a_file_of_the_same_name_stays(place: Path, content: str) -> None:
    (place / "theirs").mkdir()
    (place / "theirs" / DESCRIPTION_FILE).write_text(content, encoding="latin-1")
    with pytest.raises(StorageError, match=r"theirs is not a prompt bank .* another's, or damaged"):
        make_bank().save_pretrained("theirs")
    assert (place / "theirs" / DESCRIPTION_FILE).read_text(encoding="latin-1") == content


def test_two_outputs_of_one_name(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["migrate", "--adapter", "a", "--bank", "b", "--out", "z", "--json", "z"]) == 2
    assert "z and z are both written" in capsys.readouterr().err
    assert not (place / "z").exists()


def test_a_name_too_long(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["migrate", "--adapter", "a", "--bank", "b", "--out", "x" * 300]) == 1
    assert "cannot be used as a path (File name too long); choose another" in capsys.readouterr().err
