"""Running experiments: compute what is missing, and write figures, table and picture of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from puma_hub.demo.quiet import quiet
from puma_hub.demo.settings import compute_dtype
from puma_hub.errors import StorageError
from puma_hub.evaluation.pictures import new_figure, require_matplotlib, require_own_file, save_picture
from puma_hub.extensions import EXPERIMENTS
from puma_hub.reproduce import paper
from puma_hub.reproduce.config import ReproduceConfig
from puma_hub.reproduce.context import Context
from puma_hub.reproduce.experiment import Experiment
from puma_hub.reproduce.part import Part
from puma_hub.reproduce.plan import Plan
from puma_hub.reproduce.schedule import compute
from puma_hub.reproduce.store import Store
from puma_hub.reproduce.summary import Summary
from puma_hub.reproduce.tables import page, trust
from puma_hub.storage import new_file, write_json
from puma_hub.training.report import machine, require_own_report, versions

_SIZE = 11, 5  # inches of a picture


def output_files(name: str, out: str | Path) -> dict[str, Path]:
    """The files of an experiment by their kind: ``json``, ``md`` and ``png``."""
    return {kind: Path(out, f"{name}.{kind}") for kind in ("json", "md", "png")}


def run_experiments(
    commands: Mapping[str, str], config: ReproduceConfig, out: str | Path, say: Callable[[str], None]
) -> dict[str, tuple[str, dict[str, Any]]]:
    """Run experiments for all seeds; leave their files in ``out`` and return each one's page and report.

    Parts that are done, by these or other experiments, are taken as they are. What is missing for all of them is
    computed in one go, so that each LLM reads the texts of a seed once.

    Args:
        commands: what to type for each experiment, by its name.
        say: takes a line of progress.

    Raises:
        ConfigurationError: there is no such experiment, or the configuration does not fit the data.
        MissingDependencyError: matplotlib is not installed.
        StorageError: a file in ``out`` would be replaced that is not ours.
    """
    experiments: dict[str, Experiment] = {name: EXPERIMENTS.require(name).load()(config) for name in commands}
    require_matplotlib("experiments draw pictures")
    for name in commands:
        _require_own(output_files(name, out))
    store = Store(Path(out))
    began = time.monotonic()
    plans = {seed: Plan.of(config, seed) for seed in config.seeds}
    parts = {name: {seed: one.parts(plan) for seed, plan in plans.items()} for name, one in experiments.items()}
    wanted = [part for by_seed in parts.values() for found in by_seed.values() for part in found.values()]
    with quiet():
        context = Context(store, say, config.device, config.llms_at_once)
        made = compute(wanted, store, context, say, config.llms_at_once)
    how = {
        "config": config.to_dict(),
        "seeds": config.seeds,
        "trust": trust(config.seeds),
        "parts_made": made,
        "seconds": time.monotonic() - began,
        "dtype": str(compute_dtype(config.dtype)).removeprefix("torch."),
        "machine": machine(),
        "versions": versions(),
    }
    return {
        name: _written(name, experiment, parts[name], store, {"command": commands[name], **how}, out)
        for name, experiment in experiments.items()
    }


def _written(
    name: str,
    experiment: Experiment,
    parts: Mapping[int, Mapping[str, Part]],
    store: Store,
    how: Mapping[str, Any],
    out: str | Path,
) -> tuple[str, dict[str, Any]]:
    """Write page, report and picture of an experiment whose parts are done."""
    by_seed = {
        seed: experiment.figures({part_name: store.facts(part) for part_name, part in found.items()})
        for seed, found in parts.items()
    }
    summary = Summary.of(by_seed)
    report: dict[str, Any] = {
        "experiment": name,
        "title": experiment.title,
        "figures": summary.to_dict(),
        "paper": experiment.paper(),
        "paper_source": f"{paper.CITATION}, {experiment.paper_source}" if experiment.paper() else None,
        "notes": experiment.notes(summary),
        "parts": {str(seed): {n: part.key for n, part in found.items()} for seed, found in parts.items()},
        **how,
    }
    files = output_files(name, out)
    text = page(name, experiment, summary, report)
    figure = new_figure(*_SIZE)
    experiment.draw(figure, summary)
    save_picture(figure, files["png"])
    with new_file(files["md"]) as staged:
        staged.write_text(text, encoding="utf-8")
    write_json(files["json"], report)
    return text, report


def _require_own(files: dict[str, Path]) -> None:
    require_own_report(files["json"])
    require_own_file(files["png"])
    if files["md"].exists() and not files["json"].is_file():
        raise StorageError(
            f"{files['md']} is no page of puma_hub, and would be replaced; move it, or choose another folder"
        )
