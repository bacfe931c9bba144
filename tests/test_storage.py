"""Writing aside and renaming: what is replaced, and what a failure or a killed process leaves behind."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from puma_hub.errors import StorageError
from puma_hub.storage import layout, new_file, new_folder, read_json, replace_files, staging, write_json
from puma_hub.storage.layout import Layout, require_replaceable, require_writable

LAYOUT = Layout("a test's folder", ("data",), ("extra-*", "parts/*.txt"))


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def content(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def killed(target: Path, statements: str) -> Path:
    """What a process leaves of ``target`` that ended while writing; ``staged`` is the folder it wrote to."""
    script = f"""
import os, sys
from pathlib import Path
from puma_hub.storage import new_folder, new_file
target = Path(sys.argv[1])
context = (new_folder if not target.suffix else new_file)(target)
staged = context.__enter__()
{statements}
print(staged if not target.suffix else staged.parent, flush=True)
os._exit(0)
"""
    done = subprocess.run([sys.executable, "-c", script, str(target)], capture_output=True, text=True, check=True)
    return Path(done.stdout.strip())


def test_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    for name in ("extra-old", "extra-new"):
        with new_folder(tmp_path / "bank", LAYOUT) as staged:
            fill(staged, "data", name, "parts/1.txt")
    assert content(tmp_path) == ["bank/data", "bank/extra-new", "bank/parts/1.txt"]


@pytest.mark.parametrize(
    "names",
    [
        ["thesis.tex"],
        ["data", "README.md"],
        ["data", ".gitattributes"],
        ["data", ".git/HEAD"],
        ["data", "parts/notes.md"],
        ["data", "parts/more/1.txt"],
        ["data", "extra-1/thesis.tex"],
        ["extra-1"],
    ],
)
def test_what_is_not_ours_is_not_replaced(tmp_path: Path, names: list[str]) -> None:
    before = content(fill(tmp_path / "r", *names))
    told = r"would be replaced; choose a folder that is new or empty"
    with pytest.raises(StorageError, match=told), new_folder(tmp_path / "r", LAYOUT):
        raise AssertionError("the work began")
    assert content(tmp_path / "r") == before and os.listdir(tmp_path) == ["r"]


def test_without_a_layout_only_an_empty_folder_is_replaced(tmp_path: Path) -> None:
    fill(tmp_path / "r", ".DS_Store", "._data", "Thumbs.db")
    with new_folder(tmp_path / "r") as staged:
        fill(staged, "data")
    with pytest.raises(StorageError, match=r"did not write \(data\)"), new_folder(tmp_path / "r"):
        pass
    assert content(tmp_path) == ["r/data"]


def test_what_comes_there_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    fill(tmp_path / "r", "data")
    context = new_folder(tmp_path / "r", LAYOUT)
    fill(context.__enter__(), "data")
    fill(tmp_path / "r", "thesis.tex")
    with pytest.raises(StorageError, match="thesis"):
        context.__exit__(None, None, None)
    assert content(tmp_path) == ["r/data", "r/thesis.tex"]


@pytest.mark.parametrize("target", [".", "", "..", "/", "/proc", "/dev/shm", "a\0b"])
def test_places_that_cannot_be_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(StorageError, match="choose"):
        require_replaceable(target)
    with pytest.raises(StorageError), new_folder(target):
        pass
    assert os.listdir(tmp_path) == ["here"] and not os.listdir(tmp_path / "here")


def test_a_bind_mount_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a b").mkdir()
    table = fill(tmp_path, "mountinfo") / "mountinfo"
    table.write_text(f"36 35 98:0 /mnt1 {tmp_path}/a\\040b rw,noatime master:1 - ext3 /dev/root rw\n")
    monkeypatch.setattr("puma_hub.storage.layout._MOUNTS", table)
    with pytest.raises(StorageError, match="mount point"):
        require_replaceable(tmp_path / "a b")


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    fill(tmp_path / "real", "data")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "file").symlink_to("real.json")
    with new_folder(tmp_path / "link", LAYOUT) as staged:
        fill(staged, "data", "extra-1")
    write_json(tmp_path / "file", {})
    assert content(tmp_path / "real") == ["data", "extra-1"] and (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").is_symlink() and read_json(tmp_path / "real.json") == {}
    (tmp_path / "circle").symlink_to("circle")
    for context in (new_folder, new_file, replace_files):
        with pytest.raises(StorageError, match="choose another"), context(tmp_path / "circle"):
            pass


def test_a_file_is_not_written_over_a_folder(tmp_path: Path) -> None:
    fill(tmp_path / "r", "data")
    (tmp_path / "empty").mkdir()
    for name in ("r", "empty"):
        with pytest.raises(StorageError, match="is a folder"):
            write_json(tmp_path / name, {})
    with pytest.raises(StorageError, match="is a folder"), replace_files(tmp_path) as staged:
        fill(staged, "other", "empty")
    assert content(tmp_path) == ["r/data"]


def test_a_device_is_written_to(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()))
    reader.start()
    write_json(tmp_path / "pipe", {"a": 1})
    reader.join(10)
    assert read == ['{\n  "a": 1\n}\n'] and (tmp_path / "pipe").is_fifo()
    write_json("/dev/null", {})
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize("context", [new_folder, new_file, replace_files])
def test_an_error_leaves_the_old_state(tmp_path: Path, context: Callable) -> None:  # type: ignore[type-arg]
    fill(tmp_path / "place", "data")
    arguments = (tmp_path / "place", LAYOUT) if context is new_folder else (tmp_path / "place",)
    target = (tmp_path / "place" / "data",) if context is new_file else arguments
    with pytest.raises(StorageError, match="No space left"), context(*target):
        raise OSError(28, "No space left on device")
    with pytest.raises(StorageError, match="No space left"), context(tmp_path / "new" / "deep"):
        raise OSError(28, "No space left on device")
    assert content(tmp_path) == ["place/data"] and os.listdir(tmp_path) == ["place"]


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    left = [killed(tmp_path / "bank", "(staged / 'data').write_text('half')")]
    left.append(killed(tmp_path / "file.json", "staged.write_text('half')"))
    assert all(path.is_dir() for path in left)
    with new_folder(tmp_path / "bank"):
        pass
    write_json(tmp_path / "file.json", {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bank", "file.json"]


SWAP_HALF = "os.mkdir(staged / 'x'); os.rename(target, staged / 'was')"


def test_killed_between_two_renames_loses_nothing(tmp_path: Path) -> None:
    fill(tmp_path / "bank", ".DS_Store")
    killed(tmp_path / "bank", SWAP_HALF)
    assert not (tmp_path / "bank").exists()
    with pytest.raises(RuntimeError), new_folder(tmp_path / "bank"):
        raise RuntimeError
    assert content(tmp_path) == ["bank/.DS_Store"]


def elsewhere(path: Path, target: Path) -> Path:
    """The same leftover as if a process of another machine, or of an earlier boot, had made it."""
    own = path.name.rpartition("-writing-")[2]
    return path.rename(target.parent / f".{target.name}-writing-{'0' * 12}-{own.partition('-')[2]}")


def test_what_another_machine_writes_is_left_alone_until_it_is_old(tmp_path: Path) -> None:
    target = tmp_path / "bank"
    path = elsewhere(killed(target, "(staged / 'data').write_text('half')"), target)
    with new_folder(target):
        pass
    assert content(path) == ["data"]
    week = time.time() - 8 * 24 * 3600
    os.utime(path, (week, week))  # the file in it was written just now
    with new_folder(target):
        pass
    assert content(path) == ["data"]
    os.utime(path / "data", (week, week))
    with new_folder(target):
        pass
    assert os.listdir(tmp_path) == ["bank"]


def test_a_power_cut_between_two_renames_loses_nothing(tmp_path: Path) -> None:
    target = fill(tmp_path / "bank", ".DS_Store")
    path = elsewhere(killed(target, SWAP_HALF), target)
    staging.bring_back(target)
    assert not target.exists()  # it may be between its renames just now
    past = time.time() - 100
    for one in (path, *path.rglob("*")):
        os.utime(one, (past, past))
    staging.bring_back(target)
    assert content(target) == [".DS_Store"]


def test_a_process_id_given_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = killed(tmp_path / "bank", "")
    monkeypatch.setattr(psutil, "pid_exists", lambda process: True)
    monkeypatch.setattr(staging, "_started", lambda process: 7)
    with new_folder(tmp_path / "bank"):
        assert not path.exists()
    monkeypatch.undo()
    path = killed(tmp_path / "bank", "")
    monkeypatch.setattr(psutil, "pid_exists", lambda process: True)
    monkeypatch.setattr(staging, "_started", lambda process: 0)  # cannot be known: it may be the same one
    with new_folder(tmp_path / "bank"):
        assert path.exists()


def test_a_users_file_of_a_similar_name_stays(tmp_path: Path) -> None:
    mine = fill(tmp_path, ".bank-writing-1-x", ".bank-writing-notes", ".bank2-writing-1-x")
    with new_folder(tmp_path / "bank"):
        pass
    assert len(content(mine)) == 3


def test_a_long_name(tmp_path: Path) -> None:
    for name in ("ä" * 120, "ä" * 119 + "x"):
        with new_folder(tmp_path / name) as staged:
            fill(staged, "data")
        write_json(tmp_path / f"{name}.json", {})
    assert len(list(tmp_path.iterdir())) == 4


def test_what_a_living_process_writes_is_left_alone(tmp_path: Path) -> None:
    with new_folder(tmp_path / "bank", LAYOUT) as first:
        with new_folder(tmp_path / "bank", LAYOUT) as second:
            fill(second, "data", "extra-b")
        fill(first, "data", "extra-a")
    assert content(tmp_path) == ["bank/data", "bank/extra-a"]


def test_many_at_once_end_in_one_whole_state(tmp_path: Path) -> None:
    errors: list[BaseException] = []

    def write(number: int) -> None:
        try:
            for _ in range(10):
                with new_folder(tmp_path / "bank", LAYOUT) as staged:
                    fill(staged, "data", f"extra-{number}")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors
    assert os.listdir(tmp_path) == ["bank"] and len(content(tmp_path)) == 2


def test_writable_is_asked_without_leaving_anything(tmp_path: Path) -> None:
    require_writable(tmp_path / "a" / "b" / "c")
    fill(tmp_path, "file")
    for target in (tmp_path / "file" / "a", tmp_path / "file" / "a" / "b"):
        with pytest.raises(StorageError, match="is a file"):
            require_writable(target)
    with pytest.raises(StorageError, match="choose another folder"):
        require_writable("/proc/1/here")
    assert content(tmp_path) == ["file"]


def test_bad_json(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot read"):
        read_json(tmp_path / "absent.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(StorageError, match="must hold a JSON object"):
        read_json(tmp_path / "list.json")


def test_a_folder_that_is_replaced_while_it_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = fill(tmp_path / "target", "data")
    look = layout._files

    def replaced(folder: Path, known: Layout | None) -> object:
        monkeypatch.setattr(layout, "_files", look)
        target.rename(tmp_path / "aside")
        fill(target, "data")
        raise FileNotFoundError

    monkeypatch.setattr(layout, "_files", replaced)
    require_replaceable(target, LAYOUT)
    assert layout._files is look
