"""The command line: every step on files, exit statuses, and one-line errors. A SIGKILL: see test_kill.py."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from puma_hub import PromptBank
from puma_hub.cli.main import COMMANDS, main
from tests.conftest import make_bank, make_interactions, make_model, make_tokenizer

TRAIN = ["--epochs", "2", "--batch-size", "16", "--checkpoint-seconds", "0"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two tiny models and a file of ratings."""
    folder = tmp_path_factory.mktemp("place")
    for family in ("llama", "gemma3"):
        make_model(family).save_pretrained(folder / family)
        make_tokenizer().save_pretrained(folder / family)
    make_interactions(users=10, rows=15).to_csv(folder / "rows.csv", index=False)
    return folder


def command(*arguments: object) -> list[str]:
    return [str(argument) for argument in arguments]


def fit(place: Path, out: Path) -> list[str]:
    return command("fit", "--model", place / "llama", "--interactions", place / "rows.csv", "--out", out, *TRAIN)


def test_the_whole_way(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ["--interactions", str(place / "rows.csv")]
    out = {name: tmp_path / name for name in ("source", "users.txt", "migrator", "target")}
    assert main([*fit(place, out["source"]), "--json", str(tmp_path / "fit.json")]) == 0
    bank = out["source"] / "bank"
    assert main(command("select", "--bank", bank, *rows, "--budget", 4, "--out", out["users.txt"])) == 0
    assert len(out["users.txt"].read_text().splitlines()) == 4
    train = command("train", "--target", place / "gemma3", "--bank", bank, *rows, "--select", out["users.txt"])
    assert main([*train, "--out", str(out["migrator"]), *TRAIN]) == 0
    adapter = out["migrator"] / "adapter"
    taught = [*train, "--teacher", str(place / "llama"), "--out", str(tmp_path / "taught"), *TRAIN]
    asked = ["--rows", "own", "--recent-rows", "5"]
    asked += ["--template", "<item>, by <user>:"]  # of the target; the teacher keeps its own
    assert main([*taught, *asked, "--json", str(tmp_path / "taught.json")]) == 0
    told = json.loads((tmp_path / "taught.json").read_text())
    assert told["learns_from"] == "source predictions" and told["rows"] == told["start_rows"] == 4 * 5
    assert main([*taught, "--bank", str(bank)]) == 2 and "1 --teacher for 2 --bank" in capsys.readouterr().err
    assert main([*train, "--teacher", str(place / "gemma3"), "--out", str(tmp_path / "wrong"), *TRAIN]) != 0
    assert not (tmp_path / "wrong").exists()
    warm = [*train, "--warm-start", str(place / "llama"), "--out", str(tmp_path / "warm"), *TRAIN]
    assert main(warm) == 0
    assert main(command("migrate", "--adapter", adapter, "--bank", bank, "--out", out["target"])) == 0
    report = tmp_path / "evaluation.json"
    evaluate = command("evaluate", "--model", place / "gemma3", "--bank", out["target"], *rows, "--json", report)
    assert main([*evaluate, "--controls"]) == 0
    found = json.loads(report.read_text())
    assert found["users"] == 10 and found["controls"]["own"] == found["metrics"]["rmse"]
    compare = command("compare", "--model", place / "gemma3", "--bank", out["target"], "--source", place / "llama")
    assert main([*compare, "--source-bank", str(bank), *rows, "--json", str(report)]) == 0
    assert "worse_user_ids" not in json.loads(report.read_text())
    for path in (bank, adapter):
        assert main(["info", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "user_item_bias" in printed and "retention" in printed and '"kind": "adapter"' in printed
    assert "user-3" not in printed


def test_training_options(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorboard")
    begin = [*fit(place, tmp_path), "--gradient-accumulation-steps", "2", "--warmup-steps", "0.5"]
    assert main([*begin, "--report-to", "tensorboard"]) == 0
    assert list((tmp_path / "work" / "runs").rglob("events.out.*"))
    first = PromptBank.from_pretrained(tmp_path / "bank").prompts.copy()
    other = [*begin, "--seed", "5"]
    assert main(other) == 1 and "other settings or data" in capsys.readouterr().err
    assert main([*other, "--restart"]) == 0
    assert not np.array_equal(PromptBank.from_pretrained(tmp_path / "bank").prompts, first)
    assert main([*begin, "--report-to", "nothing"]) == 2 and "report_to has 'nothing'" in capsys.readouterr().err


def test_help_is_quick_and_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    code = (
        "import sys, time; from puma_hub.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'transformers', 'datasets', 'numpy', 'huggingface_hub'} & set(sys.modules)\n"
        "print(time.process_time(), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    # Processor time, the start of Python included: what else the machine does hardly changes it.
    assert done.returncode == 0 and float(done.stderr) < 1.0, done.stderr
    for name, _, _ in COMMANDS:
        with pytest.raises(SystemExit) as ended:
            main([name, "--help"])
        assert ended.value.code == 0
        assert f"puma-hub {name}" in capsys.readouterr().out.split("example:")[1]


@pytest.mark.parametrize(
    "arguments",
    [
        ["nothing"],
        [],
        ["fit"],
        ["demo", "--users", "0"],
        ["demo", "--users", "5"],
        ["fetch", "some-model"],
        ["bench", "walk"],
        ["select", "--bank", "b", "--interactions", "i", "--out", "o", "--strategy", "best"],
        ["fit", "--model", "m", "--interactions", "i", "--out", "o", "--epochs", "two"],
    ],
)
def test_wrong_use_is_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = main(arguments)
    except SystemExit as ended:
        status = int(ended.code or 0)
    captured = capsys.readouterr()
    assert status == 2 and captured.err.strip() and not captured.out
    assert "Traceback" not in captured.err


def failing(place: Path, tmp_path: Path) -> dict[str, list[str]]:
    rows = str(place / "rows.csv")
    bad = tmp_path / "bad.csv"
    make_interactions(users=2, rows=2).remove_columns("label").to_csv(bad, index=False)
    nine = tmp_path / "nine.csv"
    make_interactions(users=2, rows=2).map(lambda row: {"label": 9.0}).to_csv(nine, index=False)
    make_bank(10, size=16).save_pretrained(tmp_path / "small")
    make_bank(10).save_pretrained(tmp_path / "bank")
    (tmp_path / "file").write_text("")
    (tmp_path / "nobody.txt").write_text("nobody\n")
    llama, out, bank = str(place / "llama"), str(tmp_path / "out"), str(tmp_path / "bank")
    fit_on = ["fit", "--model", llama, "--out", out, "--interactions"]
    train_on = ["train", "--target", llama, "--bank", bank, "--interactions", rows, "--out", out, "--select"]
    return {
        "missing column": [*fit_on, str(bad)],
        "labels": [*fit_on, str(nine)],
        "no file": [*fit_on, "absent.csv"],
        "no model": ["fit", "--model", str(tmp_path), "--interactions", rows, "--out", out],
        "template": [*fit_on, rows, "--template", "rate <item>"],
        "out is a file": ["fit", "--model", llama, "--interactions", rows, "--out", str(tmp_path / "file"), *TRAIN],
        "no bank": ["select", "--bank", "absent", "--interactions", rows, "--out", out],
        "other LLM": ["evaluate", "--model", llama, "--bank", str(tmp_path / "small"), "--interactions", rows],
        "no adapter": ["migrate", "--adapter", str(tmp_path / "absent"), "--bank", bank, "--out", out],
        "unknown users": [*train_on, str(tmp_path / "nobody.txt")],
        "no list": [*train_on, "absent"],
        "info": ["info", str(tmp_path)],
    }


CASES = ("missing column", "labels", "no file", "no model", "template", "out is a file", "no bank", "other LLM")
MORE_CASES = ("no adapter", "unknown users", "no list", "info")


@pytest.mark.parametrize("case", [*CASES, *MORE_CASES])
def test_failures_are_one_line_and_leave_nothing(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    arguments = failing(place, tmp_path)[case]
    capsys.readouterr()
    assert main(arguments) in (1, 2)
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("puma-hub")]
    assert len(lines) == 1 and lines[0].startswith(f"puma-hub {arguments[0]}: ") and len(lines[0]) > 40
    assert "Traceback" not in captured.err and not captured.out and "unexpected" not in lines[0]
    assert not (tmp_path / "out").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_debug_shows_the_error(tmp_path: Path) -> None:
    from puma_hub import PumaHubError

    with pytest.raises(PumaHubError):
        main(["info", str(tmp_path), "--debug"])
