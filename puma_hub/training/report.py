"""The machine-readable report of a run."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
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

# Names in configurations for the number of experts, and for the number of experts each token is routed to.
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_ACTIVE_EXPERTS = ("num_experts_per_tok", "moe_topk", "moe_k", "top_k_experts")

FLOPS_FORMULA = (
    "2 * P * tokens forward and 2 * P * tokens backward, where P is the number of weights in the layers' matrices (in "
    "a mixture of experts, of the active experts); attention products, embeddings and the answer rows are left out; a "
    "cached prefix counts once"
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


def machine() -> str:
    """Processor, number of cores that this process may use, and GPU, in words."""
    processor = _processor()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ", no GPU"
    threads = torch.get_num_threads()
    return f"{platform.system()} {processor}, cores: {cores}, threads: {threads}{gpu}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


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
    """The number of weights a token is multiplied with: all but embeddings, output layer and inactive experts."""
    outer = {
        id(p) for part in (lm.model.get_input_embeddings(), lm.model.get_output_embeddings()) for p in part.parameters()
    }
    config = lm.model.config.get_text_config()
    experts, active = (_first_number(config, names) for names in (_EXPERTS, _ACTIVE_EXPERTS))

    def passed(weight: torch.Tensor) -> int:
        """The number of weights used for one token; transformers stacks the matrices of all experts in one tensor."""
        stacked = weight.ndim == 3 and len(weight) == experts and weight.shape[1] > 1  # not a convolution's
        return weight.numel() * active // experts if stacked and active else weight.numel()

    named = lm.model.named_parameters()  # experts' biases are stacked too, but are added, not multiplied
    return sum(passed(p) for name, p in named if p.ndim >= 2 and id(p) not in outer and not name.endswith("bias"))


def _first_number(config: Any, names: Sequence[str]) -> int:
    return next((value for name in names if isinstance(value := getattr(config, name, None), int)), 0)


def forward_flops(lm: PersonalizedLM, rows: EncodedRows, prompt_length: int) -> tuple[float, float]:
    """Estimated FLOPs of one forward pass over all ``rows`` and of their prefixes; see ``FLOPS_FORMULA``.

    Returns:
        ``(after, before)``: the FLOPs of the tokens from the soft prompt on, and of the prefixes before it. A cached
        prefix counts once, others once for each row.
    """
    weights = layer_weights(lm)
    after = (prompt_length + rows.filled_length) * len(rows) + sum(rows.text_after)
    cached = lm.cache_report.policy in ("full", "lru")
    before = sum(len(prefix) for prefix in (set(rows.prefixes) if cached else rows.prefixes))
    return 2.0 * weights * after, 2.0 * weights * before


def require_own_report(path: Path) -> None:
    """Check that a report may be written to ``path``: nothing is there, or an earlier report.

    Raises:
        StorageError: there is a file at ``path`` that is not a report of puma_hub.
    """
    if not path.is_file():
        return
    try:
        ours = isinstance(read_json(path).get("versions"), dict)
    except StorageError:
        ours = False
    if not ours:
        raise StorageError(f"{path} would be replaced, but is no report of puma_hub; move it, or choose another folder")


def common_facts(**facts: Any) -> dict[str, Any]:
    """``facts``, with the entries that every report has."""
    return {**facts, "versions": versions(), "peak_memory_bytes": peak_memory(), "machine": platform.machine()}


def training_facts(state: RunState, rows: int, seed: int) -> dict[str, Any]:
    """The entries of a report that come from the run's state."""
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
            + sum(state.seconds[part] for part in ("prefix_cache", "start", "solving", "sensitivity")),
        },
        "samples_per_second": state.rows["training"] / max(state.seconds["training"], 1e-9),
        "seed": seed,
    }
