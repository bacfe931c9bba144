"""The machine-readable report of a run."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch

from puma_hub.errors import StorageError
from puma_hub.scorer import EncodedRows, PersonalizedLM
from puma_hub.storage import read_json
from puma_hub.training.state import RunState

_PACKAGES = ("puma_hub", "torch", "transformers", "datasets", "accelerate", "numpy")

FLOPS_FORMULA = (
    "2 * P * tokens forward and 2 * P * tokens backward, P the weights of the layers' matrices; attention products, "
    "embeddings and the answer rows are left out; a cached prefix counts once"
)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the result."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def peak_memory() -> dict[str, int]:
    """Peak memory of this process so far, in bytes."""
    peak = {"ram": _peak_ram()}
    if torch.cuda.is_available():
        peak["cuda"] = torch.cuda.max_memory_allocated()
    return peak


def _peak_ram() -> int:
    try:
        import resource
    except ImportError:  # Windows
        memory = psutil.Process().memory_info()
        return int(getattr(memory, "peak_wset", memory.rss))
    unit = 1 if sys.platform == "darwin" else 1024
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def layer_weights(lm: PersonalizedLM) -> int:
    """Weights in the matrices that every token passes: all but the embeddings and the output layer."""
    outer = {
        id(p) for part in (lm.model.get_input_embeddings(), lm.model.get_output_embeddings()) for p in part.parameters()
    }
    return sum(p.numel() for p in lm.model.parameters() if p.ndim >= 2 and id(p) not in outer)


def forward_flops(lm: PersonalizedLM, rows: EncodedRows, prompt_length: int) -> tuple[float, float]:
    """Estimated FLOPs of one forward pass over all ``rows`` and of their prefixes; see ``FLOPS_FORMULA``.

    Returns:
        ``(after, before)``: the tokens from the slot on, and the prefixes (once each where they are cached, once
        a row where they are not).
    """
    weights = layer_weights(lm)
    after = sum(prompt_length + len(suffix) for suffix in rows.suffixes)
    cached = lm.cache_report.policy in ("full", "lru")
    before = sum(len(prefix) for prefix in (set(rows.prefixes) if cached else rows.prefixes))
    return 2.0 * weights * after, 2.0 * weights * before


def require_own_report(path: Path) -> None:
    """Refuse to write a report over a file of somebody else's.

    Raises:
        StorageError: there is a file at ``path`` which :func:`common_facts` or the demo did not make.
    """
    if not path.is_file():
        return
    try:
        ours = isinstance(read_json(path).get("versions"), dict)
    except StorageError:
        ours = False
    if not ours:
        raise StorageError(f"{path} is no report of puma_hub, and would be replaced; move it, or choose another folder")


def common_facts(**facts: Any) -> dict[str, Any]:
    """The parts every report has."""
    return {**facts, "versions": versions(), "peak_memory_bytes": peak_memory(), "machine": platform.machine()}


def training_facts(state: RunState, rows: int, seed: int) -> dict[str, Any]:
    """What a run's state says for its report."""
    share = state.best_epoch / max(1.0, state.passes)
    running = state.seconds["training"] + state.seconds["validation"]
    return {
        "losses": state.losses,
        "validation_losses": state.metrics,
        "best_epoch": state.best_epoch,
        "epochs": len(state.losses),
        "rows": rows,
        "seconds": {
            **state.seconds,
            "total": sum(state.seconds.values()),
            "until_best_epoch": running * share
            + sum(state.seconds[part] for part in ("prefix_cache", "start", "sensitivity")),
        },
        "samples_per_second": state.rows["training"] / max(state.seconds["training"], 1e-9),
        "seed": seed,
    }
