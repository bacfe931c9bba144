"""Reading Parquet as an Arrow table."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from puma_hub.data.file_kinds import open_bytes
from puma_hub.errors import InteractionsError, StorageError

_MAGIC = b"PAR1"


def read_parquet(path: Path) -> pa.Table:
    """Read one file. It is memory-mapped unless the whole file is compressed.

    Raises:
        InteractionsError: the file is not Parquet, or damaged.
        StorageError: the file cannot be read.
    """
    try:
        with open_bytes(path) as file:
            if file.peek(4)[:4] == _MAGIC:  # type: ignore[attr-defined]
                return pq.ParquetFile(str(path), memory_map=True).read()
            return pq.ParquetFile(pa.BufferReader(file.read())).read()
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, StorageError):
            raise
        raise InteractionsError(f"cannot read {path} as parquet: {str(error).splitlines()[0]}") from error
