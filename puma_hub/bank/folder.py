"""Reading and writing a prompt bank in a folder: its description, its rows in Parquet, its rating head."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from puma_hub.bank.description import DESCRIPTION_FILE, HEAD_FILE, HEADS, SHARDS, BankDescription
from puma_hub.bank.rounding import Rounding
from puma_hub.bank.shards import ShardRows, write_shards
from puma_hub.bank.stored_rows import BankRows
from puma_hub.errors import CheckpointError, StorageError, first_line
from puma_hub.storage import new_folder
from puma_hub.storage.layout import Layout
from puma_hub.storage.staging import bring_back
from puma_hub.tasks import RatingHead

if TYPE_CHECKING:
    from puma_hub.bank.bank import PromptBank

LAYOUT = Layout(
    "a prompt bank", (DESCRIPTION_FILE,), (SHARDS, HEAD_FILE, HEADS), keys=("prompt_length", "users", "rows_per_shard")
)


def write_bank(folder: Path, bank: PromptBank, rows_per_shard: int) -> None:
    """Write all files of a bank into ``folder``. What the folder held is replaced in one step.

    Raises:
        StorageError: the folder holds something other than a bank, or cannot be written.
    """
    description = BankDescription(bank.provenance, len(bank), rows_per_shard, bank.head is not None)
    with new_folder(folder, LAYOUT) as staged:
        write_contents(staged, bank, description)
        description.write(staged)


def write_contents(folder: Path, bank: PromptBank, description: BankDescription) -> None:
    """Write the rows and the rating head into the files that ``description`` lists."""
    rounding = Rounding.of(bank.provenance.details)
    write_shards(folder, description.shards, bank.stored, bank.index.order, description.rows_per_shard, rounding)
    write_head(folder, bank.head, description.head_file)


def write_head(folder: Path, head: RatingHead | None, name: str = HEAD_FILE) -> None:
    """Write the rating head, if there is one."""
    if head is not None:
        save_file({key: tensor.contiguous() for key, tensor in head.state_dict().items()}, folder / name)


def describe_folder(folder: Path) -> BankDescription:
    """The description of the bank in a folder.

    Raises:
        StorageError: the folder does not exist, or holds no bank.
        BankError, CheckpointError: the description cannot be used.
    """
    if not folder.is_dir():
        bring_back(folder.absolute())
    if not folder.is_dir():
        raise StorageError(f"no prompt bank at {folder}: the folder does not exist")
    if not (folder / DESCRIPTION_FILE).is_file():
        inner = folder / "bank"  # puma-hub fit writes the bank there
        advice = f"; give {inner}" if (inner / DESCRIPTION_FILE).is_file() else "; give the folder of a bank"
        if (folder / "data.mdb").is_file():
            advice = "; if it is a keyed store, open it with puma_hub.bank.KeyedStore"
        raise StorageError(f"{folder} is not a prompt bank: {DESCRIPTION_FILE} missing{advice}")
    return BankDescription.read(folder / DESCRIPTION_FILE, str(folder))


def read_rows(folder: Path, description: BankDescription, where: str) -> BankRows:
    """The rows of a bank in a folder. They stay on disk.

    Raises:
        CheckpointError: a file is missing or damaged, or the files do not belong together.
    """
    missing = [name for name in description.files if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f"{where} lacks {', '.join(missing)}; download or make the bank again")
    facts = description.provenance
    rows = ShardRows(
        [folder / name for name in description.shards], (facts.prompt_length, facts.model.hidden_size), where
    )
    description.require_rows(len(rows), where)
    return rows


def read_head(folder: Path, description: BankDescription) -> RatingHead | None:
    """The rating head of a bank, or None if it has none.

    Raises:
        CheckpointError: the file is damaged.
    """
    return (
        load_head(folder / description.head_file, description.provenance.answers) if description.rating_head else None
    )


def load_head(path: Path, answers: int) -> RatingHead:
    """The rating head in a file, of so many answers.

    Raises:
        CheckpointError: the file is damaged.
    """
    head = RatingHead(answers)
    try:
        head.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise CheckpointError(
            f"the rating head in {path} is damaged ({first_line(error)}); restore it or make it again"
        ) from error
    return head
