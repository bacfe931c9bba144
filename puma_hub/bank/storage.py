"""The files of a prompt bank on disk."""

from __future__ import annotations

from pathlib import Path

import datasets
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from puma_hub.bank.provenance import Provenance
from puma_hub.errors import CheckpointError, StorageError
from puma_hub.layout import Layout
from puma_hub.scorer import RatingHead
from puma_hub.staging import bring_back
from puma_hub.storage import new_folder, read_json, write_json

PROVENANCE_FILE = "provenance.json"
HEAD_FILE = "head.safetensors"
_DATASET_FILES = ("state.json", "dataset_info.json")
# What a user computes from a loaded bank, datasets keeps beside it as cache-*.arrow; it is made again where it is gone.
LAYOUT = Layout("a prompt bank", (PROVENANCE_FILE, *_DATASET_FILES), (HEAD_FILE, "data-*-of-*.arrow", "cache-*.arrow"))


def write_bank(folder: str | Path, dataset: datasets.Dataset, provenance: Provenance, head: RatingHead | None) -> None:
    """Write dataset, provenance and head into ``folder``, replacing it as a whole.

    Raises:
        StorageError: the folder holds anything but a bank, or cannot be written.
    """
    with new_folder(folder, LAYOUT) as staged:
        dataset.save_to_disk(str(staged))
        write_json(staged / PROVENANCE_FILE, provenance.to_dict())
        if head is not None:
            save_file(head.state_dict(), staged / HEAD_FILE)


def read_bank(folder: str | Path) -> tuple[datasets.Dataset, Provenance, RatingHead | None]:
    """Read what :func:`write_bank` wrote; the dataset stays memory-mapped.

    Raises:
        StorageError: the folder is missing or is not a bank.
        CheckpointError: a file of the bank is damaged.
    """
    path = Path(folder)
    if not path.is_dir():
        bring_back(path.absolute())
    if not path.is_dir():
        raise StorageError(f"no prompt bank at {path}: the folder does not exist")
    missing = [name for name in (PROVENANCE_FILE, *_DATASET_FILES) if not (path / name).is_file()]
    if missing:
        raise StorageError(f"{path} is not a prompt bank: {', '.join(missing)} missing")
    provenance = Provenance.from_dict(read_json(path / PROVENANCE_FILE))
    try:
        dataset = datasets.load_from_disk(str(path))
    except Exception as error:  # pyarrow and datasets raise many kinds for a damaged file
        raise CheckpointError(
            f"the bank at {path} is damaged ({type(error).__name__}); restore it or make it again"
        ) from error
    if not isinstance(dataset, datasets.Dataset):
        raise StorageError(f"{path} holds several splits; a prompt bank is one dataset")
    return dataset, provenance, read_head(path / HEAD_FILE, provenance.answers)


def read_head(path: Path, answers: int) -> RatingHead | None:
    """Read a rating head, or None where there is no file."""
    if not path.is_file():
        return None
    head = RatingHead(answers)
    try:
        head.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"the rating head in {path} is damaged ({reason}); restore it or make it again"
        ) from error
    return head
