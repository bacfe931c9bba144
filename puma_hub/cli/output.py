"""The output of commands: printed text, tables and report files."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Result:
    """``text`` is printed to standard output; ``report`` is written to the file of ``--json``; then comes ``after``.

    ``status``: the exit status, 1 where the work was done and the answer is no.
    """

    text: str
    report: dict[str, Any]
    after: Callable[[], None] | None = None
    status: int = 0


def say(message: str) -> None:
    """Print progress to standard error."""
    print(message, file=sys.stderr, flush=True)


def finish(result: Result, json_file: str | None) -> None:
    """Print the text and write the report."""
    if json_file is not None:
        from puma_hub.storage import write_json

        write_json(json_file, result.report)
    print(result.text, flush=True)  # before what comes after


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table of text. Pipe and control characters in cells are escaped."""
    from tabulate import tabulate

    from puma_hub.hub.markup import visible

    headers, *cells = [[visible(cell).replace("|", "\\|") for cell in row] for row in (columns, *rows)]
    return tabulate(cells, headers, tablefmt="github", disable_numparse=True)


def metrics_table(rows: dict[str, dict[str, float | None]]) -> str:
    """A Markdown table of metrics with one row for each name. Metrics that are not defined are a dash."""
    columns = list(dict.fromkeys(key for values in rows.values() for key in values))
    return table(
        ["", *columns],
        [[name, *(_figure(values[key]) if key in values else "" for key in columns)] for name, values in rows.items()],
    )


def _figure(value: float | None) -> str:
    return "-" if value is None else format(value, ".4f")
