"""Lists of users in files: the ids that were written, whatever they are, and what others' programs write."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from puma_hub.bank.user_lists import read_users, write_users
from puma_hub.errors import BankError, PumaHubError, SelectionError, StorageError

BREAKS = ["\n", "\r", "\r\n", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029", "\0", "\t", "\ufeff"]
IDS = st.text(st.characters(exclude_categories=("Cs",)), min_size=1) | st.lists(
    st.sampled_from([*BREAKS, "a", " ", '"', "\\", "#", "\\n", "\u3000"]), min_size=1
).map("".join)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(st.lists(IDS, min_size=1, unique=True))
def test_what_is_written_is_read(tmp_path: Path, users: list[str]) -> None:
    write_users(tmp_path / "users.txt", users)
    assert read_users(tmp_path / "users.txt") == users
    assert len((tmp_path / "users.txt").read_text(encoding="utf-8").splitlines()) == len(users)  # for others' readers


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(
    st.binary()
    | st.text().map(lambda text: text.encode("utf-16"))
    | st.text().map(lambda t: t.encode("utf-8", "replace"))
)
def test_any_file_is_read_or_refused_in_one_line(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "users.txt").write_bytes(data)
    refused: PumaHubError | None = None
    try:
        users = read_users(tmp_path / "users.txt")
    except PumaHubError as error:
        refused = error
    if refused is None:
        write_users(tmp_path / "again.txt", users)
        assert read_users(tmp_path / "again.txt") == users
    else:
        assert "\n" not in str(refused) and "users.txt" in str(refused)


def test_every_character_that_may_be_special(tmp_path: Path) -> None:
    users = [f"a{chr(code)}b" for code in (*range(0x3100), *range(0xF900, 0x10100), *range(0xE0000, 0xE0200))]
    write_users(tmp_path / "users.txt", users)
    assert read_users(tmp_path / "users.txt") == users


def test_plain_ids_stay_plain(tmp_path: Path) -> None:
    users = ["user-1", "#2", "Zoë Müller", "CORP\\nick", 'say "hi"', "a,b;c", "AE2QR+/=", "用户", "007", "😀"]
    write_users(tmp_path / "users.txt", users)
    assert (tmp_path / "users.txt").read_bytes().decode() == "".join(f"{user}\n" for user in users)


@pytest.mark.parametrize(
    "data",
    [b"u1\r\nu2\r\n", b"\xef\xbb\xbfu1\nu2", b"u1\n\n\nu2\n\n", b'"u1"\n"u2"\n', b"\xef\xbb\xbfu1\r\n\r\nu2\r\n"],
    ids=["windows", "byte order mark", "empty lines", "quoted", "notepad"],
)
def test_what_others_write(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "users.txt").write_bytes(data)
    assert read_users(tmp_path / "users.txt") == ["u1", "u2"]


REFUSED = {
    "latin-1": (
        "Zoë\nMüller\n".encode("latin-1"),
        StorageError,
        "byte 0xeb at position 2, in line 1; save it as UTF-8",
    ),
    "utf-16": ("u1\nu2\n".encode("utf-16"), StorageError, "UTF-16 text; save it as UTF-8"),
    "utf-16, no mark": ("u1\nu2\n".encode("utf-16-le"), StorageError, "zero byte; save it as UTF-8"),
    "empty": (b"", SelectionError, "names no user"),
    "empty lines": (b"\xef\xbb\xbf\r\n\n", SelectionError, "names no user"),
    "repeated": (b"u1\nu2\nu1\n", SelectionError, "line 3 of .* repeats line 1"),
    "repeated, quoted": (b'u1\n"u1"\n', SelectionError, "line 2 of .* repeats line 1"),
    "a blank after": (b"u1 \n", SelectionError, "line 1 of .* blanks"),
    "a blank before": (b"u1\n\tu2\n", SelectionError, "line 2 of .* blanks"),
    "old Mac": (b"u1\ru2\r", SelectionError, "line 1 of .* line break"),
    "half quoted": (b'u1\n"u2\n', SelectionError, "line 2 of .* not a JSON string"),
    "csv, quoted": (b'"u1","u2"\n', SelectionError, "not a JSON string"),
    "no character": (b'"\\ud800"\n', SelectionError, "not a JSON string"),
    "quoted nothing": (b'""\n', SelectionError, "not a JSON string"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(tmp_path: Path, case: str) -> None:
    data, kind, message = REFUSED[case]
    (tmp_path / "users.txt").write_bytes(data)
    with pytest.raises(kind, match=message):
        read_users(tmp_path / "users.txt")


@pytest.mark.parametrize("source", ["absent.txt", ".", "a\0b"])
def test_no_such_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StorageError, match="cannot read the users"):
        read_users(source)


@pytest.mark.parametrize("users", [["a", "b\ud800"], ["a", ""], ["a", "a"], ["a", 1]])
def test_what_is_not_written(tmp_path: Path, users: list[str]) -> None:
    (tmp_path / "users.txt").write_text("old\n")
    with pytest.raises(BankError, match=r"; (give|name)|, convert"):
        write_users(tmp_path / "users.txt", users)
    assert read_users(tmp_path / "users.txt") == ["old"]
