"""Writing aside and renaming: what a failure, or a killed process, leaves behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from puma_hub.errors import StorageError
from puma_hub.storage import new_file, new_folder, read_json, replace_files, write_json


def dead_process() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    for text in ("old", "new"):
        with new_folder(tmp_path / "bank") as staged:
            (staged / text).write_text(text)
    assert [path.name for path in (tmp_path / "bank").iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["bank"]


@pytest.mark.parametrize("context", [new_folder, new_file, replace_files])
def test_an_error_leaves_the_old_state(tmp_path: Path, context) -> None:  # type: ignore[no-untyped-def]
    write_json(tmp_path / "place" / "kept.json", {"a": 1})
    target = tmp_path / "place" / "kept.json" if context is new_file else tmp_path / "place"
    with pytest.raises(StorageError, match="No space left"), context(target):
        raise OSError(28, "No space left on device")
    assert read_json(tmp_path / "place" / "kept.json") == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["place"]
    assert [path.name for path in (tmp_path / "place").iterdir()] == ["kept.json"]


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / f".bank-writing-{dead_process()}-x").mkdir()
    (tmp_path / f".file.json-writing-{dead_process()}-x").write_text("half")
    with new_folder(tmp_path / "bank"):
        pass
    write_json(tmp_path / "file.json", {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bank", "file.json"]


def test_killed_between_two_renames_loses_nothing(tmp_path: Path) -> None:
    aside = tmp_path / f".bank-writing-{dead_process()}-x"
    (aside / "was").mkdir(parents=True)
    (aside / "was" / "data").write_text("good")
    with pytest.raises(RuntimeError), new_folder(tmp_path / "bank"):
        raise RuntimeError
    assert (tmp_path / "bank" / "data").read_text() == "good"


def test_what_a_living_process_writes_is_left_alone(tmp_path: Path) -> None:
    with new_folder(tmp_path / "bank") as first:
        with new_folder(tmp_path / "bank") as second:
            (second / "b").write_text("")
        (first / "a").write_text("")
    assert [path.name for path in (tmp_path / "bank").iterdir()] == ["a"]


def test_bad_json(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot read"):
        read_json(tmp_path / "absent.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(StorageError, match="must hold a JSON object"):
        read_json(tmp_path / "list.json")
