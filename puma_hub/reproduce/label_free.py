"""Migration without labels: from the users' own rows, from a catalogue, and without any user."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from puma_hub.directions import retention
from puma_hub.reproduce import charts
from puma_hub.reproduce.banks import SampledBank
from puma_hub.reproduce.experiment import Experiment, Figures
from puma_hub.reproduce.lessons import DrawnRows, LabelledRows, Lessons, TaughtRows
from puma_hub.reproduce.part import BankPart, Part
from puma_hub.reproduce.plan import Plan
from puma_hub.reproduce.scores import PersonalGain, Scores
from puma_hub.reproduce.summary import Summary

LABELS, OWN, CATALOGUE, SAMPLED = "labels", "own rows", "catalogue", "sampled prompts"
_SOURCE, _RETRAINED, _UNSEEN = "source", "retrained", "unseen"
_ALL = "all users"


class LabelFree(Experiment):
    """What the adapter learns from, and how few items and rows are enough."""

    title = "What the adapter learns from"
    reference = _RETRAINED

    def parts(self, plan: Plan) -> dict[str, Part]:
        source = plan.bank(self.config.source)
        selection = plan.selection(source)
        found: dict[str, Part] = {
            _SOURCE: Scores(plan.setup, source),
            f"{_UNSEEN} {_SOURCE}": PersonalGain(plan.setup, source, selection),
            _RETRAINED: Scores(plan.setup, plan.bank(self.config.target)),
        }
        for name, (bank, lessons) in self._ways(plan, source).items():
            migrated = plan.migrated(plan.adapter(bank, self.config.target, lessons=lessons), source)
            found[name] = Scores(plan.setup, migrated)
            found[f"{_UNSEEN} {name}"] = PersonalGain(plan.setup, migrated, selection)
        return found

    def _ways(self, plan: Plan, source: BankPart) -> dict[str, tuple[BankPart, Lessons]]:
        """The bank each adapter is trained on, and what it learns from."""
        setup, adapter, selection = plan.setup, self.config.adapter, plan.selection(source)
        ways: dict[str, tuple[BankPart, Lessons]] = {
            LABELS: (source, LabelledRows(setup, selection, adapter.rows_per_user)),
            OWN: (source, TaughtRows(setup, source, selection, adapter.rows_per_user, {})),
        }
        sizes = {"": (adapter.items, adapter.rows)}
        sizes |= {_items(items): (items, adapter.rows) for items in self.config.label_free.items}
        sizes |= {_rows(rows): (adapter.items, rows) for rows in self.config.label_free.rows}
        for told, (items, rows) in sizes.items():
            sampled = SampledBank(setup, source, rows)
            ways[CATALOGUE + told] = source, DrawnRows(setup, source, selection, items, rows, {})
            ways[SAMPLED + told] = sampled, DrawnRows(setup, sampled, None, items, rows, {})
        return ways

    def figures(self, found: Mapping[str, Any]) -> Figures:
        before = self._unseen(found, _SOURCE)["gain"]
        rows: Figures = {}
        for name, report in found.items():
            if name.startswith(f"{_UNSEEN} "):
                continue
            after = self._unseen(found, name)
            rows[name] = {
                _ALL: report["metrics"][self.metric],
                **{column: after.get(column) for column in ("own", "mean", "shuffled")},
                "retention": None if name == _SOURCE else retention(before, after.get("gain")),
            }
        return rows

    def _unseen(self, found: Mapping[str, Any], name: str) -> Mapping[str, Any]:
        """Figures of users whom the adapter never saw, with own, mean and deranged prompts; none for some ways."""
        report = found.get(f"{_UNSEEN} {name}")
        return report["by_metric"][self.metric] if report is not None else {}

    def labels(self) -> dict[str, str]:
        what = self.metric.upper()
        return {
            _ALL: f"all users, {what}",
            "own": "unseen users: own",
            "mean": "mean",
            "shuffled": "deranged",
            SAMPLED: "sampled prompts: no user",
            _SOURCE: "source prompts on the source LLM",
            _RETRAINED: "retrained on the target",
        }

    def notes(self, summary: Summary) -> list[str]:
        adapter = self.config.adapter
        return [
            f"Drawn rows are {adapter.rows} of {adapter.items} items where nothing else is said. Rows and items are "
            f"drawn for {self.config.share:.0%} of the users, or for prompts sampled from the bank's distribution.",
            "Unseen users are outside that share. Differences are from retraining, in the first column.",
        ]

    def draw(self, figure: Any, summary: Summary) -> None:
        adapter, curves = self.config.adapter, self.config.label_free
        kinds = (("items", _items, adapter.items, curves.items), ("rows", _rows, adapter.rows, curves.rows))
        for axes, (what, name, default, numbers) in zip(figure.subplots(1, 2), kinds):
            told = {number: name(number) for number in numbers} | {default: ""}
            shown = {
                what: {way: summary.cells[way + told[number]][_ALL] for way in (CATALOGUE, SAMPLED)}
                for number in sorted(told)
                for what in [str(number)]
            }
            places = {row: float(row) for row in shown}
            charts.curves(axes, Summary(shown), places, [CATALOGUE, SAMPLED], (what, self.metric.upper()))


def _items(number: int) -> str:
    return f", {number} items"


def _rows(number: int) -> str:
    return f", {number} rows"
