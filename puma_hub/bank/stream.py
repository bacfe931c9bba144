"""Reading some users of a published bank. Only the files' footers and these users' row groups are downloaded."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import datasets
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from huggingface_hub import HfFileSystem

from puma_hub.bank.columns import to_dataset
from puma_hub.bank.description import BankDescription
from puma_hub.bank.users import require_known
from puma_hub.errors import CheckpointError, PumaHubError
from puma_hub.hub.failures import hub_errors, translated


def read_users(
    filesystem: HfFileSystem, folder: str, where: str, description: BankDescription, users: Sequence[str]
) -> datasets.Dataset:
    """The rows of ``users``, in memory, sorted by id.

    Args:
        folder: the bank's path in the file system.
        where: names the bank in messages.

    Raises:
        UnknownUserError: a user is not in the bank.
        CheckpointError: a file is damaged, or files do not belong together.
        HubError: the files cannot be read.
    """
    wanted = sorted(users)
    doing = f"read {len(wanted)} users from {where}"
    found: list[pa.Table] = []
    total = 0
    with hub_errors(doing), _damaged(doing, where):
        for shard in description.shards:
            # No read-ahead: Arrow itself combines what it needs into a few requests.
            with filesystem.open(f"{folder}/{shard}", "rb", cache_type="none") as file:
                parquet = pq.ParquetFile(file, pre_buffer=True)
                total += parquet.metadata.num_rows
                table = parquet.read_row_groups(_groups(parquet.metadata, wanted), use_threads=False)
                found.append(table.filter(pc.is_in(table.column("user_id"), pa.array(wanted, pa.string()))))
        table = pa.concat_tables(found)
        features = datasets.Features.from_arrow_schema(table.schema)
    description.require_rows(total, where)
    known = set(table.column("user_id").to_pylist())
    require_known([place for place, user in enumerate(users) if user not in known], len(users), total)
    return to_dataset(table, features)


def _groups(metadata: pq.FileMetaData, wanted: Sequence[str]) -> list[int]:
    """The row groups that may hold a user of ``wanted``, a sorted list."""
    paths = [metadata.schema.column(number).path for number in range(len(metadata.schema))]
    column = paths.index("user_id")
    groups = []
    for number in range(metadata.num_row_groups):
        ids = metadata.row_group(number).column(column).statistics
        if ids is None or not ids.has_min_max:  # Arrow stores no minimum and maximum of very long ids
            groups.append(number)
            continue
        first = bisect_left(wanted, ids.min)
        if first < len(wanted) and wanted[first] <= ids.max:
            groups.append(number)
    return groups


@contextmanager
def _damaged(doing: str, where: str) -> Iterator[None]:
    """Turn Arrow's errors about damaged files into a CheckpointError. Errors of the Hub are passed on."""
    try:
        yield
    except PumaHubError:
        raise
    except FileNotFoundError as error:
        raise CheckpointError(f"the bank {where} lacks one of its files; its owner must publish it again") from error
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        if translated(error, doing) is not None:
            raise
        raise CheckpointError(
            f"a file of the bank {where} is damaged ({type(error).__name__}); its owner must publish it again"
        ) from error
