"""The files of a bank in its repository: a description, sorted shards of Parquet, the rating head."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.utils.py_utils import convert_file_size_to_int
from safetensors.torch import save_file

from puma_hub.bank import PromptBank, Provenance
from puma_hub.bank.storage import HEAD_FILE, read_head
from puma_hub.data.rows import take_rows
from puma_hub.errors import CheckpointError, ConfigurationError, PumaHubError
from puma_hub.scorer import RatingHead
from puma_hub.storage import read_json, write_json

DESCRIPTION_FILE = "bank.json"
SHARDS = "data/train-*.parquet"
REPLACED = ["*.parquet", HEAD_FILE]
"""What a new commit deletes where it does not write it: nothing of an older bank may stay beside the new one."""
_SHARD = "data/train-{:05d}-of-{:05d}.parquet"
_GROUP_BYTES = 512 * 1024
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class BankDescription:
    """What ``bank.json`` tells of a bank; no user is named in it.

    ``card``: SHA-256 of the card that was made along with it, so that one edited by hand is known.
    """

    provenance: Provenance
    users: int
    rows_per_shard: int
    rating_head: bool
    licence: str | None = None
    card: str | None = None

    @property
    def shards(self) -> list[str]:
        number = max(1, -(-self.users // self.rows_per_shard))
        return [_SHARD.format(shard, number) for shard in range(number)]

    @property
    def files(self) -> list[str]:
        """All files but the description and the card."""
        return [*self.shards, *([HEAD_FILE] if self.rating_head else [])]

    def write(self, folder: Path) -> None:
        facts = {
            "users": self.users,
            "rows_per_shard": self.rows_per_shard,
            "rating_head": self.rating_head,
            "license": self.licence,
            "card": self.card,
        }
        write_json(folder / DESCRIPTION_FILE, self.provenance.to_dict() | facts)

    @classmethod
    def read(cls, path: Path, where: str) -> BankDescription:
        """Read the file; unknown keys are left out. ``where`` is the bank's name for messages.

        Raises:
            BankError: the format is newer than this version of puma_hub.
            CheckpointError: the file is malformed.
        """
        data = read_json(path)
        try:
            provenance = Provenance.from_dict(data)
            strange = [key for key in ("task", "details") if not isinstance(data.get(key) or {}, Mapping)]
            if strange:
                raise TypeError(f"{strange[0]} is {data[strange[0]]!r}")
            users, rows, card = int(data["users"]), int(data["rows_per_shard"]), data.get("card")
            if users < 0 or rows < 1 or not (card is None or _SHA256.fullmatch(card)):
                raise ValueError(f"users {users}, rows_per_shard {rows}, card {card!r}")
            return cls(provenance, users, rows, bool(data["rating_head"]), data.get("license"), card)
        except PumaHubError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(
                f"{DESCRIPTION_FILE} of {where} is malformed ({type(error).__name__}: {error}); publish the bank again"
            ) from error


def shard_rows(bank: PromptBank, max_shard_size: int | str) -> int:
    """How many rows of ``bank`` a file of that size holds, at least one.

    Raises:
        ConfigurationError: it is not a size.
    """
    try:
        size = convert_file_size_to_int(max_shard_size)
    except ValueError:
        size = 0
    if size < 1:
        raise ConfigurationError(f"max_shard_size must be a size such as '500MB', got {max_shard_size!r}")
    return max(1, size // _row_bytes(bank))


def write_shards(folder: Path, bank: PromptBank, rows_per_shard: int) -> None:
    """Write the rows sorted by user id, in small row groups.

    The smallest and largest id of each row group stand in the file's footer, so a reader of some users fetches
    their row groups alone; the order of strings is that of their UTF-8 bytes here and there.
    """
    ids = bank.user_ids
    order = sorted(range(len(bank)), key=ids.__getitem__)
    group = max(1, _GROUP_BYTES // _row_bytes(bank))
    schema = bank.dataset.features.arrow_schema
    shards = max(1, -(-len(bank) // rows_per_shard))
    (folder / "data").mkdir(parents=True)
    for shard in range(shards):
        rows = order[shard * rows_per_shard : (shard + 1) * rows_per_shard]
        table = take_rows(bank.dataset, rows).data.table.cast(schema)
        # Neither compression nor a dictionary makes prompts smaller; both would make an update change every byte.
        options: Mapping[str, Any] = {"compression": "none", "use_dictionary": False, "write_statistics": ["user_id"]}
        with pq.ParquetWriter(folder / _SHARD.format(shard, shards), schema, **options) as writer:
            for start in range(0, len(rows), group):
                writer.write_table(table.slice(start, group))


def write_head(folder: Path, head: RatingHead | None) -> None:
    if head is not None:
        save_file(head.state_dict(), folder / HEAD_FILE)


def read_bank_files(folder: Path, description: BankDescription, where: str, arrow_cache: str | None) -> PromptBank:
    """The bank of a folder that holds all files, memory-mapped.

    Raises:
        CheckpointError: a file is missing or damaged, or they do not belong together.
    """
    missing = [name for name in description.files if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f"{where} lacks {', '.join(missing)}; load or publish it again")
    paths = [str(folder / name) for name in description.shards]
    try:
        if description.users == 0:  # of which datasets would say that there is no data
            dataset = in_memory(pq.read_table(paths[0]))
        else:
            dataset = datasets.Dataset.from_parquet(paths, cache_dir=arrow_cache)
    except Exception as error:  # datasets wraps what Arrow raises for a damaged file
        cause = error.__cause__ or error
        raise CheckpointError(
            f"a file of the bank {where} is damaged ({type(cause).__name__}); load it again with force_download=True, "
            "or have it published again"
        ) from error
    assert isinstance(dataset, datasets.Dataset)  # one split was asked for
    require_rows(len(dataset), description, where)
    return PromptBank(dataset, description.provenance, stored_head(folder, description))


def in_memory(table: pa.Table) -> datasets.Dataset:
    """A table read from a shard, with the columns' types that the file tells."""
    features = datasets.Features.from_arrow_schema(table.schema)
    return datasets.Dataset(table, info=datasets.DatasetInfo(features=features))


def stored_head(folder: Path, description: BankDescription) -> RatingHead | None:
    return read_head(folder / HEAD_FILE, description.provenance.answers) if description.rating_head else None


def require_rows(rows: int, description: BankDescription, where: str) -> None:
    """Refuse shards that hold more or fewer users than the description tells.

    Raises:
        CheckpointError: they do.
    """
    if rows != description.users:
        raise CheckpointError(
            f"{where} says that it holds {description.users} users, but its files hold {rows}; they were changed by "
            "other means than puma_hub: publish the bank again"
        )


def _row_bytes(bank: PromptBank) -> int:
    return max(1, -(-int(bank.dataset.data.nbytes) // max(1, len(bank))))
