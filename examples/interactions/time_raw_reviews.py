"""How long the raw files of an Amazon category take to read, and how much memory: a made category of a given size.

python examples/interactions/time_raw_reviews.py --reviews 2000000 --users 600000 --items 90000
"""

from __future__ import annotations

import argparse
import gzip
import json
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from puma_hub.data.load import read_interactions

_ROWS_AT_ONCE = 100_000


def reviews(count: int, users: int, items: int) -> Iterator[dict[str, Any]]:
    """Users and items of very different activity."""
    generator = np.random.default_rng(0)
    text = "A film that we watched twice, and would watch again. " * 6
    for start in range(0, count, _ROWS_AT_ONCE):
        size = min(_ROWS_AT_ONCE, count - start)
        user = (users * generator.random(size) ** 3).astype(int).tolist()
        item = (items * generator.random(size) ** 2).astype(int).tolist()
        rating = generator.integers(1, 6, size).tolist()
        moment = generator.integers(1_400_000_000_000, 1_690_000_000_000, size).tolist()
        for number in range(size):
            yield {
                "rating": float(rating[number]),
                "title": "Five Stars",
                "text": text[: 20 + 280 * number // size],
                "images": [],
                "asin": f"B{item[number]:09d}",
                "parent_asin": f"B{item[number]:09d}",
                "user_id": f"A{user[number]:027d}",
                "timestamp": moment[number],
                "helpful_vote": 0,
                "verified_purchase": True,
            }


def titles(items: int) -> Iterator[dict[str, Any]]:
    for number in range(items):
        yield {"title": f"A film called {number}", "categories": ["Movies & TV"], "parent_asin": f"B{number:09d}"}


def write(path: Path, records: Iterator[dict[str, Any]]) -> None:
    with gzip.open(path, "wt", compresslevel=1) as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reviews", type=int, default=2_000_000)
    parser.add_argument("--users", type=int, default=600_000)
    parser.add_argument("--items", type=int, default=90_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "Movies_and_TV.jsonl.gz"
        write(file, reviews(args.reviews, args.users, args.items))
        write(Path(folder) / "meta_Movies_and_TV.jsonl.gz", titles(args.items))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start, cpu = time.monotonic(), time.process_time()
        rows = read_interactions("amazon-movies", folder=folder).rows
        assert isinstance(rows, datasets.Dataset)
        report = {
            "reviews": args.reviews,
            "rows": len(rows),
            "seconds": round(time.monotonic() - start, 1),
            "cpu_seconds": round(time.process_time() - cpu, 1),
            "file_mib": round(file.stat().st_size / 2**20),
            "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10),
            "peak_before_reading_mib": round(before / 2**10),
        }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
