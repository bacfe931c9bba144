"""One Parquet file of a bank's rows, sorted by user id. Row groups are small, so reading one user is cheap."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from puma_hub.bank.columns import without_nulls
from puma_hub.bank.rounding import Rounding

GROUPS_AT_ONCE = 16
_GROUP_BYTES = 512 * 1024
_OPTIONS: Mapping[str, Any] = {
    # Prompts that were not rounded do not become smaller by these, and an update would change every byte.
    "compression": "none",
    "use_dictionary": False,
    "write_statistics": ["user_id"],
    "write_page_checksum": True,
    "write_page_index": True,
    # Pages end where their contents say so: after an insertion, most pages are as they were.
    "use_content_defined_chunking": True,
}


def rows_in_group(one: int) -> int:
    """Rows of ``one`` bytes each in a row group, at least one."""
    return max(1, _GROUP_BYTES // one)


class ShardFile:
    """Writes a file from tables of any length.

    The file's footer has the smallest and largest id of each row group. If rows are sorted by user id, a reader of some
    users fetches only their row groups. Strings are compared by their UTF-8 bytes, in Parquet as here.

    Args:
        schema: the schema of all tables.
        one: the approximate size of a row in bytes.
        rounding: of the prompts, by which they take less space; None if they were not rounded.

    Attributes:
        rows: how many rows it has been given.
    """

    def __init__(self, path: Path, schema: pa.Schema, one: int, rounding: Rounding | None = None) -> None:
        self.rows = 0
        self._schema, self._group = without_nulls(schema), rows_in_group(one)
        self._writer = pq.ParquetWriter(path, self._schema, **{**_OPTIONS, **(rounding.parquet if rounding else {})})
        self._pending: list[pa.Table] = []
        self._waiting = 0

    def write(self, table: pa.Table) -> None:
        """Add rows."""
        self._pending.append(table.cast(self._schema))
        self._waiting += len(table)
        self.rows += len(table)
        if self._waiting >= self._group * GROUPS_AT_ONCE:
            self._flush(self._waiting // self._group * self._group)

    def close(self) -> None:
        """Write what is left, and the footer."""
        if self._waiting or not self.rows:
            self._flush(self._waiting)
        self._writer.close()

    def abandon(self) -> None:
        """Close the file without what is left."""
        self._writer.close()

    def _flush(self, rows: int) -> None:
        table = pa.concat_tables([self._schema.empty_table(), *self._pending])
        self._pending, self._waiting = [table.slice(rows)], len(table) - rows
        self._writer.write_table(table.slice(0, rows), row_group_size=self._group)
