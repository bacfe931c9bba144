"""Data files: their format, and their decompressed content."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa

from puma_hub.errors import ConfigurationError, InteractionsError, StorageError
from puma_hub.extensions import FORMATS

COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_MARKS = {b"\xff\xfe\x00\x00": "utf-32", b"\x00\x00\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
_BUFFER = 2**20
_UNREADABLE = (OSError, EOFError, lzma.LZMAError, zlib.error)  # pyarrow's errors of compressed files are OSErrors


def plain_name(path: Path) -> Path:
    """The path without the ending of a compressed file: ``rows.csv`` for ``rows.csv.gz``."""
    return path.with_suffix("") if path.suffix.lower() in COMPRESSED else path


def kind_of(path: Path) -> str | None:
    """The name of the file format with the file's ending, in upper or lower case; None if there is none."""
    return FORMATS.by_ending(plain_name(path).suffix)


def require_kind(path: Path) -> str:
    """As :func:`kind_of`, with an error in place of None.

    Raises:
        StorageError: no file format has that ending.
    """
    kind = kind_of(path)
    if kind is None:
        endings = ", ".join(ending for one in FORMATS.values() for ending in one.endings)
        raise StorageError(
            f"{path} has an unknown ending; use {endings}, each also with {', '.join(COMPRESSED)}, or name the format "
            f"(format=, --format): {', '.join(FORMATS)}"
        )
    return kind


class Watched(io.RawIOBase):
    """A binary file that tells how many of its bytes are read."""

    def __init__(self, file: Any, on_read: Callable[[int], object]) -> None:
        self._file, self._on_read = file, on_read

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count: int = self._file.readinto(buffer)
        self._on_read(count)
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


@contextmanager
def open_bytes(path: Path, on_read: Callable[[int], object] = lambda count: None) -> Iterator[IO[bytes]]:
    """The file's decompressed content. The compression is recognised by the first bytes, not by the ending.

    Args:
        on_read: told how many more bytes of the file, compressed as they are, have been read.

    Raises:
        StorageError: the file cannot be read.
        InteractionsError: the file is truncated or damaged.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(8)
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
    if not start:
        raise InteractionsError(f"{path} is empty; give a file with rows")
    if start[:2] == b"PK":
        raise InteractionsError(f"{path} is a zip archive or a spreadsheet; unpack it, or save the sheet as csv")
    packing = next((name for magic, name in _MAGIC.items() if start.startswith(magic)), None)
    openers: dict[str | None, Callable[[Any], Any]] = {
        None: lambda file: file,
        "gzip": gzip.open,
        "bz2": bz2.open,
        "xz": lzma.open,
        "zstd": lambda file: io.BufferedReader(cast(Any, pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd"))),
    }
    watched = io.BufferedReader(Watched(path.open("rb", buffering=0), on_read), _BUFFER)
    with watched, openers[packing](watched) as opened:
        try:
            yield opened
        except _UNREADABLE as error:
            if packing is None or isinstance(error, (InteractionsError, StorageError)):
                raise
            raise InteractionsError(f"{path} is truncated or damaged: {error}; copy it again") from error


def encoding_of(path: Path, named: str | None) -> str:
    """The named encoding, or the one of the file's byte order mark, else UTF-8."""
    if named is not None:
        try:
            "".encode(named)
        except LookupError as error:
            raise ConfigurationError(f"there is no encoding {named!r}; use utf-8, utf-16 or cp1252") from error
        return "utf-8-sig" if named.lower().replace("_", "-") in ("utf-8", "utf8") else named
    with open_bytes(path) as file:
        start = file.read(4)
    return next((name for mark, name in _MARKS.items() if start.startswith(mark)), "utf-8-sig")


@contextmanager
def open_text(path: Path, encoding: str) -> Iterator[io.TextIOWrapper]:
    """The file's text with unchanged line ends.

    Raises:
        InteractionsError: the text is not in ``encoding``. The message has the line.
    """
    with open_bytes(path) as file, io.TextIOWrapper(file, encoding=encoding, newline="") as text:
        try:
            yield text
        except UnicodeError as error:
            raise InteractionsError(
                f"{path} is not text in {encoding.removesuffix('-sig')}{_where(path, encoding)}; name its encoding, "
                "such as encoding='cp1252' or 'utf-16' (--encoding)"
            ) from error


def _where(path: Path, encoding: str) -> str:
    """Names the first line that cannot be decoded, for encodings in which the newline is a single byte."""
    if encoding.startswith(("utf-16", "utf-32")):
        return ""
    with open_bytes(path) as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode(encoding)
            except UnicodeError:
                return f" (line {number})"
    return ""
