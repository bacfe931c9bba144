"""What is registered by name: strategies, file formats, data sets, baselines and engines."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest

from puma_hub import ModelSpec, PumaAdapter, PumaConfig, migrate, select_users
from puma_hub.adapter.facts import Evaluation
from puma_hub.cli.main import build_parser, main
from puma_hub.cli.reading import load_rows
from puma_hub.data import load_interactions
from puma_hub.errors import ConfigurationError, SelectionError, StorageError
from puma_hub.evaluation import baseline_predictions
from puma_hub.extensions import BASELINES, DATASETS, ENGINES, FORMATS, STRATEGIES, Registry
from tests.conftest import make_bank, make_interactions

REGISTRIES = (STRATEGIES, FORMATS, DATASETS, BASELINES, ENGINES)


@contextmanager
def registered(registry: Registry, name: str, target: Any, **more: Any) -> Iterator[None]:
    registry.register(name, target, "for a test", **more)
    try:
        yield
    finally:
        registry.unregister(name)


@pytest.mark.parametrize(
    ("registry", "name"), [pytest.param(registry, name, id=name) for registry in REGISTRIES for name in registry]
)
def test_every_name_leads_to_a_function(registry: Registry, name: str) -> None:
    assert callable(registry.bound(name, {})) and registry[name].about


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.kind)
def test_names_are_taken_once_and_unknown_ones_told(registry: Registry) -> None:
    taken = next(iter(registry))
    with pytest.raises(ConfigurationError, match=f"{registry.kind} '{taken}' is registered already"):
        registry.register(taken, print, "another")
    for unknown in ("nothing", None, ["list"]):
        with pytest.raises(ConfigurationError, match=f"unknown {registry.kind} .*choose one of {taken}"):
            registry.bound(unknown, {})  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="has no option 'colour'"):
        registry.bound(taken, {"colour": 1})


def test_file_endings_are_taken_once() -> None:
    with pytest.raises(ConfigurationError, match=r"ending in \.CSV are read as 'csv' already"):
        FORMATS.register("mine", print, "another", endings=(".CSV",))
    assert "mine" not in FORMATS


def test_names_are_known_without_what_is_behind_them() -> None:
    code = (
        "import sys; from puma_hub.cli.main import build_parser; build_parser(); "
        "print([name for name in ('torch', 'numpy', 'pyarrow', 'sklearn', 'transformers') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown == "[]\n"


def test_a_strategy_of_ones_own_with_an_option() -> None:
    def first(bank: Any, interactions: Any, budget: int, seed: int, *, after: int = 0) -> np.ndarray:
        return np.arange(after, after + budget)

    bank, rows = make_bank(), make_interactions(8, 3)
    with registered(STRATEGIES, "first", first):
        assert select_users(bank, rows, "first", 2, after=3) == ["user-3", "user-4"]
        with pytest.raises(ConfigurationError, match="no option 'before'; its options are after"):
            select_users(bank, rows, "first", 2, before=3)
        command = ["select", "--bank", "b", "--interactions", "i", "--out", "o"]
        chosen = build_parser().parse_args([*command, "--strategy", "first", "--option", "after=3"])
        assert chosen.strategy == "first" and dict(chosen.option) == {"after": 3}
    with pytest.raises(ConfigurationError, match="unknown strategy 'first'"):
        select_users(bank, rows, "first", 2)


@pytest.mark.parametrize("chosen", [[0], [0, 0], [0, 1, 2]])
def test_a_strategy_that_miscounts_is_refused(chosen: list[int]) -> None:
    with (
        registered(STRATEGIES, "wrong", lambda *_: chosen),
        pytest.raises(SelectionError, match=f"'wrong' chose {len(chosen)} users, .* in place of 2"),
    ):
        select_users(make_bank(), make_interactions(8, 3), "wrong", 2)


def test_options_of_the_paper_s_strategy() -> None:
    bank, rows = make_bank(40), make_interactions(40, 4)
    assert select_users(bank, rows, budget=10) == select_users(bank, rows, budget=10, clusters=15)
    assert select_users(bank, rows, budget=10) != select_users(bank, rows, budget=10, clusters=1)
    with pytest.raises(ConfigurationError, match="clusters must be a whole number >= 1 and"):
        select_users(bank, rows, clusters=0)


def test_a_file_format_of_ones_own(tmp_path: Path) -> None:
    rows = make_interactions(4, 5)

    def read_pickles(path: Path, *, sheet: str = "one") -> pa.Table:
        return rows.data.table if sheet == "one" else rows.data.table.slice(0, 4)

    (tmp_path / "rows.sheet").write_text("x")
    with pytest.raises(StorageError, match=r"unknown ending.*name the format .*: csv, json, parquet"):
        load_interactions(tmp_path / "rows.sheet")
    with registered(FORMATS, "sheets", read_pickles, endings=(".sheet",)):
        assert len(load_interactions(tmp_path / "rows.sheet")["train"]) == 16
        assert len(load_interactions(tmp_path / "rows.sheet", sheet="two")["train"]) == 3


def test_the_format_where_the_ending_does_not_tell(tmp_path: Path) -> None:
    rows = make_interactions(4, 5)
    rows.to_csv(tmp_path / "rows.data", index=False)
    assert len(load_interactions(tmp_path / "rows.data", format="csv")["train"]) == 16
    with pytest.raises(ConfigurationError, match="unknown file format 'xls'; choose one of csv"):
        load_interactions(tmp_path / "rows.data", format="xls")
    with pytest.raises(ConfigurationError, match=r"leave format='csv' out"):
        load_interactions("movielens-100k", format="csv")
    rows.save_to_disk(tmp_path / "saved")
    with pytest.raises(ConfigurationError, match="saved dataset; leave format and options of files out"):
        load_interactions(tmp_path / "saved", separator=",")


def test_a_data_set_of_ones_own(tmp_path: Path) -> None:
    def read_mine(folder: Path, *, stars: float = 5) -> datasets.Dataset:
        rows = make_interactions(4, 5)
        return rows.remove_columns("label").add_column("label", [float(stars)] * len(rows))

    with registered(DATASETS, "mine", read_mine):
        assert set(load_interactions("mine", folder=tmp_path, stars=2)["train"]["label"]) == {2.0}


def _read(*arguments: object) -> datasets.DatasetDict:
    """The rows that a command reads with these arguments."""
    needed = ("select", "--bank", "none", "--out", "none", "--interactions")
    return load_rows(build_parser().parse_args([*needed, *map(str, arguments)]))


def test_the_command_line_passes_on_any_option_of_a_reader(tmp_path: Path) -> None:
    rows = make_interactions(4, 5)

    def read_pickles(path: Path, *, first: int = 0, many: int = 20) -> pa.Table:
        return rows.data.table.slice(first, many)

    (tmp_path / "rows.sheet").write_text("x")
    with registered(FORMATS, "sheets", read_pickles, endings=(".sheet",)):
        assert len(_read(tmp_path / "rows.sheet")["train"]) == 16
        read = _read(tmp_path / "rows.sheet", "--data-option", "first=5", "--data-option", "many=10")
    assert len(read["train"]) == 8 and set(read["train"]["user_id"]) == {"user-1", "user-2"}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            ["--data-option", "sheet=two"],
            r"file format 'csv' has no option 'sheet'; its options are separator, encoding",
        ),
        (["--data-option", "users=2"], "has no option 'users'"),
        (["--encoding", "utf-8", "--data-option", "encoding=cp1252"], "encoding is given twice"),
    ],
)
def test_a_reader_s_option_that_cannot_be_used(tmp_path: Path, given: list[str], says: str) -> None:
    make_interactions(4, 5).to_csv(tmp_path / "rows.csv", index=False)
    with pytest.raises(ConfigurationError, match=says):
        _read(tmp_path / "rows.csv", *given)


def test_a_baseline_of_ones_own_is_in_reports_and_cards() -> None:
    rows = make_interactions(4, 5)
    with registered(BASELINES, "three", lambda train, rows: np.full(len(rows), 3.0)):
        assert baseline_predictions(rows, rows)["three"].tolist() == [3.0] * 20
        figures = Evaluation("d", "s", 5, 2, {"migrated": {"rmse": 1.0}, "three": {"rmse": 1.1}})
        assert list(figures.metrics) == ["migrated", "three"]
    with pytest.raises(ConfigurationError, match="unknown predictions"):
        Evaluation("d", "s", 5, 2, {"migrated": {"rmse": 1.0}, "three": {"rmse": 1.1}})


def test_an_engine_of_ones_own() -> None:
    bank = make_bank()
    adapter = PumaAdapter(PumaConfig(sources=[bank.model], target=ModelSpec("t", 24), hidden_size=48))

    def ones(adapter: Any, batches: Any, references: Any, *, value: float = 1.0) -> Any:
        for batch in batches:
            yield np.full((len(batch), 1, 24), value, np.float32), np.ones(len(batch))

    with registered(ENGINES, "ones", ones):
        assert (migrate(adapter, bank, engine="ones", value=2.0, batch_size=3).prompts == 2).all()
    with (
        registered(ENGINES, "lazy", lambda *_: iter([(np.zeros((3, 1, 24), np.float32), np.ones(3))])),
        pytest.raises(ConfigurationError, match="the engine gave 3 prompts for 8 users"),
    ):
        migrate(adapter, bank, engine="lazy")
    with pytest.raises(ConfigurationError, match="'torch' has no option 'batchsize'; it has no options"):
        migrate(adapter, bank, batchsize=3)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--strategy", "best"], "invalid choice: 'best' (choose from"),
        (["--option", "clusters"], "must be NAME=VALUE, got 'clusters'"),
        (["--format", "xls"], "invalid choice: 'xls'"),
    ],
)
def test_wrong_names_on_the_command_line(given: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["select", "--bank", "b", "--interactions", "i", "--out", "o", *given])
    assert left.value.code == 2 and said in capsys.readouterr().err


def test_one_function_under_several_names(tmp_path: Path) -> None:
    def read(folder: Path, *, release: str, stars: float = 5) -> datasets.Dataset:
        rows = make_interactions(4, 5)
        return rows.remove_columns("label").add_column("label", [float(stars)] * len(rows))

    with registered(DATASETS, "mine", read, arguments={"release": "one"}):
        assert DATASETS.options("mine") == ["stars"]
        assert set(load_interactions("mine", folder=tmp_path, stars=2)["train"]["label"]) == {2.0}
        with pytest.raises(ConfigurationError, match="has no option 'release'; its options are stars"):
            load_interactions("mine", folder=tmp_path, release="two")
