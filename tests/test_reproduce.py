"""``puma-hub reproduce`` on tiny models: figures computed anew, shared and resumed parts, files."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from puma_hub import (
    AdapterTrainer,
    PersonalizedLM,
    PromptBank,
    PromptTrainer,
    PumaAdapter,
    PumaConfig,
    evaluate_bank,
    select_users,
    warm_start,
)
from puma_hub.cli.main import main
from puma_hub.data import load_interactions, rows_by_user
from puma_hub.evaluation import baseline_predictions, compare_banks, controls
from puma_hub.extensions import BASELINES, EXPERIMENTS, STRATEGIES, WARM_STARTS
from puma_hub.reproduce.banks import TrainedBank
from puma_hub.reproduce.config import load_config
from puma_hub.reproduce.context import Context, SeedRows
from puma_hub.reproduce.part import Part
from puma_hub.reproduce.plan import Plan, setup_of
from puma_hub.reproduce.run import run_experiments
from puma_hub.reproduce.store import Store
from puma_hub.tasks import RatingTask
from puma_hub.training import untrained_adapter
from tests.reproduced import NEWCOMERS, USERS, make_place, write_config

SEED = 1
TRAININGS: Counter[str] = Counter()
Report = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reproduced")
    make_place(folder)
    return folder


@pytest.fixture(scope="module")
def counted() -> Iterator[Counter[str]]:
    """How often prompts and adapters were trained to the end."""
    with pytest.MonkeyPatch.context() as patch:
        for kind in (PromptTrainer, AdapterTrainer):

            def train(self: Any, *args: Any, _plain: Any = kind.train, **options: Any) -> Any:
                found = _plain(self, *args, **options)
                TRAININGS[self.kind] += 1
                return found

            patch.setattr(kind, "train", train)
        yield TRAININGS


@pytest.fixture(scope="module")
def report(place: Path, counted: Counter[str]) -> Report:
    """Run an experiment by the command line, with one seed, in a folder that all share; once."""
    found: dict[str, dict[str, Any]] = {}

    def run(name: str) -> dict[str, Any]:
        if name not in found:
            out = str(place / "out")
            given = ["reproduce", name, "--config", str(place / "config.yaml"), "--seeds", str(SEED), "--out", out]
            assert main([*given, "--json", str(place / f"{name}-report.json")]) == 0
            found[name] = json.loads((place / f"{name}-report.json").read_text())
        return found[name]

    return run


@pytest.fixture(scope="module")
def rows(place: Path) -> SeedRows:
    config = load_config(place / "config.yaml")
    return Context(Store(place / "out"), lambda line: None).rows(setup_of(config, SEED))


@pytest.fixture(scope="module")
def lms(place: Path) -> dict[str, PersonalizedLM]:
    return {name: PersonalizedLM.from_pretrained(str(place / name)) for name in ("llama", "gemma3")}


def plan_of(place: Path) -> Plan:
    return Plan.of(load_config(place / "config.yaml"), SEED)


def kept(place: Path, part: Part) -> Any:
    return Store(place / "out").read(part)


def value(report: dict[str, Any], row: str, column: str) -> float | None:
    found: float | None = report["figures"][row][column]["seeds"][str(SEED)]
    return found


# Figures, computed anew from the banks that were kept


def test_the_rows_are_those_of_load_interactions(place: Path, rows: SeedRows) -> None:
    expected = load_interactions(
        place / "rows.csv", task=RatingTask(), users=USERS, held_out=0.25, item_statistics=True, seed=SEED
    )
    assert rows.train.to_list() == expected["train"].to_list()
    assert rows.validation.to_list() == expected["validation"].to_list()
    assert len(rows.newcomers) == NEWCOMERS and not set(rows.newcomers) & set(rows_by_user(rows.train))


def test_table2(place: Path, report: Report, rows: SeedRows, lms: dict[str, PersonalizedLM]) -> None:
    found, plan = report("table2"), plan_of(place)
    source = kept(place, plan.bank(plan.config.source))
    adapter = kept(place, plan.adapter(plan.bank(plan.config.source), plan.config.target))
    assert isinstance(adapter, PumaAdapter)
    banks = {
        "source": ("llama", source),
        "migrated": ("gemma3", adapter.migrate(source)),
        "retrained": ("gemma3", kept(place, plan.bank(plan.config.target))),
    }
    for name, (lm, bank) in banks.items():
        expected = evaluate_bank(lms[lm], bank, rows.validation)["metrics"]
        for metric in ("rmse", "mae"):
            assert value(found, name, metric) == pytest.approx(expected[metric], rel=1e-9), name
    labels = np.array(rows.validation["label"])
    for name, predicted in baseline_predictions(rows.train, rows.validation).items():
        assert value(found, name, "rmse") == pytest.approx(math.sqrt(np.mean((predicted - labels) ** 2)))
    assert {"independent", "random"} <= {*found["figures"]} and {*BASELINES} & {*found["figures"]}
    assert len({value(found, name, "rmse") for name in banks}) == 3
    lm, target = lms["llama"], lms["gemma3"]
    shape: dict[str, Any] = {"sources": [source.model], "target": target.spec, "task": target.task}
    for method in WARM_STARTS:
        config = PumaConfig(architecture="linear", template=target.template, **shape)
        texts = lm.input_embeddings(), lm.tokenizer, target.input_embeddings(), target.tokenizer
        bank = untrained_adapter(target, source, warm_start(config, *texts, method=method)).migrate(source)
        expected = evaluate_bank(target, bank, rows.validation)["metrics"]
        assert value(found, f"warm start {method}", "rmse") == pytest.approx(expected["rmse"], rel=1e-9)
    assert found["paper"]["migrated"]["rmse"] == 0.9135 and "Table 2" in found["paper_source"]


def test_table3(place: Path, report: Report) -> None:
    found, plan = report("table3"), plan_of(place)
    store = Store(place / "out")
    adapter_part = plan.adapter(plan.bank(plan.config.source), plan.config.target)
    trained, again = store.facts(adapter_part), store.facts(plan.bank(plan.config.target))
    teacher = store.facts(adapter_part.lessons)
    adapter = trained["flops"]["until_best_epoch"]
    retraining = again["flops"]["until_best_epoch"]
    whole = "with teacher and prefix caches"
    assert value(found, whole, "retraining, FLOPs") == pytest.approx(retraining)
    expected = adapter + teacher["flops"] + teacher["prefix_flops"]
    assert value(found, whole, "adapter, FLOPs") == pytest.approx(expected)
    assert value(found, whole, "ratio of FLOPs") == pytest.approx(retraining / expected)
    alone = adapter - trained["flops"]["prefix_cache"]
    assert value(found, "training alone", "adapter, FLOPs") == pytest.approx(alone)
    assert value(found, "with the teacher", "adapter, FLOPs") == pytest.approx(alone + teacher["flops"])
    seconds = [value(found, row, "adapter, s") or 0.0 for row in ("training alone", "with the teacher", whole)]
    assert 0 < seconds[0] < seconds[1] < seconds[2]
    other = store.facts(TrainedBank(plan.setup, plan.config.target, plan.config.retrainings["independent"]))
    again = other["flops"]["until_best_epoch"]
    assert value(found, f"{whole}; independent", "retraining, FLOPs") == pytest.approx(again)
    assert value(found, f"{whole}; independent", "adapter, FLOPs") == pytest.approx(expected)


def test_table4(place: Path, report: Report, rows: SeedRows, lms: dict[str, PersonalizedLM]) -> None:
    found, plan = report("table4"), plan_of(place)
    assert {*STRATEGIES} | {"random, 3 times the budget"} == {*found["figures"]}
    source = plan.bank(plan.config.source)
    for row, (strategy, share) in {"puma": ("puma", 0.25), "random, 3 times the budget": ("random", 0.75)}.items():
        selection = plan.selection(source, strategy, share)
        expected = select_users(kept(place, source), rows.train, strategy, round(USERS * share), SEED)
        assert kept(place, selection) == expected
        adapter = plan.adapter(source, plan.config.target, selection)
        assert set(rows_by_user(kept(place, adapter.lessons))) <= {*expected}
        bank = kept(place, adapter).migrate(kept(place, source))
        scores = evaluate_bank(lms["gemma3"], bank, rows.validation)["metrics"]
        assert value(found, row, "rmse") == pytest.approx(scores["rmse"], rel=1e-9)


def test_figures_3_and_4(place: Path, report: Report) -> None:
    budgets, pairs, table = report("figure3"), report("figure4"), report("table2")
    migrated, again = value(table, "migrated", "rmse"), value(table, "retrained", "rmse")
    assert value(budgets, "25%", "random") == migrated and value(budgets, "50%", "retrained") == again
    assert value(budgets, "50%", "random") != migrated
    llama, gemma = load_config(place / "config.yaml").models
    assert again is not None and migrated is not None
    assert value(pairs, llama, gemma) == pytest.approx(again / migrated)
    assert value(pairs, llama, llama) is None and value(pairs, gemma, llama) is not None
    assert pairs["paper"] == {llama: {gemma: 1.0299}, gemma: {llama: 0.9969}}


def test_figure5(place: Path, report: Report, rows: SeedRows, lms: dict[str, PersonalizedLM]) -> None:
    found, plan = report("figure5"), plan_of(place)
    llama, gemma = plan.config.models
    assert [*found["figures"]] == [f"{number}: {model}" for number, model in enumerate([llama, gemma] * 3)]
    first = plan.bank(llama)
    step1 = plan.migrated(plan.adapter(first, gemma), first)
    adapters = [kept(place, plan.adapter(first, gemma)), kept(place, plan.adapter(step1, llama))]
    bank = kept(place, first)
    for number, (adapter, lm, model) in enumerate(zip(adapters, ("gemma3", "llama"), (gemma, llama)), 1):
        bank = adapter.migrate(bank)
        expected = evaluate_bank(lms[lm], bank, rows.validation)["metrics"]["rmse"]
        assert value(found, f"{number}: {model}", "chain") == pytest.approx(expected, rel=1e-9)
    assert len(bank.provenance.history) == 2
    last = f"5: {gemma}"
    assert value(found, last, "direct") == value(report("table2"), "migrated", "rmse")
    assert value(found, last, "chain") != value(found, last, "direct")
    assert value(found, f"4: {llama}", "direct") is None


def test_figure6(place: Path, report: Report, rows: SeedRows, lms: dict[str, PersonalizedLM]) -> None:
    found, plan = report("figure6"), plan_of(place)
    banks = tuple(plan.bank(model) for model in plan.config.models)
    selection = plan.selection(banks[0])
    lessons = [plan.lessons(bank, selection, number) for number, bank in enumerate(banks)]
    adapter = kept(place, plan.aggregated(banks, plan.config.target, lessons))
    assert len(adapter.config.sources) == 2
    bank = adapter.migrate([kept(place, part) for part in banks])
    expected = evaluate_bank(lms["gemma3"], bank, rows.validation)["metrics"]["rmse"]
    assert value(found, "aggregated", "rmse") == pytest.approx(expected, rel=1e-9)
    assert any("one of the sources too" in note for note in found["notes"])


def test_cold_start(place: Path, report: Report, rows: SeedRows, lms: dict[str, PersonalizedLM]) -> None:
    found, plan = report("cold-start"), plan_of(place)
    assert [*found["figures"]] == ["0", "2"]
    source = kept(place, plan.bank(plan.config.source))
    adapter = kept(place, plan.adapter(plan.bank(plan.config.source), plan.config.target))
    mean = adapter.migrate(source).prompts.mean(0, dtype=np.float64)
    target = adapter.migrate(source)
    facts = {name: getattr(target.provenance, name) for name in ("template", "task")}
    everyone = np.repeat(mean[None], len(rows.newcomers), 0)
    bank = PromptBank.from_arrays(rows.newcomers, everyone, target.model, head=target.head, **facts)
    expected = evaluate_bank(lms["gemma3"], bank, rows.newcomers_validation)["metrics"]["rmse"]
    assert value(found, "0", "cold start") == pytest.approx(expected, rel=1e-6)
    figures = [value(found, row, way) for row in ("0", "2") for way in ("random start", "full training")]
    assert None not in figures and len(set(figures)) == 4


def test_label_free_and_controls(place: Path, report: Report, rows: SeedRows, lms: dict[str, PersonalizedLM]) -> None:
    free, personal, plan = report("label-free"), report("controls"), plan_of(place)
    source = kept(place, plan.bank(plan.config.source))
    selection = plan.selection(plan.bank(plan.config.source))
    unseen = sorted({*source.user_ids} - {*kept(place, selection)})
    adapter = kept(place, plan.adapter(plan.bank(plan.config.source), plan.config.target))
    migrated = adapter.migrate(source)
    compared = compare_banks(lms["llama"], source, lms["gemma3"], migrated, rows.validation, users=unseen, seed=SEED)
    expected = controls(lms["gemma3"], migrated, rows.validation, users=unseen, seed=SEED)
    for row in ("own", "mean", "shuffled", "gain"):
        assert value(personal, row, "migrated") == pytest.approx(expected[row], rel=1e-6, abs=1e-9)
    kept_gain = compared["target"]["gain"] / compared["source"]["gain"]
    assert abs(compared["source"]["gain"]) > 1e-4
    told = value(personal, "retention", "migrated")
    assert told is None if compared["source"]["gain"] < 0 else told == pytest.approx(kept_gain, rel=1e-4)
    assert value(free, "catalogue", "own") == value(personal, "own", "migrated")
    assert value(free, "catalogue", "all users") == value(report("table2"), "migrated", "rmse")
    ways = {"labels", "own rows", "catalogue", "sampled prompts", "catalogue, 3 items", "sampled prompts, 12 rows"}
    assert ways <= {*free["figures"]}


# What is computed, and how often


def test_parts_are_shared_by_all_experiments(report: Report, counted: Counter[str], place: Path) -> None:
    for name in EXPERIMENTS:
        report(name)
    # Source and target bank, independent prompts, and newcomers: two starts with rows.
    assert counted["prompts"] == 3 + 2
    folders = [*(place / "out" / "parts").iterdir()]
    adapters = sum((folder / "adapter").is_dir() for folder in folders)
    assert counted["adapter"] == adapters
    assert not [folder for folder in folders if (folder / "work").exists()]
    before = dict(counted)
    again = ["reproduce", "controls", "--config", str(place / "config.yaml"), "--seeds", str(SEED)]
    assert main([*again, "--out", str(place / "out")]) == 0
    assert dict(counted) == before
    assert json.loads((place / "out" / "controls.json").read_text())["parts_made"] == 0


class _Interrupted(Exception):
    pass


def test_an_interrupted_run_goes_on_and_gives_the_same(
    place: Path, report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, lines = load_config(write_config(place, "one.yaml", seeds=[SEED])), []

    def interrupting(line: str) -> None:
        lines.append(line)
        if "training an adapter" in line:
            raise _Interrupted

    with pytest.raises(_Interrupted):
        run_experiments({"controls": ""}, config, tmp_path, interrupting)
    done = len([*tmp_path.glob("parts/*/part.json")])
    assert done and not (tmp_path / "controls.json").exists()
    ((_, resumed),) = run_experiments({"controls": ""}, config, tmp_path, lines.append).values()
    assert resumed["figures"] == report("controls")["figures"]
    assert resumed["parts_made"] + done == len([*tmp_path.glob("parts/*/part.json")])
    assert any("left)" in line for line in lines)


def test_one_llm_is_loaded_after_the_other(place: Path, tmp_path: Path) -> None:
    config, lines = load_config(write_config(place, "one.yaml", seeds=[SEED])), []
    run_experiments({"table2": ""}, config, tmp_path, lines.append)
    assert [line for line in lines if line.startswith("loading")] == [f"loading {model}" for model in config.models]


# Several seeds, and files


def test_several_experiments_in_one_go(place: Path, tmp_path: Path, report: Report) -> None:
    """They give what each gives alone, and every LLM is loaded once a seed."""
    config, lines = load_config(write_config(place, "both.yaml", llms_at_once=2, seeds=[SEED])), []
    found = run_experiments({"table2": "first", "figure5": "second"}, config, tmp_path, lines.append)
    for name, (text, own) in found.items():
        assert own["figures"] == report(name)["figures"] and own["command"] in text
        assert (tmp_path / f"{name}.md").read_text(encoding="utf-8") == text
    assert sum(line.startswith("loading") for line in lines) == len(config.models) * len(config.seeds)


def test_several_names_on_the_command_line(report: Report, place: Path, tmp_path: Path) -> None:
    alone = {name: report(name)["figures"] for name in ("controls", "table2")}
    given = ["--config", str(place / "config.yaml"), "--seeds", str(SEED), "--out", str(place / "out")]
    found = tmp_path / "report.json"
    assert main(["reproduce", "controls", "table2", "controls", *given, "--json", str(found)]) == 0
    both = json.loads(found.read_text())
    assert {name: one["figures"] for name, one in both.items()} == alone
    assert both["table2"]["command"] == " ".join(["puma-hub", "reproduce", "table2", *given])


def test_llms_stay_in_memory_as_long_as_there_is_room(place: Path, tmp_path: Path) -> None:
    config = load_config(place / "config.yaml")
    told: list[str] = []
    context = Context(Store(tmp_path), told.append, llms_at_once=2)
    first, second = (setup_of(config, seed) for seed in config.seeds)
    llama, gemma = (context.lm(first, name) for name in config.models)
    assert context.lm(first, config.models[0]) is llama and context.lm(first, config.models[1]) is gemma
    assert len(told) == 2
    context.forget_lm(config.models[0])
    assert context.lm(first, config.models[0]) is not llama and context.lm(first, config.models[1]) is gemma
    assert context.lm(second, config.models[1]) is not gemma
    alone = Context(Store(tmp_path), told.append)
    before = alone.lm(first, config.models[0])
    alone.lm(first, config.models[1])
    assert alone.lm(first, config.models[0]) is not before


def test_mean_interval_page_and_picture_of_two_seeds(
    place: Path, report: Report, capsys: pytest.CaptureFixture[str]
) -> None:
    report("controls")
    capsys.readouterr()  # where no test asked for this report before, it was printed now
    out = place / "out"
    typed = ["reproduce", "controls", "--config", str(place / "config.yaml"), "--seeds", "1", "2", "--out", str(out)]
    assert main(typed) == 0
    printed = capsys.readouterr().out
    found = json.loads((out / "controls.json").read_text())
    cell = found["figures"]["own"]["migrated"]
    values = [*cell["seeds"].values()]
    assert [*cell["seeds"]] == ["1", "2"] and cell["mean"] == pytest.approx(np.mean(values))
    low, high = stats.t.interval(0.95, 1, np.mean(values), stats.sem(values))
    assert cell["interval"] == pytest.approx([low, high])
    page = (out / "controls.md").read_text()
    assert page.strip() == printed.strip()
    assert f"{cell['mean']:.4f} ± {(high - low) / 2:.4f}" in page and "Fewer than three seeds" in page
    assert found["command"] == " ".join(["puma-hub", *typed]) and found["command"] in page
    assert found["versions"]["puma_hub"] in page and found["machine"] in page and found["seeds"] == [1, 2]
    assert (out / "controls.png").read_bytes().startswith(b"\x89PNG") and "controls.png" in page
    assert "user-" not in page


def test_one_seed_has_no_interval_and_says_so(report: Report, place: Path) -> None:
    found = report("table4")
    assert found["figures"]["puma"]["rmse"]["interval"] is None
    assert "no interval, and no conclusion" in (place / "out" / "table4.md").read_text()
