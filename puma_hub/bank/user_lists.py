"""Lists of users in text files: UTF-8, one id on each line.

Most ids are written as they are. An id is written as a JSON string, in quotation marks, if it contains a line break or
another control character, begins or ends with a blank, or begins with a quotation mark.
"""

from __future__ import annotations

import codecs
import json
import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from puma_hub.bank.users import require_distinct, user_list
from puma_hub.errors import BankError, SelectionError, StorageError
from puma_hub.storage import new_file

_QUOTE, _BOM = '"', "\ufeff"
_HIDDEN = ("Cc", "Zl", "Zp")
"""Unicode's categories of control characters and of line and paragraph separators."""


def write_users(target: str | os.PathLike[str], users: Sequence[str]) -> None:
    """Write ``users``, in their order. :func:`read_users` reads the same list.

    Raises:
        BankError: an id is empty, repeated, not a string, or not Unicode (half of a surrogate pair).
        StorageError: the file cannot be written.
    """
    users = user_list(users)
    require_distinct(users)
    for position, user in enumerate(users):
        if not user or not _is_unicode(user):
            what = "half of a surrogate pair, which is no character" if user else "no character"
            raise BankError(f"the user id at position {position} holds {what}; give every user an id of Unicode text")
    with new_file(target) as path:
        path.write_bytes("".join(f"{_line(user)}\n" for user in users).encode())


def read_users(source: str | os.PathLike[str]) -> list[str]:
    """Read the users of a file, in its order.

    Line ends may be those of Windows. A byte order mark and empty lines are ignored.

    Raises:
        StorageError: the file cannot be read, or is not UTF-8.
        SelectionError: the file names no user, names a user twice, or a line is not a valid id.
    """
    users: dict[str, int] = {}
    for number, line in enumerate(_text(source).split("\n"), start=1):
        line = line.removesuffix("\r")
        if not line:
            continue
        user = _user(line, f"line {number} of {source}")
        if user in users:
            raise SelectionError(f"line {number} of {source} repeats line {users[user]}; name each user once")
        users[user] = number
    if not users:
        raise SelectionError(f"{source} names no user; write one id on each line, as puma-hub select does")
    return list(users)


def _text(source: str | os.PathLike[str]) -> str:
    try:
        data = Path(source).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StorageError(f"cannot read the users in {source}: {reason}; check the path") from error
    remedy = "save it as UTF-8"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise StorageError(f"the users in {source} are UTF-16 text; {remedy}")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise StorageError(
            f"the users in {source} are not UTF-8 text: byte 0x{data[error.start]:02x} at position {error.start}, in "
            f"line {line}; {remedy}"
        ) from error
    if "\0" in text:
        raise StorageError(f"the users in {source} are not UTF-8 text: there is a zero byte; {remedy}")
    return text.removeprefix(_BOM)


def _line(user: str) -> str:
    return json.dumps(user) if _needs_quotes(user) else user


def _needs_quotes(user: str) -> bool:
    return (
        user != user.strip()
        or user.startswith((_QUOTE, _BOM))
        or any(unicodedata.category(character) in _HIDDEN for character in user)
    )


def _user(line: str, where: str) -> str:
    if not line.startswith(_QUOTE):
        # Blanks are not stripped: the result could be another user's id.
        if line != line.strip(" \t\r") or "\r" in line:
            raise SelectionError(f"{where} has blanks around its id or a line break in it; remove them or quote the id")
        return line
    try:
        user = json.loads(line)
    except ValueError:
        user = None
    if not isinstance(user, str) or not user or not _is_unicode(user):
        raise SelectionError(
            f"{where} begins with a quotation mark, but is not a JSON string; write one id on each line, and quote "
            "only ids that begin with a quotation mark or contain a line break"
        )
    return user


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
