"""Pictures as PNG files that are known as ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from puma_hub.errors import MissingDependencyError, StorageError
from puma_hub.storage import new_file

_SOFTWARE = "puma_hub"  # among the file's metadata, which come before the pixels
_METADATA = 512  # bytes


def require_matplotlib(why: str) -> None:
    """Refuse before the work is done, not after it.

    Args:
        why: what is drawn, such as ``"the demo draws demo.png"``.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(f'{why}; run: pip install "puma_hub[demo]"') from error


def require_own_picture(path: Path) -> None:
    """Refuse to draw over a file of somebody else's.

    Raises:
        StorageError: there is a file at ``path`` which :func:`save_picture` did not make.
    """
    if path.exists() and not (path.is_file() and _SOFTWARE.encode() in path.read_bytes()[:_METADATA]):
        raise StorageError(
            f"{path} is no picture of puma_hub, and would be replaced; move it, or choose another folder"
        )


def new_figure(width: float, height: float) -> Any:
    """An empty matplotlib figure of so many inches, which needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_picture(figure: Any, path: Path) -> None:
    """Write a figure as a PNG of 120 pixels an inch."""
    with new_file(path) as staged:
        figure.savefig(staged, format="png", dpi=120, metadata={"Software": _SOFTWARE})
