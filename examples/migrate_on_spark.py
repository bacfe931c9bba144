"""Migrate a bank on a Spark cluster: pip install pyspark, and Java 17 or later.

    python examples/migrate_on_spark.py --adapter migrator/adapter --bank source/bank --out target-bank

Spark reads the bank's Parquet files, maps their rows in its workers and sorts them by user. The driver makes a bank of
them. Further columns are left out. For real use point ``--rows`` at the bank's files where all workers see them, such
as s3a://team/source-bank/data, and ``--parts`` at a place of that kind.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset
from pyspark.sql import SparkSession

from puma_hub import PromptBank, PumaAdapter
from puma_hub.migration import TableMigration


def as_lists(table: pa.Table) -> pa.Table:
    """The rows with prompts as lists of any length: Spark knows no others."""
    place = table.schema.get_field_index("prompt")
    return table.set_column(place, "prompt", table.column("prompt").cast(pa.list_(pa.float32())))


def migrate_rows(spark: SparkSession, migration: TableMigration, rows: str, parts: str) -> None:
    """Write the migrated rows as Parquet files in the order of users."""

    def mapped(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import torch

        torch.set_num_threads(1)  # a worker for each core
        for batch in batches:
            yield from as_lists(migration(pa.Table.from_batches([batch]))).to_batches()

    frame = spark.read.parquet(rows).select("user_id", "prompt")
    frame.mapInArrow(mapped, "user_id string, prompt array<float>").orderBy("user_id").write.parquet(parts)


def bank_of_parts(parts: str, migration: TableMigration, out: str) -> PromptBank:
    """The bank of the rows that Spark has written."""
    provenance, rows = migration.provenance, pyarrow.dataset.dataset(parts, format="parquet")
    shape = provenance.prompt_length, provenance.model.hidden_size
    batches = (
        (batch.column("user_id").to_pylist(), batch.column("prompt").flatten().to_numpy().reshape(-1, *shape))
        for batch in rows.to_batches(columns=["user_id", "prompt"])
        if batch.num_rows
    )
    return PromptBank.from_batches(out, batches, provenance, migration.head)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--adapter", required=True, metavar="ID")
    parser.add_argument("--bank", required=True, metavar="DIR")
    parser.add_argument("--out", required=True, metavar="DIR")
    parser.add_argument("--rows", metavar="PLACE", help="the bank's Parquet files (default: those in --bank)")
    parser.add_argument("--parts", metavar="PLACE", help="where Spark writes (default: a temporary folder)")
    args = parser.parse_args()
    migration = TableMigration(PumaAdapter.from_pretrained(args.adapter), PromptBank.from_pretrained(args.bank))
    spark = SparkSession.builder.appName("puma_hub").getOrCreate()
    folder = tempfile.mkdtemp()
    parts = args.parts or str(Path(folder, "parts"))
    try:
        migrate_rows(spark, migration, args.rows or str(Path(args.bank, "data").absolute()), parts)
        print(bank_of_parts(parts, migration, args.out))
    finally:
        spark.stop()
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
