#!/usr/bin/env python3
"""How often the intervals of a migration's report hold the true figure: 1,000 simulated sets of users.

    python benchmarks/interval_coverage.py [--users 200] [--sets 1000] [--resamples 600]

From a clone: the users are those of tests/simulated.py, whose true figures are known in closed form.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
SIDES = ("source", "target")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--sets", type=int, default=1000)
    parser.add_argument("--resamples", type=int, default=600)
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    from puma_hub import RatingTask
    from puma_hub.evaluation.compare import Controls
    from puma_hub.evaluation.report.bootstrap import Bootstrap
    from puma_hub.evaluation.report.figures import figures
    from puma_hub.evaluation.report.paired import PairedRows
    from tests.simulated import simulated, true_figures

    task, true = RatingTask(), true_figures()
    bootstrap, held = Bootstrap(arguments.users, arguments.resamples, 1), dict.fromkeys(true, 0)
    for seed in range(arguments.sets):
        drawn = simulated(np.random.default_rng(seed), arguments.users)
        ids = drawn["users"].tolist()
        rows = PairedRows(task, drawn["users"], drawn["labels"], drawn["source"], drawn["target"])
        compared = {side: Controls(task, ids, drawn["labels"], drawn[side]).report() for side in SIDES}
        found = figures(rows, compared, bootstrap)["rmse"]
        intervals = {
            **{side: found[side]["own"] for side in SIDES},
            **{f"{side} gain": found[side]["gain"] for side in SIDES},
            **{name: found[name] for name in ("worsening", "retention")},
        }
        for name, one in intervals.items():
            # Retention has no bounds where the source's gain is not clearly above 0: it then holds every value.
            low, high = (
                (-np.inf if one["low"] is None else one["low"]),
                (np.inf if one["high"] is None else one["high"]),
            )
            held[name] += low <= true[name] <= high
    print(f"{arguments.sets} sets of {arguments.users} users, {arguments.resamples} resamples")
    print("| figure | holds the true one |\n|---|---|")
    for name, count in held.items():
        print(f"| {name} | {count / arguments.sets:.1%} |")


if __name__ == "__main__":
    main()
