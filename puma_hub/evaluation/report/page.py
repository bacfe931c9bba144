"""A report as one HTML page that fetches nothing and runs nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from puma_hub._version import __version__
from puma_hub.evaluation.pictures import SOFTWARE, require_matplotlib, require_own_file
from puma_hub.evaluation.report.drawings import drawings
from puma_hub.storage import new_file

_TEMPLATE = "page.html"
_NONE = "not defined"
_STAYS = "\N{NO-BREAK SPACE}"  # no line ends here


def require_page(path: str | os.PathLike[str]) -> None:
    """Refuse before the work is done what :func:`save_page` would refuse after it.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        StorageError: there is a file of somebody else's.
    """
    require_matplotlib("reports hold pictures", "report")
    require_own_file(Path(path), "report")


def save_page(data: Mapping[str, Any], gains: np.ndarray, path: str | os.PathLike[str]) -> None:
    """Write the page; see :meth:`puma_hub.evaluation.report.migration.MigrationReport.save`."""
    require_page(path)
    text = page(data, gains)
    with new_file(path) as staged:
        staged.write_text(text, encoding="utf-8")


def page(data: Mapping[str, Any], gains: np.ndarray) -> str:
    """The page of a report's ``data``, with the users' personal gains ``(U, 2)`` as a picture."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"figure": _figure, "interval": _interval, "percent": _percent, "whole": _whole}
    template = environment.from_string(files(__package__).joinpath(_TEMPLATE).read_text(encoding="utf-8"))
    return template.render(report=data, pictures=drawings(data, gains), software=f"{SOFTWARE} {__version__}")


def _figure(value: float | None, signed: bool = False) -> str:
    return _NONE if value is None else format(round(value, 4) + 0.0, "+.4f" if signed else ".4f")  # no -0.0000


def _percent(value: float | None, signed: bool = False) -> str:
    return (
        _NONE
        if value is None
        else format(round(value, 3) + 0.0, "+.1%" if signed else ".1%").replace("%", f"{_STAYS}%")
    )


def _whole(value: float | None) -> str:
    return "not recorded" if value is None else format(value, ",.0f")


def _interval(found: Mapping[str, float | None] | None, how: str = "figure", signed: bool = False) -> str:
    """An estimate and the bounds of its interval, such as ``0.8012 (0.7793 to 0.8240)``."""
    shown = {"figure": _figure, "percent": _percent}[how]
    if found is None or found["estimate"] is None:
        return _NONE
    estimate = shown(found["estimate"], signed)
    if found["low"] is None and found["high"] is None:
        return estimate
    low, high = ("no bound" if found[end] is None else shown(found[end], signed) for end in ("low", "high"))
    return f"{estimate} ({low} to{_STAYS}{high})"
