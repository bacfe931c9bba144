"""Tasks other than the paper's, the whole way: the built-in third one, and one that docs/development.md registers."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import transformers
from sklearn.metrics import mean_squared_error

from puma_hub import (
    AdapterTrainer,
    LikeTask,
    OrdinalTask,
    PersonalizedLM,
    PromptBank,
    PromptTrainer,
    PumaAdapter,
    PumaTrainingArguments,
    compare_banks,
    evaluate_bank,
    migrate,
    with_source_predictions,
)
from puma_hub.adapter.card import adapter_card
from puma_hub.adapter.facts import AdapterFacts, Evaluation
from puma_hub.bank.card import bank_card
from puma_hub.cli.main import main
from puma_hub.data import chronological_split, with_likes
from puma_hub.errors import ConfigurationError, MismatchError
from puma_hub.evaluation import calibrate
from puma_hub.tasks import Task, registry
from tests.conftest import make_interactions, make_model, make_tokenizer

QUIET = PumaTrainingArguments(
    num_train_epochs=2, per_device_train_batch_size=16, disable_tqdm=True, seed=3, validation_share=0.0
)
DOCS = Path(__file__).parents[1] / "docs" / "development.md"


@pytest.fixture(scope="module")
def verdict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[type[Task]]:
    """The task of the recipe, from a module outside the package that holds what stands there."""
    (code,) = re.findall(r"<!-- run: task -->\n```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.S)
    folder = tmp_path_factory.mktemp("somebodys")
    (folder / "verdict_task.py").write_text(code, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield importlib.import_module("verdict_task").VerdictTask
    del registry._TASKS["verdict"], sys.modules["verdict_task"]


@pytest.fixture(params=["ordinal", "verdict", "like"])
def task(request: pytest.FixtureRequest, verdict: type[Task]) -> Task:
    return {"verdict": verdict, "ordinal": OrdinalTask, "like": LikeTask}[request.param]()


def _rows(task: Task) -> datasets.DatasetDict:
    rows = make_interactions()
    if task.name == "verdict":
        labels = np.sign(np.array(rows["label"]) - 3.0)
        rows = rows.remove_columns("label").add_column("label", labels.tolist())  # type: ignore[call-arg]
    splits = chronological_split(rows)
    return with_likes(splits) if task.name == "like" else splits


def _predicted(lm: PersonalizedLM, bank: PromptBank, rows: datasets.DatasetDict) -> np.ndarray:
    """Predictions of held-out rows, row by row from the logits."""
    prompts = torch.from_numpy(np.stack([bank[user] for user in rows["validation"]["user_id"]]))
    with torch.no_grad():
        logits = lm.logits(prompts, rows["validation"].select_columns(["item_text"]))
        return lm.task.predict(logits, bank.head).double().numpy()


def test_the_whole_way(make_lm: Callable[..., PersonalizedLM], tmp_path: Path, task: Task) -> None:
    source_lm, target_lm, rows = make_lm(task=task), make_lm("gemma3", seed=1, task=task), _rows(task)
    bank = PromptTrainer(source_lm, rows["train"], replace(QUIET, num_train_epochs=4)).train()
    assert (bank.head is not None) == task.has_head and bank.provenance.task == task
    assert bank.statistics is not None and bank.statistics.sensitivity.any()  # type: ignore[union-attr]
    bank.save_pretrained(tmp_path / "bank")
    bank = PromptBank.from_pretrained(str(tmp_path / "bank"))
    taught = with_source_predictions(source_lm, bank, rows["train"])
    trainer = AdapterTrainer(target_lm, bank, taught, replace(QUIET, num_train_epochs=1))
    adapter = trainer.train()
    assert trainer.report["start_rows"] and adapter.config.rating_head == (adapter.head is not None) == task.has_head
    adapter.save_pretrained(tmp_path / "adapter")
    adapter = PumaAdapter.from_pretrained(tmp_path / "adapter")
    migrated = migrate(adapter, bank)
    assert migrated.provenance.task == task

    report = evaluate_bank(target_lm, migrated, rows)
    own = _predicted(target_lm, migrated, rows)
    expected = task.scores(own, np.array(rows["validation"]["label"]), rows["validation"]["user_id"][:])
    assert report["metrics"] == pytest.approx(expected, abs=1e-4) and "baselines" in report
    compared = compare_banks(source_lm, bank, target_lm, migrated, rows["validation"])
    main_metric = task.main_metric(expected)
    assert compared["target"]["metric"] == main_metric.name
    gain = compared["target"]["own"] - compared["target"]["mean"]
    assert compared["target"]["gain"] == pytest.approx(-gain if main_metric.lower_is_better else gain)

    evaluation = Evaluation.from_comparison("ours", "held out", compared)
    card = adapter_card(adapter, "alice/adapter", AdapterFacts((evaluation,)))
    assert card.data.eval_results[0].task_name == task.title and task.described() in str(card)
    assert task.described() in str(bank_card(migrated, "alice/bank"))
    pipe = transformers.pipeline("personalized-scoring", model=target_lm, bank=migrated)
    row = {
        "user_id": "user-3",
        "item_text": rows["validation"]["item_text"][rows["validation"]["user_id"].index("user-3")],
    }
    scored = pipe(row)
    assert list(scored["distribution"]) == list(task.answers)
    assert scored["score"] == pytest.approx(own[rows["validation"]["user_id"].index("user-3")], abs=1e-4)
    if task.has_head:
        calibrated, found = calibrate(target_lm, migrated, rows["validation"])
        assert found.rmse_after < found.rmse_before
        rmse = mean_squared_error(rows["validation"]["label"], _predicted(target_lm, calibrated, rows)) ** 0.5
        assert rmse == pytest.approx(found.rmse_after, abs=1e-4)
    else:
        with pytest.raises(ConfigurationError, match="no rating head to calibrate"):
            calibrate(target_lm, migrated, rows["validation"])
    with pytest.raises(MismatchError, match="another task"):
        evaluate_bank(make_lm("gemma3", seed=1, template=task.template), migrated, rows)


def test_ordinal_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_model("llama").save_pretrained(tmp_path / "llama")
    make_tokenizer().save_pretrained(tmp_path / "llama")
    make_interactions(users=4, rows=6).to_csv(tmp_path / "rows.csv", index=False)
    given = ["--model", str(tmp_path / "llama"), "--interactions", str(tmp_path / "rows.csv"), "--task", "ordinal"]
    fit = ["fit", *given, "--out", str(tmp_path / "out"), "--epochs", "1", "--batch-size", "16"]
    assert main([*fit, "--values", "1:5"]) == 0
    bank = PromptBank.from_pretrained(str(tmp_path / "out" / "bank"))
    assert bank.provenance.task == OrdinalTask() and bank.head is None
    report = tmp_path / "report.json"
    assert main(["evaluate", *given, "--bank", str(tmp_path / "out" / "bank"), "--json", str(report)]) == 0
    assert set(json.loads(report.read_text())["baselines"]["user_mean"]) == {"mae", "rmse", "quadratic_kappa"}
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(["fit", *given[:4], "--task", "ranking", "--out", "x"])
    assert stopped.value.code == 2 and "click, like, ordinal, rating" in capsys.readouterr().err
    assert main(["fit", *given[:4], "--task", "click", "--values", "1:5", "--out", str(tmp_path / "clicks")]) == 2
    assert "the task click takes no values" in capsys.readouterr().err
