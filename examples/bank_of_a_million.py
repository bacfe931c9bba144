"""What a bank of many users costs: seconds and peak memory of opening it, reading some or all of it, and migrating it.

    python examples/bank_of_a_million.py --users 1000000 --size 576

The bank is written to a temporary folder (2.3 GB for a million users) and removed at the end. Each figure comes from
a process of its own, whose peak memory is that of what it did; ``import`` is what a process needs that does nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STEPS = (
    *("write", "import", "open", "look up one user", "select two users", "iterate", "prompts of all"),
    *("migrate and save", "migrate into files"),
)


def write(folder: Path, users: int, size: int) -> None:
    import numpy as np

    from puma_hub import ModelSpec, PromptBank

    prompts = np.random.default_rng(0).standard_normal((users, 1, size), dtype=np.float32)
    prompts.setflags(write=False)  # so that the bank takes it without a copy
    ids = [f"user-{number:09d}" for number in range(users)]
    PromptBank.from_arrays(ids, prompts, ModelSpec("some/model", size)).save_pretrained(folder)


def migrate_bank(folder: Path, size: int, into_files: bool) -> None:
    from puma_hub import ModelSpec, PromptBank, PumaAdapter, PumaConfig
    from puma_hub.migration import migrate, migrate_to

    bank = PromptBank.from_pretrained(folder)
    adapter = PumaAdapter(PumaConfig(sources=[bank.model], target=ModelSpec("another/model", size)))
    target = folder.with_name("migrated")
    if into_files:
        migrate_to(target, adapter, bank)
    else:
        migrate(adapter, bank).save_pretrained(target)


def measure(step: str, folder: Path, users: int, size: int) -> None:
    from puma_hub import PromptBank

    started = time.perf_counter()
    if step == "write":
        write(folder, users, size)
    elif step.startswith("migrate"):
        migrate_bank(folder, size, into_files=step == "migrate into files")
    elif step != "import":
        bank = PromptBank.from_pretrained(folder)
        some = [f"user-{users // part:09d}" for part in (2, 3)]
        if step != "open":
            started = time.perf_counter()
        if step == "look up one user":
            assert bank[some[0]].any()
        elif step == "select two users":
            assert len(bank.select(some)) == 2
        elif step == "iterate":
            assert sum(1 for _ in bank) == len(bank)
        elif step == "prompts of all":
            assert len(bank.prompts) == len(bank)
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": round(seconds, 4), "peak_MB": peak_memory() >> 20}))


def peak_memory() -> int:
    """Bytes of this process at most, or of what started it if that was larger: so that is kept small."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--size", type=int, default=576, help="hidden size")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        measure(args.step, Path(args.folder), args.users, args.size)
        return
    print(f"{args.users:,} users x {args.size} float32: {args.users * args.size * 4 / 1e9:.2f} GB")
    with tempfile.TemporaryDirectory() as place:
        for step in STEPS:
            command = [sys.executable, __file__, "--step", step, "--folder", f"{place}/bank"]
            command += ["--users", str(args.users), "--size", str(args.size)]
            found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
            print(f"{step:20} {found['seconds']:9.4f} s {found['peak_MB']:7} MB at most")


if __name__ == "__main__":
    main()
