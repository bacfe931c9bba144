"""How long interactions take to load, and how much memory: synthetic rows of a given number, written and read back.

python examples/interactions/time_loading.py --rows 2000000 --ending csv
python examples/interactions/time_loading.py --rows 25000000 --users 162000 --items 62000 --ending parquet
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from puma_hub import RatingTask
from puma_hub.data import load_interactions

_ROWS_AT_ONCE = 1_000_000


def write(path: Path, rows: int, users: int, items: int, title: int) -> None:
    generator = np.random.default_rng(0)
    names = pa.array([f"user-{number}" for number in range(users)])
    titles = pa.array([f"Title {number} ({1950 + number % 70}), Drama".ljust(title, "x") for number in range(items)])
    schema = pa.schema({"user_id": "string", "item_id": "int64", "item_text": "string", "label": "double"})
    schema = schema.append(pa.field("timestamp", "int64"))
    writer = csv.CSVWriter(path, schema) if path.suffix == ".csv" else pq.ParquetWriter(path, schema)
    with writer:
        for start in range(0, rows, _ROWS_AT_ONCE):
            count = min(_ROWS_AT_ONCE, rows - start)
            item = generator.zipf(1.3, count) % items
            columns = [
                names.take(pa.array(generator.integers(0, users, count))),
                pa.array(item),
                titles.take(pa.array(item)),
                pa.array(generator.integers(1, 11, count) / 2),
                pa.array(generator.integers(1_000_000_000, 1_600_000_000, count)),
            ]
            writer.write_table(pa.table(columns, schema=schema))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--title", type=int, default=45, help="characters of a title")
    parser.add_argument("--ending", choices=("csv", "parquet"), default="csv")
    args = parser.parse_args()
    task = RatingTask(tuple(number / 2 for number in range(1, 11)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"rows.{args.ending}"
        write(path, args.rows, args.users, args.items, args.title)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start, cpu = time.monotonic(), time.process_time()
        splits = load_interactions(path, task=task, item_statistics=True)
        report = {
            "rows": {name: len(rows) for name, rows in splits.items()},
            "seconds": round(time.monotonic() - start, 1),
            "cpu_seconds": round(time.process_time() - cpu, 1),
            "file_gib": round(path.stat().st_size / 2**30, 2),
            "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
            "peak_before_loading_gib": round(before / 2**20, 2),
        }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
