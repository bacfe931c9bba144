"""How fast a frozen LLM's matrix products are: torch as it is, OpenBLAS through numpy, and weights packed once.

    python benchmarks/matrix_products.py --threads 1

Rows are soft tokens of a batch; sizes are those of SmolLM2-135M and Gemma-3-270M. GFLOP/s, the best of some runs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

SIZES = ((576, 1536), (640, 2048), (2048, 640))
ROWS = (64, 256, 1024)
RUNS = 15


def fastest(work: Callable[[], object]) -> float:
    work()
    found = []
    for _ in range(RUNS):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return min(found)


def ways(states: torch.Tensor, weight: torch.Tensor) -> dict[str, Callable[[], object]]:
    """The same product of ``states (n, a)`` and ``weight (b, a)`` in several ways."""
    plain, other = states.numpy(), weight.numpy()
    found: dict[str, Callable[[], object]] = {
        "torch": lambda: torch.nn.functional.linear(states, weight),
        "numpy": lambda: plain @ other.T,
    }
    onednn = torch.ops.mkldnn._reorder_linear_weight(weight, len(states))
    found["packed, oneDNN"] = lambda: torch.ops.mkldnn._linear_pointwise(states, onednn, None, "none", [], "")
    if torch.backends.mkl.is_available():
        mkl = torch.ops.mkl._mkl_reorder_linear_weight(weight, len(states))
        found["packed, MKL"] = lambda: torch.ops.mkl._mkl_linear(states, mkl, weight, None, len(states))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for size, wider in SIZES:
        for rows in ROWS:
            states, weight = torch.randn(rows, size), torch.randn(wider, size)
            flops = 2 * rows * size * wider
            with torch.no_grad():
                rates = {name: flops / fastest(way) / 1e9 for name, way in ways(states, weight).items()}
            print(f"{rows} x {size} x {wider}: " + ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items()))


if __name__ == "__main__":
    main()
