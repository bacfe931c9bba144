"""Each user's personal gain, on the source LLM and on the target LLM, as a picture."""

from __future__ import annotations

from typing import Any

import numpy as np

from puma_hub.evaluation.compare import Controls, rated_users

_LINES = "#8a929b"
_LEAST_WIDTH = 1e-6  # where all gains are the same
_MARGIN = 0.05  # of an axis
_MANY = 2000  # points; more are drawn as pixels, and smaller


def paired_gains(before: Controls, after: Controls) -> np.ndarray:
    """The gains ``(U, 2)`` of the users with rows on both sides, on the source and on the target."""
    sides = before.gain_by_user(), after.gain_by_user()
    return np.array([[gains[user] for gains in sides] for user in rated_users(before, after)])


def draw_gains(axes: Any, points: np.ndarray, colour: str) -> None:
    """A point for each row of ``points (U, 2)``: the gain on the source across, that on the target up."""
    low, high = points.min(), max(points.max(), points.min() + _LEAST_WIDTH)
    limits = low - _MARGIN * (high - low), high + _MARGIN * (high - low)
    axes.plot(limits, limits, color=_LINES, linewidth=1)
    axes.axhline(0, color=_LINES, linewidth=0.5)
    axes.axvline(0, color=_LINES, linewidth=0.5)
    many = len(points) > _MANY
    axes.scatter(*points.T, s=4 if many else 18, alpha=0.7, color=colour, linewidths=0, rasterized=many)
    axes.set(xlim=limits, ylim=limits, xlabel="personal gain on the source LLM", ylabel="... on the target LLM")
    axes.spines[["top", "right"]].set_visible(False)
