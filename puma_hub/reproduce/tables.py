"""An experiment's results as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

from puma_hub.reproduce import paper
from puma_hub.reproduce.experiment import Experiment
from puma_hub.reproduce.summary import ENOUGH_SEEDS, Estimate, Summary, heading

_LARGE, _SMALL = 1e6, 10.0


def page(name: str, experiment: Experiment, summary: Summary, facts: Mapping[str, Any]) -> str:
    """The page ``EXPERIMENT.md``: what was asked, the table, what it means, and how it was made."""
    config = experiment.config
    seeds = facts["seeds"]
    lines = [f"# {name}: {experiment.title}", "", results_table(experiment, summary), ""]
    lines += [f"- {note}" for note in experiment.notes(summary)]
    lines.append(f"- {trust(seeds)}")
    if experiment.paper():
        lines.append(
            f"- The paper's figures: {paper.CITATION}, {experiment.paper_source}. They are of other LLMs and data "
            f"({config.paper}): compare how rows rank, not their values."
        )
    lines += [
        "",
        f"![{experiment.title}]({name}.png)",
        "",
        "```bash",
        facts["command"],
        "```",
        "",
        f"Models {', '.join(config.models)}; data {config.data.name}, {config.data.users} users a seed; seeds "
        f"{', '.join(map(str, seeds))}; dtype {facts['dtype']}. Machine: {facts['machine']}. Versions: "
        + ", ".join(f"{package} {version}" for package, version in facts["versions"].items())
        + ".",
        "",
    ]
    return "\n".join(lines)


def trust(seeds: Sequence[int]) -> str:
    """How far the figures can be trusted, by the number of seeds."""
    several = "each with users and rows of its own"
    if len(seeds) == 1:
        return "One seed alone: no interval, and no conclusion. Give three seeds at least."
    told = f"Mean over {len(seeds)} seeds, {several}; ± is half of the 95 % interval (Student's t)."
    return told if len(seeds) >= ENOUGH_SEEDS else f"{told} Fewer than three seeds: no conclusion."


def results_table(experiment: Experiment, summary: Summary) -> str:
    """The table: our figures, the difference from the reference, and the paper's where there are some."""
    labels, theirs = experiment.labels(), experiment.paper()
    columns = summary.columns
    compared = next((column for column in (experiment.metric, *columns) if column in columns), None)
    differences: dict[str, Estimate] = {}
    if experiment.reference in summary.cells and compared is not None:
        differences = summary.differences(compared, experiment.reference)
    told = [column for column in columns if any(column in row for row in theirs.values())]
    headers = ["", *(heading(column, labels) for column in columns)]
    headers += ["difference"] if differences else []
    headers += [f"paper: {heading(column, labels)}" for column in told]
    rows = []
    for row, cells in summary.cells.items():
        line = [labels.get(row, row), *(_cell(cells.get(column)) for column in columns)]
        line += [_cell(differences.get(row), sign=True)] if differences else []
        line += [_figure(theirs.get(row, {}).get(column)) for column in told]
        rows.append([text.replace("|", "\\|") for text in line])
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def _cell(estimate: Estimate | None, sign: bool = False) -> str:
    if estimate is None or estimate.mean is None:
        return ""
    half = estimate.half_width
    return _figure(estimate.mean, sign) + ("" if half is None else f" ± {_figure(half)}")


def _figure(value: float | None, sign: bool = False) -> str:
    if value is None:
        return ""
    kind = ".3g" if abs(value) >= _LARGE else ".1f" if abs(value) >= _SMALL else ".4f"
    return format(value, ("+" if sign else "") + kind)
