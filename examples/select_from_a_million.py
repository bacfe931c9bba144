"""What a selection costs: seconds and peak memory of each strategy that asks no LLM.

    python examples/select_from_a_million.py --users 1000000 --size 576 --budget 2000

The bank is made of normal numbers around 40 centres, with 5 rows a user, written to a temporary folder (2.4 GB for a
million users) and removed at the end. Each figure comes from a process of its own. Seconds are those of
``select_users`` on a bank in memory, on the clock and of all processors together. Memory is the process's at most, with
the prompts; ``none`` loads them and selects nobody.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import datasets

NOTHING = "none"
ROWS_A_USER = 5
CENTRES = 40


def write(folder: Path, users: int, size: int) -> None:
    import numpy as np

    from puma_hub import ModelSpec, PromptBank

    generator = np.random.default_rng(0)
    prompts = generator.standard_normal((users, 1, size), dtype=np.float32)
    centres = generator.standard_normal((CENTRES, 1, size), dtype=np.float32)
    prompts += centres[generator.integers(0, CENTRES, users)]
    prompts.setflags(write=False)  # so that the bank takes it without a copy
    ids = [f"user-{number:09d}" for number in range(users)]
    PromptBank.from_arrays(ids, prompts, ModelSpec("some/model", size)).save_pretrained(folder / "bank")
    interactions(ids).save_to_disk(str(folder / "rows"))


def interactions(ids: list[str]) -> datasets.Dataset:
    import datasets
    import numpy as np
    import pyarrow as pa

    generator = np.random.default_rng(1)
    count = len(ids) * ROWS_A_USER
    items = pa.DictionaryArray.from_arrays(
        pa.array(generator.integers(0, 1000, count), pa.int32()), pa.array([f"item {number}" for number in range(1000)])
    ).cast(pa.string())
    users = pa.array(ids).take(pa.array(generator.permutation(count) % len(ids)))
    labels = pa.array(generator.integers(1, 6, count).astype(np.float64))
    return datasets.Dataset(pa.table({"user_id": users, "item_id": items, "item_text": items, "label": labels}))


def measure(strategy: str, folder: Path, budget: int) -> None:
    import datasets

    from puma_hub import PromptBank, select_users

    bank = PromptBank.from_pretrained(folder / "bank")
    rows = datasets.load_from_disk(str(folder / "rows"))
    assert len(bank.prompts) == len(bank)
    started, before = time.perf_counter(), time.process_time()
    if strategy != NOTHING:
        assert len(select_users(bank, rows, strategy, budget)) == min(budget, len(bank))
    found = {"seconds": time.perf_counter() - started, "processor_seconds": time.process_time() - before}
    print(json.dumps({**found, "peak_MB": peak_memory() >> 20}))


def peak_memory() -> int:
    """Bytes of this process at most, or of what started it if that was larger: so that is kept small."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def strategies() -> list[str]:
    from puma_hub.extensions import STRATEGIES

    asking = ("lm", "losses")
    return [name for name in STRATEGIES if not set(asking) & set(STRATEGIES.options(name))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--size", type=int, default=576, help="hidden size")
    parser.add_argument("--budget", type=int, default=2000)
    parser.add_argument("--strategies", nargs="+", help="default: all that ask no LLM")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step == "write":
        write(Path(args.folder), args.users, args.size)
    elif args.step == "list":
        print(json.dumps(strategies()))
    elif args.step:
        measure(args.step, Path(args.folder), args.budget)
    else:
        run(args)


def run(args: argparse.Namespace) -> None:
    print(f"{args.budget:,} of {args.users:,} users x {args.size} float32: {args.users * args.size * 4 / 1e9:.2f} GB")
    with tempfile.TemporaryDirectory() as place:

        def step(name: str) -> str:
            command = [sys.executable, __file__, "--step", name, "--folder", place, "--budget", str(args.budget)]
            command += ["--users", str(args.users), "--size", str(args.size)]
            return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout

        step("write")
        for strategy in [NOTHING, *(args.strategies or json.loads(step("list")))]:
            found = json.loads(step(strategy))
            seconds = f"{found['seconds']:9.2f} s ({found['processor_seconds']:.2f} s of processors)"
            print(f"{strategy:12} {seconds} {found['peak_MB']:7} MB at most", flush=True)


if __name__ == "__main__":
    main()
