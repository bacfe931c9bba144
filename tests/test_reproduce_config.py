"""The configuration of ``puma-hub reproduce``, the order of its parts, and its tables."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from puma_hub.cli.main import build_parser, main
from puma_hub.errors import ConfigurationError, StorageError
from puma_hub.extensions import EXPERIMENTS
from puma_hub.reproduce import paper
from puma_hub.reproduce.config import PRESETS, ReproduceConfig, config_of, load_config
from puma_hub.reproduce.experiment import Experiment
from puma_hub.reproduce.part import TEXT, Part, Setup, Sizes
from puma_hub.reproduce.plan import Plan
from puma_hub.reproduce.schedule import Memory, in_order, missing_parts, planned_work
from puma_hub.reproduce.store import Store
from puma_hub.reproduce.summary import Summary
from puma_hub.reproduce.tables import results_table


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_plan_every_experiment_with_three_seeds(preset: str) -> None:
    config = load_config(preset)
    assert len(config.seeds) == 3
    for extension in EXPERIMENTS.values():
        experiment: Experiment = extension.load()(config)
        parts = experiment.parts(Plan.of(config, 42))
        assert parts and all(part.about for part in parts.values())


def test_the_help_names_every_experiment_and_preset(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args(["reproduce", "--help"])
    told = capsys.readouterr().out
    assert all(name in told for name in (*EXPERIMENTS, *PRESETS))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"model": ["a", "b"]}, "unknown key model; known are adapter, aggregation"),
        ({"data": {"user": 3}}, "unknown key data.user; known are folder, held_out"),
        ({"data": []}, "data must be a mapping"),
        ([], "it must be a mapping"),
        ({"models": "gemma-3-270m"}, "models must be a list"),
        ({"models": ["a"]}, "models needs a source and a target"),
        ({"models": ["a", "a"]}, "each model once"),
        ({"seeds": [1, 1]}, "seeds must be distinct"),
        ({"seeds": ["one"]}, "seeds must be int, got 'one'"),
        ({"seeds": [True]}, "seeds must be int, got True"),
        ({"llms_at_once": 0}, "llms_at_once must be at least 1"),
        ({"share": 0}, "share and budgets must lie above 0"),
        ({"budgets": [2.0]}, "share and budgets must lie above 0"),
        ({"share": "a fifth"}, "share must be float"),
        ({"metric": "auc"}, "metric must be one of rmse, mae, got 'auc'"),
        ({"data": {"likes_from": "4"}}, "data.likes_from must be float or nothing"),
        ({"strategy": "best"}, "unknown strategy 'best'"),
        ({"paper": "netflix"}, "paper must be one of amazon, mind, yelp"),
        ({"dtype": "int8"}, "dtype must be one of"),
        ({"task": "guessing"}, "unknown task 'guessing'"),
        ({"prompts": {"epochs": 3}}, "unknown training argument epochs; known are num_train_epochs"),
        ({"prompts": {"seed": 3}}, "unknown training argument seed"),
        ({"retrainings": {"mine": {"num_train_epochs": -1}}}, "num_train_epochs must be a whole number"),
        ({"adapter": {"learns_from": "thin air"}}, "learns_from must be one of catalogue, rows, labels"),
        ({"chain": ["gpt"]}, "chain and aggregation name models"),
        ({"data": {"newcomers": -1}}, "newcomers must not be negative"),
        ({"cold_start": {"rows": [-1]}}, "cold_start.rows must be 0 or more"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_refused(data: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        config_of(data)


def test_bad_files_are_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.yaml"
    for text, status, said in (("models: [", 2, "is no YAML"), ("modles: []", 2, "unknown key modles")):
        path.write_text(text)
        assert main(["reproduce", "table2", "--config", str(path), "--out", str(tmp_path / "out")]) == status
        told = capsys.readouterr().err
        assert said in told and told.count("\n") == 1
    with pytest.raises(StorageError, match="cannot read the configuration"):
        load_config(tmp_path / "none.yaml")
    assert not (tmp_path / "out").exists()


def test_what_is_left_out_is_the_default(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("")
    assert load_config(path) == ReproduceConfig()
    path.write_text("share: 1\ndata:\n  users: 12\n")
    config = load_config(path)
    assert config.share == 1 and config.data.users == 12 and config.data.held_out == 0.2


# Parts


@dataclass(frozen=True)
class _Step(Part):
    name: str
    on: str | None
    before: tuple[_Step, ...] = ()

    @property
    def model(self) -> str | None:
        return self.on

    @property
    def about(self) -> str:
        return self.name

    def make(self, context: Any, folder: Path) -> dict[str, Any]:
        return {"name": self.name}


def _setup(seed: int = 1, **changes: Any) -> Setup:
    return Plan.of(config_of(changes), seed).setup


def test_a_key_follows_from_all_that_decides_a_part() -> None:
    base = _Step(_setup(), "a", "x")
    assert base.key == _Step(_setup(), "a", "x").key
    others = [
        _Step(_setup(2), "a", "x"),
        _Step(_setup(), "b", "x"),
        _Step(_setup(), "a", "y"),
        _Step(_setup(), "a", "x", (base,)),
        _Step(_setup(data={"users": 12}), "a", "x"),
        _Step(_setup(template="<item> <user>:"), "a", "x"),
    ]
    assert len({base.key, *(part.key for part in others)}) == 1 + len(others)
    keys = {dtype: _Step(_setup(dtype=dtype), "a", "x").key for dtype in ("auto", "float32", "bfloat16")}
    assert keys["float32"] != keys["bfloat16"] and keys["auto"] in (keys["float32"], keys["bfloat16"])


def test_a_changed_file_makes_other_parts(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("user_id\n")
    before = _Step(_setup(data={"name": str(path)}), "a", None).key
    path.write_text("user_id,item_id\n")
    assert _Step(_setup(data={"name": str(path)}), "a", None).key != before


def test_parts_come_after_those_they_need_and_llms_change_seldom(tmp_path: Path) -> None:
    def parts(seed: int) -> list[_Step]:
        setup = _setup(seed)
        source = _Step(setup, "source bank", "x")
        target = _Step(setup, "target bank", "y")
        rows = _Step(setup, "rows", "x", (source,))
        adapter = _Step(setup, "adapter", "y", (rows, source))
        moved = _Step(setup, "moved", None, (adapter, source))
        return [_Step(setup, f"scores {one.name}", one.on or "y", (one,)) for one in (target, moved, source)]

    store = Store(tmp_path)
    missing = missing_parts([*parts(1), *parts(2)], store)
    ordered = in_order(missing)
    places = {part.key: number for number, part in enumerate(ordered)}
    assert sorted(places) == sorted(part.key for part in missing)
    assert all(places[needed.key] < places[part.key] for part in ordered for needed in part.needs)
    assert [part.setup.seed for part in ordered] == [1] * 8 + [2] * 8
    models = [part.model for part in ordered[:8] if part.model]
    assert models == ["x"] * 3 + ["y"] * 4


def test_with_room_for_two_llms_a_chain_reads_texts_twice() -> None:
    setup = _setup()
    chain: list[_Step] = []
    for number in range(4):
        chain.append(_Step(setup, f"step {number}", "xy"[number % 2], tuple(chain[-1:])))
    sizes = Sizes(train=8, validation=2, newcomers=1, texts=10, users=2)
    context: Any = SimpleNamespace(rows=lambda setup: SimpleNamespace(sizes=sizes))
    for room, readings in ((1, 4), (2, 2)):
        ordered = in_order(chain, room)
        assert ordered == chain
        work = sum(planned_work(ordered, context, room).values())
        assert work == sum(part.work(sizes) for part in chain) + readings * TEXT * sizes.texts
    memory = Memory(2)
    for name in "xyx":
        memory.use(_Step(setup, name, name))
    memory.use(_Step(setup, "z", "z"))
    assert [memory.holds(name) for name in ("x", "y", "z", None)] == [True, False, True, True]
    memory.use(_Step(_setup(2), "x", "x"))
    assert [memory.holds(name) for name in ("x", "z")] == [True, False]


def test_a_part_that_is_done_needs_nothing(tmp_path: Path) -> None:
    store, setup = Store(tmp_path), _setup()
    first = _Step(setup, "first", None)
    second = _Step(setup, "second", None, (first,))
    assert missing_parts([second], store) == [first, second]
    store.make(second, lambda folder: second.make(None, folder))
    assert missing_parts([second], store) == [] and store.read(second) == {"name": "second"}
    third = _Step(setup, "third", None, (first, second))
    assert missing_parts([third], store) == [first, third]


# Tables


def test_the_table_has_means_differences_by_seed_and_the_papers_figures() -> None:
    class Two(Experiment):
        title, reference = "two rows", "one"

        def parts(self, plan: Plan) -> dict[str, Part]:
            return {}

        def figures(self, found: Any) -> Any:
            return {}

        def draw(self, figure: Any, summary: Summary) -> None:
            pass

        def paper(self) -> dict[str, dict[str, float]]:
            return {"two": {"rmse": 0.5}}

    figures = {
        seed: {"one": {"rmse": 1.0 + seed}, "two": {"rmse": 1.5 + seed, "mae": None if seed == 2 else 0.25}}
        for seed in (0, 1, 2)
    }
    summary = Summary.of(figures)
    table = results_table(Two(config_of({})), summary)
    one, two = table.splitlines()[2:]
    assert "2.0000 ± 2.4841" in one  # t of 2 degrees, 4.3027, times 1 / sqrt(3)
    assert "2.5000 ± 2.4841" in two and "+0.5000 ± 0.0000" in two and "0.2500 ± 0.0000" in two
    assert two.rstrip(" |").endswith("0.5000") and "paper: RMSE" in table
    assert summary.cells["two"]["mae"].to_dict()["seeds"] == {"0": 0.25, "1": 0.25, "2": None}


def test_the_papers_tables_are_whole() -> None:
    assert {*paper.TABLE2} == {*paper.TABLE4} == {*paper.DATA}
    assert all(len(rows) == 12 for rows in paper.TABLE4.values())
    assert sum(map(len, paper.FIGURE4.values())) == 20
    assert paper.TABLE4["mind"]["puma"] == {"user_auc": 0.6344} and paper.TABLE4["yelp"]["ffn-loss"]["rmse"] == 1.1115
    assert paper.FIGURE4["phi"]["gemma"] == 1.0256
    assert [paper.family(name) for name in ("smollm2-135m", "google/gemma-2-2b", "x/StableLM-2", "bert")] == [
        "llama",
        "gemma",
        "stablelm",
        None,
    ]
