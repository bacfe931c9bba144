"""``puma-hub bench``: every case runs, and figures are compared the right way round."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from puma_hub.benchmarks.measured import Measured, matrix_rate, seconds_of
from puma_hub.benchmarks.shapes import SHAPES, random_scorer
from puma_hub.benchmarks.suite import figures_of, table_of
from puma_hub.cli.main import main
from puma_hub.errors import ConfigurationError
from puma_hub.extensions import BENCHMARKS
from tests.conftest import make_model, make_tokenizer


def test_small_seconds_and_large_rates_are_better() -> None:
    rate = Measured("x", "rows/s", 50.0, 10.0, 100.0)
    assert (rate.ratio, rate.share) == (5.0, 0.5)
    seconds = Measured("x", "s", 2.0, 10.0, 1.0)
    assert (seconds.ratio, seconds.share) == (5.0, 0.5)
    assert Measured("x", "s", 2.0).ratio is None and Measured("x", "s", 2.0).share is None


def test_seconds_and_matrix_rates() -> None:
    calls = []
    found = seconds_of(lambda: (calls.append(1), time.sleep(0.05)), 0.2)
    assert 0.045 < found < 0.1 and 4 <= len(calls) <= 6
    assert 1e8 < matrix_rate(torch.float32, "cpu", 64, 256, 256) < 1e14


@pytest.mark.parametrize("shape", SHAPES)
def test_random_models_have_the_published_sizes(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    published = {"random-llama-3.2-1b": 1.24, "random-llama-3.2-3b": 3.21, "random-gemma-3-1b": 1.0}
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**SHAPES[shape]))
    assert sum(p.numel() for p in model.parameters()) / 1e9 == pytest.approx(published[shape], rel=0.01)
    # One of them, shrunk: it scores rows, so tokenizer and answers fit.
    monkeypatch.setitem(SHAPES, shape, SHAPES[shape] | {"num_hidden_layers": 2, "hidden_size": 64, "vocab_size": 600})
    monkeypatch.setitem(SHAPES[shape], "num_attention_heads", 4)
    monkeypatch.setitem(SHAPES[shape], "num_key_value_heads", 2)
    lm = random_scorer(shape, ["Toy Story (1995)"], torch.float32, "cpu")
    assert lm.logits(lm.word_prompt(1)[None], [{"item_text": "Toy Story (1995)"}]).shape == (1, 5)


def test_every_case_on_a_tiny_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_model("llama").save_pretrained(tmp_path / "llama")
    make_tokenizer().save_pretrained(tmp_path / "llama")
    report = tmp_path / "bench.json"
    command = ["bench", "--model", str(tmp_path / "llama"), "--dtype", "float32", "--seconds", "0.1", "--users", "1000"]
    assert main([*command, "--json", str(report)]) == 0
    shown = capsys.readouterr()
    assert f"[{len(BENCHMARKS)}/{len(BENCHMARKS)}] starting" in shown.err and "of the limit" in shown.out
    found: dict[str, Any] = json.loads(report.read_text())
    assert [*found["cases"]] == [*BENCHMARKS] and found["dtype"] == "float32" and "threads" in found["machine"]
    for name, measured in found["cases"].items():
        assert measured, name
        for one in measured:
            assert one["ours"] > 0
            for key in ("straightforward", "limit"):
                assert one[key] is None or one[key] > 0
    steps = {one["what"].partition(", ")[2]: one for one in found["cases"]["step"]}
    assert {"default template, batch 32", "soft prompt last, batch 512"} <= {*steps}
    # Beside an earlier report of one case.
    again = tmp_path / "again.json"
    command = ["bench", "bank", "--seconds", "1", "--users", "1000", "--compare", str(report), "--json", str(again)]
    assert main(command) == 0
    lookups = {one["what"]: one for one in json.loads(again.read_text())["cases"]["bank"]}
    assert lookups["look up a user"]["ours"] < 5  # milliseconds
    table = capsys.readouterr().out
    assert "ours / before" in table and float(table.splitlines()[2].split("|")[-2]) > 0
    report.write_text('{"cases": [1]}')
    assert main(["bench", "bank", "--seconds", "0.1", "--users", "50", "--compare", str(report)]) == 2
    assert "is none of puma-hub bench --json" in capsys.readouterr().err
    assert main(["bench", "import", "--seconds", "0"]) == 2


def test_random_weights_need_no_download(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    small = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    shape = SHAPES["random-llama-3.2-1b"] | small | {"intermediate_size": 96, "vocab_size": 2000}
    monkeypatch.setitem(SHAPES, "random-llama-3.2-1b", shape)
    monkeypatch.delattr("puma_hub.benchmarks.setting.fetch")  # whoever calls it fails
    report = tmp_path / "bench.json"
    command = ["bench", "step", "start", "score", "prefix", "--model", "random-llama-3.2-1b", "--dtype", "float32"]
    assert main([*command, "--seconds", "0.1", "--json", str(report)]) == 0
    found = json.loads(report.read_text())["cases"]
    assert {one["what"].partition(",")[0] for case in found.values() for one in case} == {"random-llama-3.2-1b"}


def test_a_table_without_an_earlier_report() -> None:
    report = {"cases": {"step": [Measured("x", "rows/s", 50.0, 10.0, note="how").to_dict()]}}
    assert "| step   | x      | rows/s |     50 |                10 |" in table_of(report)
    with pytest.raises(ConfigurationError, match="KeyError"):
        figures_of({"cases": {"step": [{}]}})
